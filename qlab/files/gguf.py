"""GGUF files, read strictly and mapped: a hostile or cut-off one gets an error, not memory; tensors wait to be asked.

Layout (little-endian): magic "GGUF", version u32, tensor count u64, key count u64, the keys, then per tensor name,
dimension count u32, dimensions u64 (fastest first), type u32, offset u64 into the aligned data that follows. A model
may be split over files `name-00001-of-00003.gguf`, each of which is a whole GGUF file.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from qlab.errors import QlabError

_STRING, _ARRAY = int(GGUFValueType.STRING), int(GGUFValueType.ARRAY)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_INTEGERS = frozenset({0, 1, 2, 3, 4, 5, 10, 11})
_ALIGNMENT = 32
_MAX_DIMENSIONS, _MAX_NAME = 4, 63  # ggml's own
# Far above any real model, and low enough that a hostile header ends within a second and a few megabytes.
_MAX_KEYS, _MAX_TENSORS, _MAX_STRINGS, _MAX_TEXT = 10_000, 100_000, 2_000_000, 16 << 20
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

# What known keys must hold: llama.cpp refuses other types too. A key `x.y` is looked up as `*.y` where x is no section.
_KINDS: dict[str, tuple[str, Callable[[int, int | None], bool]]] = {
    "integer": ("an integer", lambda kind, _: kind in _INTEGERS),
    "number": ("a number", lambda kind, _: kind in _INTEGERS or kind in (6, 12)),
    "flag": ("true or false", lambda kind, _: kind == 7),
    "text": ("a string", lambda kind, _: kind == _STRING),
    "texts": ("an array of strings", lambda kind, inner: kind == _ARRAY and inner == _STRING),
    "floats": ("an array of float32", lambda kind, inner: kind == _ARRAY and inner == 6),
    "integers": ("an array of int32", lambda kind, inner: kind == _ARRAY and inner in (4, 5)),
    "counts": ("an integer, or an array of them", lambda kind, inner: kind in _INTEGERS or inner in _INTEGERS),
}
_KNOWN = {
    "text": "general.architecture general.name general.type tokenizer.ggml.model tokenizer.ggml.pre "
    "tokenizer.chat_template *.rope.scaling.type",
    "integer": "general.alignment general.file_type general.quantization_version split.no split.count "
    "split.tensors.count *.block_count *.context_length *.embedding_length *.rope.dimension_count *.vocab_size "
    "*.attention.key_length *.attention.value_length *.expert_count *.expert_used_count *.attention.sliding_window "
    "tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.unknown_token_id "
    "tokenizer.ggml.padding_token_id tokenizer.ggml.eot_token_id imatrix.chunk_count imatrix.chunk_size",
    "number": "*.attention.layer_norm_rms_epsilon *.attention.layer_norm_epsilon *.rope.freq_base "
    "*.rope.scaling.factor *.attn_logit_softcapping *.final_logit_softcapping",
    "flag": "tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token tokenizer.ggml.add_space_prefix",
    "texts": "tokenizer.ggml.tokens tokenizer.ggml.merges imatrix.datasets",
    "floats": "tokenizer.ggml.scores",
    "integers": "tokenizer.ggml.token_type",
    "counts": "*.feed_forward_length *.attention.head_count *.attention.head_count_kv",
}
_KIND_OF = {key: kind for kind, keys in _KNOWN.items() for key in keys.split()}
_SECTIONS = ("general", "tokenizer", "split", "imatrix", "quantize")


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: shape slowest dimension first, ggml type name, byte range within its file."""

    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


