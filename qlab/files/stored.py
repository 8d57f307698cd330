"""Tensors of a Hugging Face folder and the places they belong: read one by one, each asked for exactly once."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from qlab.errors import QlabError
from qlab.files.shards import shard_files

AGAIN = "copy or download it again"
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")  # old checkpoints hold what is computed today


class StoredTensors:
    """The tensors of a folder by name, and which of them nobody asked for yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file_of: dict[str, Path] = {}
        self._asked: set[str] = set()
        self._open = ExitStack()
        self._handles: dict[Path, Any] = {}

    def __enter__(self) -> StoredTensors:
        for path in shard_files(self.folder):
            handle = self._handles[path] = self._open.enter_context(safe_open(path, framework="pt"))
            for name in handle.keys():  # noqa: SIM118 (a handle is no dict)
                if name in self.file_of:
                    raise QlabError(f"{name} stands in {self.file_of[name]} and in {path}: remove the stray file")
                self.file_of[name] = path
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def __getitem__(self, name: str) -> Tensor:
        self._asked.add(name)
        tensor: Tensor = self._handles[self.file_of[name]].get_tensor(name)
        return tensor

    def under(self, module: str) -> dict[str, Tensor]:
        """The tensors of one module, by what follows its name."""
        prefix = f"{module}."
        return {name.removeprefix(prefix): self[name] for name in self.file_of if name.startswith(prefix)}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the file's header."""
        return tuple(self._handles[self.file_of[name]].get_slice(name).get_shape())

    def left(self) -> list[str]:
        """Names of tensors that nobody asked for."""
        return sorted(self.file_of.keys() - self._asked)


def skeleton(folder: Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model with parameters that have no memory yet, and buffers as it computes them."""
    try:
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
        model.tie_weights()  # the context above broke the ties
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise QlabError(f"transformers cannot build the model of {folder}: {reason}; check its config.json") from error
    return model


def fill(
    model: PreTrainedModel, stored: StoredTensors, dtype: torch.dtype, wanted: Callable[[str], bool] = lambda _: True
) -> None:
    """Give every wanted parameter without memory, and every wanted buffer that is stored, what the files hold."""
    names: dict[int, list[str]] = {}  # tied parameters are one, under several names
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta and wanted(name):
            names.setdefault(id(parameter), []).append(name)
    places = dict(model.named_parameters(remove_duplicate=False))
    missing = [tied[0] for tied in names.values() if not any(name in stored for name in tied)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise QlabError(f"incomplete checkpoint: {stored.folder} lacks {missing[0]}{more}; {AGAIN}")
    for tied in names.values():
        shape = places[tied[0]].shape
        first = next(name for name in tied if name in stored)
        shared = nn.Parameter(cast_stored(stored, first, stored[first], shape, dtype), requires_grad=False)
        for name in tied:  # where the file holds each of them, they are not tied
            if name in stored and name != first:
                own = cast_stored(stored, name, stored[name], shape, dtype)
                if not torch.equal(own, shared):
                    _set(model, name, nn.Parameter(own, requires_grad=False))
                    continue
            _set(model, name, shared)
    for name, buffer in persistent_buffers(model):
        if not wanted(name):
            continue
        if name not in stored:
            raise QlabError(f"incomplete checkpoint: {stored.folder} lacks {name}; {AGAIN}")
        buffer.copy_(cast_stored(stored, name, stored[name], buffer.shape, buffer.dtype))


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that a file holds, by name."""
    kept = model.state_dict(keep_vars=True).keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, parameter)


def cast_stored(stored: StoredTensors, name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, or QlabError if its shape is another or it holds codes where numbers are expected."""
    if tensor.shape != shape:
        shapes = f"{name} is {tuple(tensor.shape)} where its config.json says {tuple(shape)}"
        raise QlabError(f"checkpoint and config disagree: {stored.folder}: {shapes}; copy both from one model")
    if tensor.is_floating_point() != dtype.is_floating_point:
        raise QlabError(f"{stored.file_of[name]}: {name} holds {tensor.dtype}, the model {dtype}; {AGAIN}")
    return tensor.to(dtype)


def ignored(name: str, model: PreTrainedModel) -> bool:
    """Whether a tensor without a place is known to be of no use."""
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    return bool(_COMPUTED.search(name)) or any(re.search(pattern, name) for pattern in patterns)
