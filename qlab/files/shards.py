"""Safetensors files without their tensors in memory: which a folder has, and how parts become shards.

A file is the length of its header (8 bytes, little-endian), the header (JSON: dtype, shape and byte range of each
tensor) padded with spaces to a multiple of 8, and the bytes, without a gap (safetensors' README, "Format").
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from qlab.errors import QlabError

MAX_SHARD_BYTES = 5_000_000_000
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHUNK = 16 * 2**20
WIDTHS = {"64": 8, "32": 4, "16": 2}  # bytes of a dtype such as BF16, by its digits; all others are bytes


@dataclass(frozen=True)
class Entry:
    """One tensor of a part file, without its numbers; start and size are bytes of that file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    size: int


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder's weights: those of its index, model.safetensors, or its only one."""
    index = folder / INDEX
    if index.is_file():
        try:
            return sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise QlabError(f"damaged index: {index}: {error}; copy or download it again") from error
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        what = f"{len(found)} safetensors files" if found else "no safetensors file"
        raise QlabError(f"{folder} has {what} and neither {WEIGHTS} nor {INDEX}; copy or download it again")
    return found


def entries(path: Path) -> list[Entry]:
    """The tensors of a safetensors file, in the order of their bytes."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
        header.pop("__metadata__", None)
        found = [
            Entry(name, t["dtype"], tuple(t["shape"]), path, 8 + length + t["data_offsets"][0], _size(t))
            for name, t in header.items()
        ]
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise QlabError(f"{path} is no safetensors file: {error}; write it again") from error
    if (end := max((e.start + e.size for e in found), default=8 + length)) > path.stat().st_size:
        raise QlabError(f"{path} ends before byte {end}: write it again")
    return sorted(found, key=lambda entry: entry.start)


def _size(tensor: Mapping[str, Any]) -> int:
    start, end = tensor["data_offsets"]
    return int(end) - int(start)


def merge_shards(
    parts: Iterable[Path], folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES, provenance: str | None = None
) -> list[Path]:
    """Write the tensors of `parts` as model.safetensors, or as numbered shards with an index, and return those files.

    Bytes are copied in pieces of 16 MiB, whatever the model's size, and depend on nothing but the parts' contents and
    order. `provenance` (JSON) is stored in every file's metadata as `qlab_provenance`. Errors: QlabError for a tensor
    in two parts, damaged parts, and a disk that refuses.
    """
    found: dict[str, Entry] = {}
    for entry in (entry for part in parts for entry in entries(part)):
        if entry.name in found:
            raise QlabError(f"{entry.name} stands in {found[entry.name].path} and in {entry.path}: remove one part")
        found[entry.name] = entry
    metadata = {"format": "pt"} | ({"qlab_provenance": provenance} if provenance else {})
    shards = list(_shards(found.values(), max_shard_bytes))
    if not shards:
        raise QlabError(f"there is no tensor to write to {folder}: the parts are empty")
    names = [WEIGHTS] if len(shards) == 1 else [_name(i, len(shards)) for i in range(len(shards))]
    try:
        for name, shard in zip(names, shards, strict=True):
            _write(folder / name, shard, metadata)
        if len(shards) > 1:
            where = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
            total = {"total_size": sum(entry.size for entry in found.values())}
            text = json.dumps({"metadata": total, "weight_map": dict(sorted(where.items()))}, indent=2)
            (folder / INDEX).write_text(text + "\n")
    except OSError as error:
        raise cannot_write(folder, error) from error
    return [folder / name for name in names]


def cannot_write(folder: Path, error: OSError) -> QlabError:
    """What a full or read-only disk says, with the remedy."""
    return QlabError(
        f"cannot write {folder}: {error.strerror or error}; free some space there, or choose another folder"
    )


def _name(i: int, count: int) -> str:
    return f"model-{i + 1:05d}-of-{count:05d}.safetensors"


def _shards(tensors: Iterable[Entry], limit: int) -> Iterator[list[Entry]]:
    """Runs of tensors of at most `limit` bytes; a larger tensor stands alone."""
    run: list[Entry] = []
    for tensor in tensors:
        if run and sum(entry.size for entry in run) + tensor.size > limit:
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


def _write(path: Path, tensors: list[Entry], metadata: dict[str, str]) -> None:
    """One file. Wide dtypes come first: without gaps, that is what keeps every tensor aligned to its own width."""
    ordered = sorted(tensors, key=lambda entry: -_width(entry.dtype))
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for entry in ordered:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.size],
        }
        offset += entry.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in ordered:
            _copy(entry, file)


def _width(dtype: str) -> int:
    return next((width for digits, width in WIDTHS.items() if dtype.endswith(digits)), 1)


def _copy(entry: Entry, file: BinaryIO) -> None:
    with entry.path.open("rb") as source:
        source.seek(entry.start)
        left = entry.size
        while left:
            piece = source.read(min(left, CHUNK))
            if not piece:
                raise QlabError(f"{entry.path} ends within {entry.name}: write it again")
            file.write(piece)
            left -= len(piece)
