"""The header of a GGUF file, read strictly: a hostile or cut-off file gets an error, not memory.

Layout (little-endian): magic "GGUF", version u32, tensor count u64, key count u64, the keys, then per tensor
name, dimension count u32, dimensions u64 (fastest first), type u32, offset u64 into the aligned data that follows.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from qlab.errors import QlabError

_STRING, _ARRAY = GGUFValueType.STRING, GGUFValueType.ARRAY
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: shape slowest dimension first, ggml type name, byte range within the data section."""

    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says of itself: scalar and string keys (arrays only by their length), and its tensors."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GGUFHeader:
    """Parse and check the header, down to the last tensor's last byte. Errors: QlabError naming file and reason."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(data).header()
    except OSError as error:
        raise QlabError(f"cannot read the GGUF file: {path}: {error.strerror}; check the path") from None
    except (ValueError, struct.error) as error:
        problem = f"not a readable GGUF file: {path}: {error}"
        raise QlabError(f"{problem}; download or convert it again") from None


class _Cursor:
    """A position in the file; every read is bounds-checked by struct or by `skip`."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def header(self) -> GGUFHeader:
        if self.data[:4] != b"GGUF":
            raise ValueError("it does not start with the letters GGUF")
        self.skip(4)
        if (version := self.scalar("I")) not in (2, 3):
            raise ValueError(f"version {version} is not 2 or 3")
        tensors, keys = self.scalar("Q"), self.scalar("Q")
        metadata = {self.string(): self.value() for _ in range(self.bounded(keys))}
        infos = {self.string(): self.tensor() for _ in range(self.bounded(tensors))}
        self.check_data(infos, metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
        return GGUFHeader(metadata, infos)

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def skip(self, count: int) -> int:
        start = self.at
        if count > len(self.data) - start:
            raise ValueError(f"cut off or damaged at byte {start}")
        self.at += count
        return start

    def bounded(self, count: int) -> int:
        # Every element takes at least one byte, so a larger count is a lie.
        if count > len(self.data) - self.at:
            raise ValueError(f"a count of {count} at byte {self.at} exceeds the file")
        return int(count)

    def string(self) -> str:
        start = self.skip(self.scalar("Q"))
        return self.data[start : self.at].decode("utf-8")

    def value(self) -> Any:
        kind = self.scalar("I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array_length()
        return self.scalar(_code(kind))

    def array_length(self) -> int:
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            for _ in range(self.bounded(count)):
                self.skip(self.scalar("Q"))
        else:
            self.skip(count * struct.calcsize("<" + _code(kind)))
        return int(count)

    def tensor(self) -> TensorInfo:
        if (dimensions := self.scalar("I")) > _MAX_DIMENSIONS:
            raise ValueError(f"a tensor with {dimensions} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))[::-1]
        kind = GGMLQuantizationType(self.scalar("I"))
        block, block_bytes = GGML_QUANT_SIZES[kind]
        return TensorInfo(shape, kind.name, self.scalar("Q"), prod(shape) // block * block_bytes)

    def check_data(self, infos: dict[str, TensorInfo], alignment: int) -> None:
        start = -(-self.at // alignment) * alignment
        for name, info in infos.items():
            if start + info.offset + info.nbytes > len(self.data):
                raise ValueError(f"cut off: the data of tensor {name} is not all there")


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"unknown value type {kind}")
    return _SCALARS[kind]
