"""A tiny Llama, quantized, and a tokenizer: what folders of these tests are made of."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qlab.recipes import Recipe
from qlab.run import quantize_

IDS = torch.arange(24).reshape(2, 12)


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{i}": i for i in range(32)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="w0")))


def tiny(recipe: Recipe | str | None = None, *, tied: bool = True, bias: bool = False) -> LlamaForCausalLM:
    """Two blocks 64 wide with an MLP of 96, quantized by `recipe` if one is given."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, vocab_size=32, tie_word_embeddings=tied, attention_bias=bias, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    if recipe is not None:
        quantize_(model, recipe, progress=False)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits
