"""Text, token by token: llama-family models on packed weights in C++ with a static cache, any other model in torch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from qlab.errors import QlabError
from qlab.ggml.architectures import head_size
from qlab.kernels import cpu
from qlab.models import LoadedModel
from qlab.nn import FloatLinear, QEmbedding, QLinear
from qlab.packed import Packed
from qlab.tiles import Tiled

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Whose block the C++ decoder is."""


class TorchDecoder:
    """Any causal model of transformers, with its own cache."""

    path = "torch"

    def __init__(self, model: nn.Module):
        self.model, self.cache = model, DynamicCache()

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """Logits [vocabulary] after the tokens `ids` [n], which follow those read before."""
        device = next(self.model.parameters()).device
        out = self.model(ids[None].to(device), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1].float().cpu()


class PackedDecoder:
    """A llama-family model whose linears are packed, on the C++ block. capacity: tokens that the cache has room for."""

    def __init__(self, model: Any, capacity: int):
        self.path = f"C++ block, {cpu.isa()} kernels"
        self._model = cpu.Decoder(_description(model, capacity))
        self._vocabulary = model.config.vocab_size

    def read(self, ids: Tensor) -> Tensor:
        """Logits [vocabulary] after the tokens `ids` [n], which follow those read before."""
        logits = torch.empty(self._vocabulary)
        self._model.read(ids.contiguous(), logits, torch.get_num_threads())
        return logits

    def rewind(self, past: int = 0) -> None:
        """Forget all but the first `past` tokens."""
        self._model.rewind(past)


def why_not_packed(model: Any) -> str | None:
    """What keeps a model from the C++ decoder; None if nothing does."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is not of the llama family"
    if getattr(config, "hidden_act", "silu") != "silu" or head_size(config) % 16:
        return "its blocks are not built as llama's"
    if getattr(config, "use_sliding_window", False) or (config.model_type == "mistral" and config.sliding_window):
        return "its attention slides over a window"
    if _rope(config).get("rope_type", "default") in ("dynamic", "longrope"):
        return "its rotary frequencies change with the length of the text"
    if not isinstance(model.get_input_embeddings(), QEmbedding):
        return "its embedding is not packed"
    loose = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    linears = {n: m for n, m in model.named_modules() if isinstance(m, QLinear)}
    loose += [n for n, m in linears.items() if not isinstance(m.weight_, Tiled)]
    if loose:
        return f"{loose[0]} is not packed ({len(loose)} linears in all)"
    if len({m.inputs for m in linears.values()}) > 1 or any(m.input_spec for m in linears.values()):
        return "its linears round their inputs in different ways"
    inputs = {m.inputs for m in linears.values()}
    if any(isinstance(m, FloatLinear) and m._forward_pre_hooks for m in model.modules()):
        return "llama.cpp rounds the inputs of float weights too"
    return "its inputs stay in floating point" if "float" in inputs else None


def decoder(model: Any, capacity: int) -> PackedDecoder | TorchDecoder:
    """The fastest decoder that a model has."""
    return TorchDecoder(model) if why_not_packed(model) else PackedDecoder(model, capacity)


@dataclass
class Generation:
    """Tokens as they come: iterate for pieces of text; afterwards, or meanwhile, what it took.

    prompt, tokens: how many; seconds of reading the prompt and of writing the tokens after the first.
    """

    path: str
    prompt: int
    ids: list[int] = field(default_factory=list)
    prompt_seconds: float = 0.0
    seconds: float = 0.0
    ended: str = ""

    @property
    def tokens_per_second(self) -> float | None:
        """Written after the first token, which the prompt's time holds; None before there are any."""
        return (len(self.ids) - 1) / self.seconds if len(self.ids) > 1 and self.seconds else None

    @property
    def prompt_per_second(self) -> float | None:
        """Tokens of the prompt read in a second."""
        return self.prompt / self.prompt_seconds if self.prompt_seconds else None


