"""Families: in double precision, folding any scales into any family leaves the logits where they were."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from qlab.errors import QlabError
from qlab.families import FAMILIES, Fold, applicable, family_of, fold_scale

IDS = torch.arange(12).reshape(1, 12)
ATTENTION_OUT = {"self_attn.o_proj", "self_attn.dense"}


def tiny(family: str, kv_heads: int = 4, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two blocks of random weights, biases and norms; 4 heads of 16, an MLP of 96 (no multiple of 64)."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **sizes, **heads, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


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


def random_scale(block: nn.Module, fold: Fold) -> Tensor:
    n = block.get_submodule(fold.linears[0]).in_features
    return torch.exp(torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64))


def blocks(model: nn.Module) -> nn.ModuleList:
    return model.get_submodule(FAMILIES[model.config.model_type].blocks)


def deviation(model: nn.Module, change) -> float:
    """The largest change of a logit, relative to the largest logit, when `change(block, fold)` meets every fold."""
    before = logits(model)
    for block in blocks(model):
        for fold in FAMILIES[model.config.model_type].folds:
            if applicable(fold, block):
                change(block, fold)
    return float((logits(model) - before).abs().max() / before.abs().max())


def scale_at_random(block: nn.Module, fold: Fold) -> None:
    fold_scale(block, fold, random_scale(block, fold))


@contextmanager
def every_linear_must_change(model: nn.Module, names: set[str]) -> Iterator[None]:
    before = {n: m.weight.clone() for n, m in blocks(model)[0].named_modules() if isinstance(m, nn.Linear)}
    yield
    after = dict(blocks(model)[0].named_modules())
    assert {n for n, weight in before.items() if not torch.equal(weight, after[n].weight)} == names


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_folding_every_scale_leaves_the_logits(family: str, kv_heads: int) -> None:
    model = tiny(family, kv_heads)
    linears = {n for n, m in blocks(model)[0].named_modules() if isinstance(m, nn.Linear)}
    untouched = {"mlp.fc2"} | (ATTENTION_OUT if kv_heads != 4 else set())
    with every_linear_must_change(model, linears - untouched):
        assert deviation(model, scale_at_random) < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_of_a_block_is_in_one_fold(family: str) -> None:
    block = blocks(tiny(family))[0]
    folded = Counter(name for fold in FAMILIES[family].folds for name in fold.linears)
    linears = [n for n, m in block.named_modules() if isinstance(m, nn.Linear)]
    assert folded == Counter(linears)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_linears_of_a_fold_read_one_tensor_in_the_order_of_the_folds(family: str) -> None:
    model, order = tiny(family), []
    for name, module in blocks(model)[0].named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, n=name: order.append((n, args[0])))
    logits(model)
    inputs = dict(order)
    for fold in FAMILIES[family].folds:
        assert all(inputs[name] is inputs[fold.linears[0]] for name in fold.linears)
    first_reads = [name for name, _ in order if any(name == fold.linears[0] for fold in FAMILIES[family].folds)]
    assert first_reads == [fold.linears[0] for fold in FAMILIES[family].folds]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_grouped_queries_forbid_the_fold_into_the_values(family: str) -> None:
    for kv_heads in (1, 2, 4):
        block = blocks(tiny(family, kv_heads))[0]
        refused = {name for fold in FAMILIES[family].folds if not applicable(fold, block) for name in fold.linears}
        assert refused - {"mlp.fc2"} == (set() if kv_heads == 4 else refused & ATTENTION_OUT)
        assert bool(refused & ATTENTION_OUT) == (kv_heads != 4)


@pytest.mark.parametrize(
    ("family", "mistake"),
    [
        ("gemma", {"unit_offset": False}),
        ("gemma3_text", {"unit_offset": False}),
        ("llama", {"unit_offset": True}),
        ("phi", {"linears": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}),
    ],
)
def test_the_logits_would_show_a_wrong_fact(family: str, mistake: dict) -> None:
    model = tiny(family)
    wrong = replace(FAMILIES[family].folds[0], **mistake)
    before = logits(model)
    scale_at_random(blocks(model)[0], wrong)
    assert (logits(model) - before).abs().max() > 1e-3 * before.abs().max()


def test_a_fused_linear_gives_its_last_rows_only() -> None:
    block = blocks(tiny("phi3"))[0]
    before = block.mlp.gate_up_proj.weight.clone()
    fold = FAMILIES["phi3"].folds[3]
    fold_scale(block, fold, torch.full((96,), 2.0))
    assert torch.equal(block.mlp.gate_up_proj.weight[:96], before[:96])
    assert torch.equal(block.mlp.gate_up_proj.weight[96:], before[96:] / 2)


def test_sixteen_bits_are_rounded_once() -> None:
    exact, block = (blocks(tiny("gemma", dtype=dtype))[0] for dtype in (torch.float64, torch.bfloat16))
    exact.load_state_dict(block.state_dict())
    fold = FAMILIES["gemma"].folds[0]
    scale = random_scale(block, fold).float()
    fold_scale(block, fold, scale)
    fold_scale(exact, fold, scale.double())
    # half a unit in the last of 8 bits is at most 2^−8 of the number; then three float32 roundings of numbers below 32
    for name in ("input_layernorm", *fold.linears):
        weight, wanted = block.get_submodule(name).weight, exact.get_submodule(name).weight
        assert ((weight.double() - wanted).abs() <= 2**-8 * wanted.abs() + 3 * 2**-20).all()


def test_an_unknown_family_is_none() -> None:
    assert family_of("mamba") is None
    assert family_of("llama") is FAMILIES["llama"]


@pytest.mark.parametrize("scale", [torch.ones(63), -torch.ones(64), torch.zeros(64), torch.full((64,), torch.inf)])
def test_a_senseless_scale_is_refused_and_changes_nothing(scale: Tensor) -> None:
    model = tiny("llama")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(QlabError, match=r"a scale for self_attn.q_proj must be 64 positive, finite numbers"):
        fold_scale(blocks(model)[0], FAMILIES["llama"].folds[0], scale)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(QlabError, match="no scale of mlp.fc2 can go into None: leave this fold out"):
        fold_scale(blocks(tiny("phi"))[0], FAMILIES["phi"].folds[2], torch.ones(96))
    with pytest.raises(QlabError, match="no scale of self_attn.o_proj can go into self_attn.v_proj"):
        fold_scale(blocks(tiny("llama", 2))[0], FAMILIES["llama"].folds[1], torch.ones(64))
    block = blocks(tiny("llama"))[0]
    with pytest.raises(QlabError, match="PhiDecoderLayer is not built as its family: .*quantize it unscaled"):
        applicable(FAMILIES["llama"].folds[1], blocks(tiny("phi"))[0])
    block.mlp.down_proj = nn.Identity()
    with pytest.raises(QlabError, match="mlp.down_proj: no float linears"):
        applicable(FAMILIES["llama"].folds[3], block)
