"""The transformers config that a GGUF file's keys describe: the inverse of `architectures.keys`.

Where a key is missing, llama.cpp's own default stands; what llama.cpp knows by itself (gemma's attention scale and
sliding layers) is filled in as it does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from qlab.errors import QlabError
from qlab.ggml.architectures import ARCHITECTURES, rope_factors

_LARGEST = 1 << 24
"""No dimension of a model is larger; a hostile one ends here."""
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What every model with Llama 3.1's rope scaling has beside its factor."""
_WIDE_GEMMA = {("gemma2", 46), ("gemma3", 62)}
"""The 27B models, by layers: llama.cpp scales their attention by the width of the residual, not of a head."""

Shapes = Mapping[str, tuple[int, ...]]


class Keys:
    """The keys `ARCHITECTURE.…` of a file, each checked when it is asked for."""

    def __init__(self, metadata: Mapping[str, Any]):
        self.metadata = metadata
        self.architecture = str(metadata.get("general.architecture", "unnamed"))

    def get(self, name: str, default: Any = None) -> Any:
        """A key's value as it stands."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    def count(self, name: str, default: int | None = None) -> int:
        """A dimension: a positive integer, the same for all layers where a file gives one for each."""
        value = self.get(name, default)
        if value is None:
            raise QlabError(f"it lacks the key {self.architecture}.{name}")
        if hasattr(value, "tolist"):
            each = set(value.tolist())
            if len(each) != 1:
                raise QlabError(f"{self.architecture}.{name} differs from layer to layer, which qlab does not read")
            value = each.pop()
        if not 0 < int(value) <= _LARGEST:
            raise QlabError(f"{self.architecture}.{name} is {value}: no model is built so")
        return int(value)


def config_of(metadata: Mapping[str, Any], shapes: Shapes) -> Any:
    """The config of the model whose keys and tensor shapes (slowest dimension first) a file has.

    Errors: QlabError for an architecture that is not read here, and keys that are missing or contradict the tensors.
    """
    keys = Keys(metadata)
    kind = next((kind for kind, a in ARCHITECTURES.items() if a.name == keys.architecture), None)
    if kind is None:
        known = ", ".join(dict.fromkeys(a.name for a in ARCHITECTURES.values()))
        raise QlabError(f"its architecture is {keys.architecture}: qlab reads {known}")
    layers = {int(match[1]) for name in shapes if (match := re.match(r"blk\.(\d{1,6})\.", name))}
    count = keys.count("block_count")
    if len(layers) != count or max(layers) != count - 1:
        raise QlabError(f"{keys.architecture}.block_count is {count}, it has the tensors of {len(layers)} blocks")
    if "token_embd.weight" not in shapes:
        raise QlabError("it has no token_embd.weight: it is not a whole model")
    return AutoConfig.for_model(kind, **_fields(keys, shapes))


def _fields(keys: Keys, shapes: Shapes) -> dict[str, Any]:
    heads, hidden = keys.count("attention.head_count"), keys.count("embedding_length")
    size = keys.count("attention.key_length", hidden // heads)
    fields: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": keys.count("block_count"),
        "intermediate_size": keys.count("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": keys.count("context_length"),
        "vocab_size": shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in shapes,
        "rope_parameters": _rope(keys, size),
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in shapes,
    }
    for field, name in (("rms_norm_eps", "layer_norm_rms_epsilon"), ("layer_norm_eps", "layer_norm_epsilon")):
        if (epsilon := keys.get(f"attention.{name}")) is not None:
            fields[field] = float(epsilon)
    for field in ("bos", "eos", "padding"):
        token = keys.metadata.get(f"tokenizer.ggml.{field}_token_id")
        fields[f"{field.replace('padding', 'pad')}_token_id"] = None if token is None else int(token)
    if keys.architecture.startswith("gemma"):
        fields |= _gemma(keys, hidden, heads, size)
    return fields


def _gemma(keys: Keys, hidden: int, heads: int, size: int) -> dict[str, Any]:
    """What llama.cpp knows of gemma 2 and 3 without being told."""
    name, layers = keys.architecture, keys.count("block_count")
    if name == "gemma":
        return {}
    fields = {
        cap: None if (value := keys.get(cap)) is None else float(value)
        for cap in ("attn_logit_softcapping", "final_logit_softcapping")
    }
    period = {"gemma2": 2, "gemma3": 6}[name]
    window = keys.count("attention.sliding_window", 4096)
    scale = hidden // heads if (name, layers) in _WIDE_GEMMA else size
    return {
        **fields, "query_pre_attn_scalar": scale, "sliding_window": window,
        "layer_types": ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(layers)],
    }  # fmt: skip


def _rope(keys: Keys, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": float(keys.get("rope.freq_base", 10000.0))}
    if (rotated := keys.count("rope.dimension_count", size)) != size:
        found["partial_rotary_factor"] = rotated / size
    kind = keys.get("rope.scaling.type", "none")
    if kind in ("linear", "yarn"):
        found |= {"rope_type": kind, "factor": float(keys.get("rope.scaling.factor", 1.0))}
    elif kind != "none":
        raise QlabError(f"its rope scaling is {kind!r}: qlab reads linear, yarn and Llama 3.1's")
    if kind == "yarn" and keys.get("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = keys.count("rope.scaling.original_context_length")
    if keys.architecture == "gemma3":  # layers with a window have a base of their own
        local = {"rope_type": "default", "rope_theta": float(keys.get("rope.freq_base_swa", 10000.0))}
        return {"full_attention": found, "sliding_attention": local}
    return found


def with_rope_factors(config: Any, factors: Tensor) -> Any:
    """`config` with Llama 3.1's scaling, which a file tells by its factor for each frequency [head / 2]."""
    scaled = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    config.rope_parameters = dict(config.rope_parameters) | scaled
    expected = rope_factors(config)
    if expected is None or expected.shape != factors.shape or not torch.allclose(expected, factors, rtol=1e-4):
        raise QlabError("rope_freqs.weight is not Llama 3.1's scaling of frequencies, the only one qlab reads")
    return config
