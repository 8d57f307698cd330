"""What GGUF says of a model: its architecture's name, its keys, and how Hugging Face's tensors are turned into its own.

llama and gemma 3 are proven with real files; every family by random models, whose logits llama.cpp gives too
(tests/interop). Pre-tokenizers other than those two families' follow llama.cpp's source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor

from qlab.errors import QlabError

Key = tuple[str, str, Any]
"""A key of the file: its name, the type it is stored in (u32, f32, bool, str), its value."""


@dataclass(frozen=True)
class Architecture:
    """How one `model_type` of transformers is written.

    name: `general.architecture`. paired: rotary pairs are neighbours, so that rows of q and k are reordered.
    unit_offset: the model multiplies norms by 1 + weight, the file holds that sum. layer_norm: its norms are
    LayerNorms. own_head_size: the size of a head is always written.
    """

    name: str
    paired: bool = False
    unit_offset: bool = False
    layer_norm: bool = False
    own_head_size: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", paired=True),
    "mistral": Architecture("llama", paired=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", own_head_size=True),
    "gemma": Architecture("gemma", unit_offset=True, own_head_size=True),
    "gemma2": Architecture("gemma2", unit_offset=True, own_head_size=True),
    "gemma3_text": Architecture("gemma3", unit_offset=True, own_head_size=True),
    "phi": Architecture("phi2", layer_norm=True),
    "phi3": Architecture("phi3"),
}
"""By the `model_type` of transformers' configurations."""


def architecture_of(config: Any) -> Architecture:
    """The architecture of a config; QlabError for one that GGUF files are not written for here."""
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise QlabError(f"cannot write {config.model_type} as GGUF: qlab converts {', '.join(ARCHITECTURES)}")
    return found


def head_size(config: Any) -> int:
    """Channels of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def keys(config: Any) -> Iterator[Key]:
    """Every key `ARCHITECTURE.…` of a model with this config, in the types that llama.cpp's loader demands."""
    arch = architecture_of(config)
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    rope = _rope(config)
    dimensions = int(head_size(config) * float(rope.get("partial_rotary_factor", 1.0)))
    found: list[Key] = [
        ("context_length", "u32", config.max_position_embeddings),
        ("embedding_length", "u32", config.hidden_size),
        ("block_count", "u32", config.num_hidden_layers),
        ("feed_forward_length", "u32", config.intermediate_size),
        ("attention.head_count", "u32", config.num_attention_heads),
        ("attention.head_count_kv", "u32", kv_heads),
        ("rope.dimension_count", "u32", dimensions),
        ("rope.freq_base", "f32", float(rope.get("rope_theta", 10000.0))),
        ("vocab_size", "u32", config.vocab_size),
    ]
    if arch.layer_norm:
        found.append(("attention.layer_norm_epsilon", "f32", config.layer_norm_eps))
    else:
        found.append(("attention.layer_norm_rms_epsilon", "f32", config.rms_norm_eps))
    if arch.own_head_size or head_size(config) * config.num_attention_heads != config.hidden_size:
        found += [(f"attention.{which}_length", "u32", head_size(config)) for which in ("key", "value")]
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (value := getattr(config, name, None)) is not None:
            found.append((name, "f32", float(value)))
    window = getattr(config, "sliding_window", None)
    if window and arch.name in ("gemma2", "gemma3", "phi3"):
        found.append(("attention.sliding_window", "u32", int(window)))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        found += [("rope.scaling.type", "str", kind), ("rope.scaling.factor", "f32", float(rope["factor"]))]
    if kind == "yarn" and (original := rope.get("original_max_position_embeddings")):
        found.append(("rope.scaling.original_context_length", "u32", int(original)))
    if kind not in ("default", "linear", "yarn", "llama3"):
        raise QlabError(f"rope scaling {kind!r} cannot be written as GGUF: qlab knows linear, yarn and llama3")
    for name, type_, value in found:
        yield f"{arch.name}.{name}", type_, value


def rope_factors(config: Any) -> Tensor | None:
    """Llama 3.1's factor for each rotary frequency, float32 [head / 2]; None without such scaling.

    Long waves are slowed by the whole factor, short ones not at all, those between smoothly.
    """
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    factor, low, high = (float(rope[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(rope["original_max_position_embeddings"])
    size = head_size(config)
    wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()


def _rope(config: Any) -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:  # gemma 3: other layers have a base of their own, which llama.cpp knows
        rope = rope["full_attention"]
    return dict(rope)


class NameMap:
    """From Hugging Face's tensor names to GGUF's; the table is the `gguf` package's."""

    def __init__(self, config: Any):
        arch = architecture_of(config).name
        kind = next(member for member, name in MODEL_ARCH_NAMES.items() if name == arch)
        self._map = get_tensor_name_map(kind, config.num_hidden_layers)
        self._arch = arch

    def get(self, name: str) -> str | None:
        """`model.layers.3.mlp.up_proj.weight` → `blk.3.ffn_up.weight`; None for what has no place in such a file."""
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        return None if found is None else str(found)

    def __call__(self, name: str) -> str:
        """The same; QlabError where there is no place."""
        found = self.get(name)
        if found is None:
            raise QlabError(f"{name} has no place in a GGUF file of {self._arch}: the model is not built as its family")
        return found


def to_gguf(name: str, W: Tensor, config: Any) -> Tensor:
    """A tensor as the file holds it: rows of q and k in the order of its rotary pairs, norms with their 1 added."""
    arch = architecture_of(config)
    if arch.paired and (heads := _rotated(name, config)):
        return W.reshape(heads, 2, -1, *W.shape[1:]).swapaxes(1, 2).reshape(W.shape)
    return W + 1 if arch.unit_offset and name.endswith("norm.weight") else W


def from_gguf(name: str, W: Tensor, config: Any) -> Tensor:
    """The inverse of `to_gguf`; `name` is Hugging Face's."""
    arch = architecture_of(config)
    if arch.paired and (heads := _rotated(name, config)):
        if len(W) % (2 * heads):
            raise QlabError(f"{name} has {len(W)} rows, which do not make pairs in {heads} heads")
        return W.reshape(heads, -1, 2, *W.shape[1:]).swapaxes(1, 2).reshape(W.shape)
    return W - 1 if arch.unit_offset and name.endswith("norm.weight") else W


def _rotated(name: str, config: Any) -> int:
    """How many heads a tensor's rows belong to if they are rotated, else 0."""
    if ".q_proj." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in name else 0