def generate(
    loaded: LoadedModel, prompt: str, tokens: int = 128, temperature: float = 0.0, seed: int = 0
) -> tuple[Generation, Iterator[str]]:
    """What happens, and the text as it is written: `tokens` at most, until the model ends it.

    temperature 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature) by `seed`.
    """
    if tokens < 1:
        raise QlabError(f"tokens is {tokens}: at least 1 is to be written")
    if not 0 <= temperature < math.inf:
        raise QlabError(f"temperature is {temperature}: 0 takes the likeliest token, a number above draws")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise QlabError(f"the prompt is not text: {error.reason} at its character {error.start}") from error
    ids = torch.tensor(loaded.tokenizer(prompt)["input_ids"], dtype=torch.int64)
    if not len(ids):
        raise QlabError("the prompt is empty: give a word to begin with")
    longest = int(getattr(loaded.model.config, "max_position_embeddings", 0) or len(ids) + tokens)
    if len(ids) >= longest:
        raise QlabError(f"the prompt has {len(ids)} tokens, the model reads {longest} at most: shorten it")
    steps = decoder(loaded.model, min(longest, len(ids) + tokens))
    told = Generation(steps.path, len(ids))
    return told, _written(loaded, steps, told, ids, min(tokens, longest - len(ids)), temperature, seed)


def _written(
    loaded: LoadedModel, steps: Any, told: Generation, ids: Tensor, tokens: int, temperature: float, seed: int
) -> Iterator[str]:
    draw, ends = torch.Generator().manual_seed(seed), _ends(loaded)
    start = time.perf_counter()
    logits = steps.read(ids)
    told.prompt_seconds = time.perf_counter() - start
    shown = ""
    start = time.perf_counter()
    while True:
        new = _chosen(logits, temperature, draw)
        if new in ends:
            told.ended = "the model ended its text"
            break
        told.ids.append(new)
        told.seconds = time.perf_counter() - start
        text = loaded.tokenizer.decode(told.ids)
        if not text.endswith("\ufffd"):  # a character may be several tokens
            yield text[len(shown) :]
            shown = text
        if len(told.ids) == tokens:
            told.ended = "the number of tokens asked for"
            break
        logits = steps.read(torch.tensor([new]))
    yield loaded.tokenizer.decode(told.ids)[len(shown) :]


def _chosen(logits: Tensor, temperature: float, draw: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    below = (logits - logits.max()).double() / temperature  # a tiny temperature leaves 0 for the likeliest, −∞ beside
    return int(torch.multinomial(torch.softmax(below, 0).float(), 1, generator=draw))


def _ends(loaded: LoadedModel) -> set[int]:
    found = loaded.model.generation_config.eos_token_id if loaded.model.generation_config else None
    found = loaded.tokenizer.eos_token_id if found is None else found
    return set(found) if isinstance(found, list) else set() if found is None else {found}


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def _description(model: Any, capacity: int) -> dict[str, Any]:
    """What `cpu.Decoder` is built from."""
    config, base = model.config, model.model
    positions = torch.arange(capacity)[None]
    half = head_size(config) // 2
    cos, sin = base.rotary_emb(torch.empty(1, 1, config.hidden_size), positions)
    layers = [
        {
            **{name: _linear(getattr(block.self_attn, f"{name}_proj")) for name in "qkvo"},
            **{name: _linear(getattr(block.mlp, f"{name}_proj")) for name in ("gate", "up", "down")},
            "attention_norm": _floats(block.input_layernorm),
            "mlp_norm": _floats(block.post_attention_layernorm),
            "q_norm": _floats(getattr(block.self_attn, "q_norm", None)),
            "k_norm": _floats(getattr(block.self_attn, "k_norm", None)),
        }
        for block in base.layers
    ]
    return {
        "hidden": config.hidden_size, "heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads,
        "head": head_size(config), "intermediate": config.intermediate_size, "capacity": capacity,
        "epsilon": config.rms_norm_eps, "vocabulary": config.vocab_size,
        "half": any(getattr(m, "inputs", "") == "llama.cpp" for m in model.modules()), "layers": layers,
        "embedding": _packed(base.embed_tokens.weight_, None), "output": _linear(model.get_output_embeddings()),
        "norm": _floats(base.norm), "cosines": cos[0, :, :half].contiguous(), "sines": sin[0, :, :half].contiguous(),
    }  # fmt: skip


def _linear(linear: QLinear | FloatLinear) -> dict[str, Any]:
    assert isinstance(linear.weight_, Packed)
    return _packed(linear.weight_, linear.bias)


def _packed(W: Packed, bias: Tensor | None) -> dict[str, Any]:
    return {"format": W.format, "codes": W.codes, "scale": W.scale, "offset": W.offset, "sub": W.sub, "group": W.group,
            "rows": W.shape[0], "order": W.order, "bias": None if bias is None else bias.detach().float()}  # fmt: skip


def _floats(norm: Any) -> Tensor | None:
    return None if norm is None else norm.weight.detach().float().contiguous()
