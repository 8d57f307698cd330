"""Tiny models of several families in double precision, and calibrations: what the tests of passes work on."""

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from qlab.blocks import BlockStream, StreamedBlock
from qlab.calibration import Calibration
from qlab.families import applicable, family_of
from qlab.spec import QuantSpec

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi")
IDS = torch.randint(0, 50, (6, 16), generator=torch.Generator().manual_seed(1))
CALIBRATION = Calibration(IDS, "random ids")


def tiny(family: str = "llama", kv_heads: int = 4, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two blocks of random weights, biases and norms; 4 heads of 16, an MLP of 96 (no multiple of 64).

    The embedding has rank 20 and channels of very different size, so that the inputs of every linear are correlated.
    """
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **heads)).to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    mix = torch.randn(50, 20) @ torch.randn(20, 64) / 20**0.5 * torch.exp(torch.randn(64))
    model.get_input_embeddings().weight.data.copy_(mix)
    return model.requires_grad_(False)


class InDouble(TorchFunctionMode):
    """The norms of transformers compute in float32 whatever the model's dtype; here they compute in float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.float:
            return args[0].double()
        double = {torch.float32: torch.float64}
        args = tuple(double.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        kwargs = {k: double.get(v, v) if isinstance(v, torch.dtype) else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    with InDouble():
        return model(input_ids=IDS, use_cache=False).logits


def block_of(model: nn.Module, spec: str, index: int = 0, float_path: bool = False) -> StreamedBlock:
    """Block `index` as the driver shows it to the first pass, all of its linears to be quantized under `spec`."""
    stream = BlockStream(model, IDS, float_path)
    for i in range(index):
        stream.advance(i)
    module = stream.blocks[index]
    linears = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    stats = stream.observe(index, linears)
    stream.advance_float(index)
    family = family_of(model.config.model_type)
    folds = [fold for fold in family.folds if applicable(fold, module)]
    specs = dict.fromkeys(linears, QuantSpec.parse(spec))
    return StreamedBlock(stream, index, {name: linears[name] for name in stats}, specs, stats, folds)
