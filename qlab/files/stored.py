"""Tensors of a Hugging Face folder and the places they belong: read one by one, each asked for exactly once."""

from __future__ import annotations

import copy
import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from qlab.errors import QlabError
from qlab.files.shards import Entry, entries, shard_files
from qlab.packed import ROWS, Packed, pack_floats, packs_floats

AGAIN = "copy or download it again"
AT_ONCE = 1 << 18
"""Numbers of a matrix that are read at a time."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
M_MMAP_THRESHOLD = -3  # malloc.h
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")  # old checkpoints hold what is computed today


class Tensors(Protocol):
    """Tensors by Hugging Face's names, wherever they are stored. describes: what says which shapes they have."""

    folder: Path
    describes: str

    def __contains__(self, name: str) -> bool: ...

    def __getitem__(self, name: str) -> Tensor: ...


class StoredTensors:
    """The tensors of a folder by name, read one at a time, and which of them nobody asked for yet.

    Files are read, not mapped: a checkpoint larger than the memory a process may have costs no more than its tensors.
    """

    describes = "config.json"

    def __init__(self, folder: Path):
        self.folder = folder
        self._asked: set[str] = set()
        self._entries: dict[str, Entry] = {}
        for entry in (entry for path in shard_files(folder) for entry in entries(path)):
            if entry.name in self._entries:
                raise QlabError(f"{entry.name} stands in {self.file_of[entry.name]} and in {entry.path}: "
                                "remove the stray file")  # fmt: skip
            self._entries[entry.name] = entry

    @property
    def file_of(self) -> dict[str, Path]:
        """The file of each tensor."""
        return {name: entry.path for name, entry in self._entries.items()}

    @property
    def dtype(self) -> torch.dtype:
        """The one float dtype of all tensors; QlabError where they are of several."""
        stored = {entry.dtype for entry in self._entries.values()}
        found = sorted(name for name in stored if DTYPES[name].is_floating_point)
        if len(found) != 1:
            raise QlabError(f"{self.folder} holds tensors of {' and '.join(found)}: compute in float32")
        return DTYPES[found[0]]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Tensor:
        return self._read(self._entries[name])

    def packed(self, module: str) -> Packed | None:
        """The float weight of a module for the CPU kernels, read some rows at a time; None where they have none."""
        entry = self._entries.get(f"{module}.weight")
        dtype = DTYPES.get(entry.dtype) if entry else None
        if entry is None or dtype is None or not packs_floats(entry.shape, dtype):
            return None
        rows, columns = entry.shape
        step = max(ROWS, AT_ONCE // columns // ROWS * ROWS)
        parts = (self._read(_rows(entry, at, min(step, rows - at))) for at in range(0, rows, step))
        return pack_floats(parts, (rows, columns))

    def _read(self, entry: Entry) -> Tensor:
        self._asked.add(name := entry.name)
        try:
            with entry.path.open("rb") as file:
                file.seek(entry.start)
                data = bytearray(file.read(entry.size))
            return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).reshape(entry.shape)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            what = f"{name}, {entry.dtype} {list(entry.shape)} in {entry.size} bytes"
            raise QlabError(f"damaged weights: {entry.path}: {what}; {AGAIN}") from error

    def under(self, module: str) -> dict[str, Tensor]:
        """The tensors of one module, by what follows its name."""
        prefix = f"{module}."
        return {name.removeprefix(prefix): self[name] for name in self._entries if name.startswith(prefix)}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the file's header."""
        return self._entries[name].shape

    def left(self) -> list[str]:
        """Names of tensors that nobody asked for."""
        return sorted(self._entries.keys() - self._asked)


def _rows(entry: Entry, first: int, count: int) -> Entry:
    """`count` rows of a matrix."""
    row = entry.size // entry.shape[0]
    return replace(entry, shape=(count, *entry.shape[1:]), start=entry.start + first * row, size=count * row)


def skeleton(folder: Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model with parameters that have no memory yet, and buffers as it computes them."""
    # imported before transformers has been, accelerate makes huggingface_hub print that it cannot import itself
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

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
    model: PreTrainedModel, stored: Tensors, dtype: torch.dtype, wanted: Callable[[str], bool] = lambda _: True
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


def cast_stored(stored: Tensors, name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, or QlabError if its shape is another or it holds codes where numbers are expected."""
    check_shape(stored, name, tensor.shape, shape)
    if tensor.is_floating_point() != dtype.is_floating_point:
        raise QlabError(f"{stored.folder}: {name} holds {tensor.dtype}, the model {dtype}; {AGAIN}")
    return tensor.to(dtype)


def check_shape(stored: Tensors, name: str, found: torch.Size, shape: torch.Size) -> None:
    """QlabError where a tensor's shape is not the model's."""
    if found != shape:
        shapes = f"{name} is {tuple(found)} where its {stored.describes} says {tuple(shape)}"
        raise QlabError(f"checkpoint and config disagree: {stored.folder}: {shapes}; copy both from one model")


def ignored(name: str, model: PreTrainedModel) -> bool:
    """Whether a tensor without a place is known to be of no use."""
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    return bool(_COMPUTED.search(name)) or any(re.search(pattern, name) for pattern in patterns)


def return_freed_memory() -> None:
    """Let glibc give large tensors back to the system when they are freed, and give back now what is free.

    By default it soon keeps them in its heap, whose aligned allocations leave gaps: address space then grows by what
    was freed long ago, and meets a limit on the process (RLIMIT_DATA) that the tensors are far from.
    """
    libc = ctypes.CDLL(None)
    if mallopt := getattr(libc, "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 2**18)
    if trim := getattr(libc, "malloc_trim", None):
        trim(0)