class Metadata(Mapping[str, Any]):
    """The keys of a file; a value is decoded when it is asked for, so that long vocabularies cost nothing before."""

    def __init__(self, source: _Source, places: dict[str, tuple[int, int]]):
        self._source, self._places = source, places

    def __getitem__(self, key: str) -> Any:
        kind, at = self._places[key]
        return self._source.value(key, kind, at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def kind(self, key: str) -> str:
        """The stored type of a key, as the format names it: UINT32, STRING, ARRAY[FLOAT32]."""
        kind, at = self._places[key]
        if kind != _ARRAY:
            return GGUFValueType(kind).name
        return f"ARRAY[{GGUFValueType(self._source.scalar('I', at)).name}]"

    def length(self, key: str) -> int | None:
        """Elements of an array, None for anything else; nothing is decoded."""
        kind, at = self._places[key]
        return int(self._source.scalar("Q", at + 4)) if kind == _ARRAY else None


class GGUFFile:
    """An open GGUF file, or all files of a split model: `metadata`, `tensors`, and the bytes of one tensor at a time.

    Nothing but the header has been read. The files stay mapped for as long as this object, or an array that it gave,
    lives.
    """

    def __init__(self, parts: list[_Part]):
        self.paths = [part.path for part in parts]
        self.metadata: Metadata = parts[0].metadata
        self.tensors: dict[str, TensorInfo] = {name: info for part in parts for name, info in part.tensors.items()}
        self._source = {name: part.source for part in parts for name in part.tensors}

    @property
    def path(self) -> Path:
        """The file, the first one of a split model."""
        return self.paths[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def weights(self) -> int:
        """Numbers in all tensors."""
        return sum(prod(info.shape) for info in self.tensors.values())

    @property
    def bits_per_weight(self) -> float | None:
        """True bits over all tensors; None where there are none."""
        bits = 8 * sum(info.nbytes for info in self.tensors.values())
        return bits / self.weights if self.tensors else None

    def data(self, name: str) -> np.ndarray:
        """The stored bytes of a tensor: uint8 [..., bytes of a row], read-only, mapped from the file."""
        info = self.tensors[name]
        raw = np.frombuffer(self._source[name].map, np.uint8, info.nbytes, info.offset)
        return raw.reshape(*info.shape[:-1], -1)

    def forget(self, name: str) -> None:
        """Give back the memory of the pages that reading a tensor has mapped; they are read again when asked for."""
        self._source[name].map.madvise(mmap.MADV_DONTNEED)

    def __repr__(self) -> str:
        architecture = self.metadata.get("general.architecture", "no architecture")
        return f"GGUFFile({str(self.path)!r}, {architecture}, {len(self.tensors)} tensors, {len(self.metadata)} keys)"


def open_gguf(path: str | Path) -> GGUFFile:
    """Open a GGUF file; with one file of a split model all of them, which must lie beside each other.

    Every integer of the header is checked against the file before anything is allocated or counted through. Errors:
    QlabError (a ValueError) naming the file and the place.
    """
    path = Path(path).expanduser()
    first = _read(path)
    if first.count == 1:
        return GGUFFile([first])
    match = _SPLIT.search(path.name)
    if match is None or int(match[2]) != first.count:
        raise QlabError(f"{path} is one of {first.count} files of a split model: name them "
                        f"NAME-00001-of-{first.count:05}.gguf and so on, as they were")  # fmt: skip
    base = path.name[: match.start()]
    parts = [_read(path.with_name(f"{base}-{n + 1:05}-of-{first.count:05}.gguf")) for n in range(first.count)]
    seen: dict[str, Path] = {}
    for number, part in enumerate(parts):
        if (part.number, part.count) != (number, first.count):
            told = f"{part.number + 1} of {part.count}"
            raise QlabError(f"{part.path} says of itself that it is file {told}: copy the files of one model together")
        for name in part.tensors:
            if name in seen:
                raise QlabError(f"{name} stands in {seen[name]} and in {part.path}: they are not of one model")
            seen[name] = part.path
    if (total := parts[0].metadata.get("split.tensors.count")) not in (None, len(seen)):
        raise QlabError(f"{path} announces {total} tensors, its {len(parts)} files hold {len(seen)}: copy them again")
    return GGUFFile(parts)


def dump(value: Any, limit: int = 6) -> Any:
    """A metadata value short enough for a table: long arrays by their first elements and how many there are."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return value if not isinstance(value, list) or len(value) <= limit else [*value[:limit], f"… {len(value)} in all"]


@dataclass(frozen=True)
class _Part:
    path: Path
    source: _Source
    metadata: Metadata
    tensors: dict[str, TensorInfo]
    number: int
    count: int


def _read(path: Path) -> _Part:
    try:
        source = _Source(path)
        return _Header(source).read(path)
    except OSError as error:
        raise QlabError(f"cannot read the GGUF file: {path}: {error.strerror}; check the path") from None
    except (ValueError, struct.error) as error:
        reason = f"cut off at byte {source.size}" if isinstance(error, struct.error) else error
        raise QlabError(f"not a readable GGUF file: {path}: {reason}; download or convert it again") from None


class _Source:
    """A mapped file and the values in it."""

    def __init__(self, path: Path):
        self.path = path
        self.size = 0
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # ValueError for an empty file
        self.size = len(self.map)

    def scalar(self, code: str, at: int) -> Any:
        return struct.unpack_from("<" + code, self.map, at)[0]

    def text(self, at: int, what: str) -> tuple[str, int]:
        """The string at `at`, and where it ends."""
        end = at + 8 + self.bounded(self.scalar("Q", at), at + 8, 1, what, _MAX_TEXT)
        return self.map[at + 8 : end].decode("utf-8"), end

    def bounded(self, count: int, at: int, least: int, what: str, limit: int) -> int:
        """`count` itself if so many things of `least` bytes can stand from `at` on, and are not absurdly many."""
        if count * least > self.size - at:
            raise ValueError(f"{what}: {count} at byte {at} is more than the file holds: cut off or damaged")
        if count > limit:
            raise ValueError(f"{what}: {count} at byte {at} is more than any model has (at most {limit})")
        return count

    def value(self, key: str, kind: int, at: int) -> Any:
        """A value that `_Header` has walked over before: only a string can still be bad."""
        try:
            if kind == _STRING:
                return self.text(at, key)[0]
            if kind == _ARRAY:
                return self.array(key, at)
            return self.scalar(_SCALARS[kind], at)
        except UnicodeDecodeError as error:
            raise QlabError(f"{self.path}: {key} is not UTF-8: {error}; download or convert it again") from error

    def array(self, key: str, at: int) -> np.ndarray | list[str]:
        kind, count = self.scalar("I", at), self.scalar("Q", at + 4)
        if kind != _STRING:
            return np.frombuffer(self.map, np.dtype("<" + _SCALARS[kind]), count, at + 12)
        strings, at = [], at + 12
        for _ in range(count):
            string, at = self.text(at, key)
            strings.append(string)
        return strings


class _Header:
    """A position in a file that walks over the header once, trusting nothing."""

    def __init__(self, source: _Source):
        self.source, self.at = source, 0

    def read(self, path: Path) -> _Part:
        source = self.source
        if source.map[:4] != b"GGUF":
            raise ValueError("it does not start with the letters GGUF")
        version = source.scalar("I", 4)
        if version not in (2, 3):
            told = "it is big-endian" if version in (2 << 24, 3 << 24) else f"version {version} is not 2 or 3"
            raise ValueError(told)
        tensors, keys = source.scalar("Q", 8), source.scalar("Q", 16)
        self.at = 24
        places: dict[str, tuple[int, int]] = {}
        for _ in range(source.bounded(keys, self.at, 13, "keys", _MAX_KEYS)):
            key = self.name("a key", places, 2**16 - 1)
            places[key] = self.value(key)
        metadata = Metadata(source, places)
        infos: dict[str, TensorInfo] = {}
        for _ in range(source.bounded(tensors, self.at, 24, "tensors", _MAX_TENSORS)):
            name = self.name("a tensor's name", infos, _MAX_NAME)
            infos[name] = self.tensor(name)
        count = metadata.get("split.count", 0) or 1
        return _Part(path, source, metadata, self.placed(infos, metadata), metadata.get("split.no", 0), count)

    def scalar(self, code: str) -> Any:
        value = self.source.scalar(code, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def name(self, what: str, known: Mapping[str, Any], limit: int) -> str:
        start = self.at
        self.source.bounded(self.source.scalar("Q", start), start + 8, 1, what, limit)
        name, self.at = self.source.text(start, what)
        if name in known:
            raise ValueError(f"{what} at byte {start} stands there twice: {name!r}")
        return name

    def value(self, key: str) -> tuple[int, int]:
        """The type of a value and where it stands; afterwards we are behind it."""
        kind, inner = self.scalar("I"), None
        place = (kind, self.at)
        if kind == _STRING:
            self.skip_text(key)
        elif kind == _ARRAY:
            inner = self.skip_array(key)
        else:
            self.scalar(_code(kind, key))
        if (expected := _expected(key)) and not _KINDS[expected][1](kind, inner):
            raise ValueError(f"{key} holds {_told(kind, inner)}: it must be {_KINDS[expected][0]}")
        return place

    def skip_text(self, key: str) -> None:
        length = self.scalar("Q")
        self.at += self.source.bounded(length, self.at, 1, key, _MAX_TEXT)

    def skip_array(self, key: str) -> int:
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            for _ in range(self.source.bounded(count, self.at, 8, key, _MAX_STRINGS)):
                self.skip_text(key)
        else:
            width = struct.calcsize("<" + _code(kind, key))
            self.at += width * self.source.bounded(count, self.at, width, key, self.source.size)
        return int(kind)

    def tensor(self, name: str) -> TensorInfo:
        """One entry of the table of tensors, its offset still relative to the data."""
        dimensions = self.scalar("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"tensor {name!r} has {dimensions} dimensions: 1 to {_MAX_DIMENSIONS} are possible")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))[::-1]
        number = self.scalar("I")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise ValueError(f"tensor {name!r} has the unknown type {number}") from None
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if 0 in shape or shape[-1] % block:
            raise ValueError(f"tensor {name!r} is {shape}: {kind.name} needs rows of a multiple of {block}")
        nbytes = prod(shape) // block * block_bytes
        return TensorInfo(shape, kind.name, self.scalar("Q"), nbytes)

    def placed(self, infos: dict[str, TensorInfo], metadata: Metadata) -> dict[str, TensorInfo]:
        """The same tensors with their places in the file: aligned, inside it, each byte in one of them at most."""
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not 0 < alignment <= 1 << 20 or alignment % 8:
            raise ValueError(f"general.alignment is {alignment}: it must be a multiple of 8")
        start = -(-self.at // alignment) * alignment
        end, last = start, ""
        placed: dict[str, TensorInfo] = {}
        for name, info in sorted(infos.items(), key=lambda item: item[1].offset):
            at = start + info.offset
            if info.offset % alignment:
                raise ValueError(f"tensor {name!r} begins at {info.offset}, which is no multiple of {alignment}")
            if at + info.nbytes > self.source.size:
                raise ValueError(f"cut off: tensor {name!r} ends at byte {at + info.nbytes} of {self.source.size}")
            if at < end:
                raise ValueError(f"tensors {last!r} and {name!r} overlap")
            end, last = at + info.nbytes, name
            placed[name] = TensorInfo(info.shape, info.type, at, info.nbytes)
        return {name: placed[name] for name in infos}


def _code(kind: int, key: str) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"{key} has the unknown value type {kind}")
    return _SCALARS[kind]


def _expected(key: str) -> str | None:
    """What a known key must hold; `*.block_count` speaks of every architecture's."""
    section, _, rest = key.partition(".")
    return _KIND_OF.get(key if section in _SECTIONS else f"*.{rest}")


def _told(kind: int, inner: int | None) -> str:
    name = GGUFValueType(kind).name.lower()
    return name if inner is None else f"an {name} of {GGUFValueType(inner).name.lower()}"
