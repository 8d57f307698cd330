"""Importance matrices: the mean x² of every input channel of every linear, in both of llama.cpp's file forms.

GGUF (current): tensors `NAME.in_sum2` [matrices, in] and `NAME.counts` [matrices, 1]. `.dat` (older): per entry its
name, the number of calls, and mean · calls; little-endian, lengths as int32.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from torch import Tensor

from qlab.errors import QlabError
from qlab.files.gguf import open_gguf
from qlab.stats import Stats

_MAX_ENTRIES, _MAX_NAME = 100_000, 1024


@dataclass(frozen=True)
class ImportanceMatrix:
    """Sums of x² [in] and token counts by GGUF tensor name, with the text and the windows they come from."""

    sums: Mapping[str, Tensor]
    counts: Mapping[str, int]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 512
    path: Path | None = field(default=None, compare=False)

    def stats(self, name: str, length: int) -> Stats | None:
        """The statistics of one tensor for a method; None where the matrix does not speak of it.

        QlabError where it is of another model: `length` is what a row of the tensor has.
        """
        if name not in self.sums:
            return None
        if len(self.sums[name]) != length:
            raise QlabError(f"the importance matrix {self.path or ''} has {len(self.sums[name])} channels for {name}, "
                            f"the model {length}: compute it from this model")  # fmt: skip
        stats = Stats(length, gram=False)
        stats.tokens, stats.sq_sum = self.counts[name], self.sums[name].double()
        return stats


def read_imatrix(path: str | Path) -> ImportanceMatrix:
    """An importance matrix of either form. Errors: QlabError naming the file and the entry."""
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        raise QlabError(f"cannot read the importance matrix: {path}: {error.strerror}; check the path") from None
    found = _read_gguf(path) if is_gguf else _read_dat(path)
    for name, sums in found.sums.items():
        if not sums.isfinite().all() or (sums < 0).any():
            raise QlabError(f"{path}: {name} holds negative numbers or NaN: compute the importance matrix again")
    return found


def _read_gguf(path: Path) -> ImportanceMatrix:
    file = open_gguf(path)
    if (kind := file.metadata.get("general.type")) != "imatrix":
        raise QlabError(f"{path} is a GGUF file of type {kind!r}, not an importance matrix: use `qlab imatrix`")
    sums, counts = {}, {}
    for name in file.tensors:
        if not name.endswith(".in_sum2"):
            continue
        base = name.removesuffix(".in_sum2")
        pair = (name, f"{base}.counts")
        if pair[1] not in file.tensors or any(file.tensors[part].type != "F32" for part in pair):
            raise QlabError(f"{path}: {base} needs sums and counts in F32: compute the importance matrix again")
        total, count = (file.data(part).view(np.float32) for part in pair)
        if not (np.isfinite(count).all() and (count >= 0).all() and (count < 2**53).all()):
            raise QlabError(f"{path}: the counts of {base} are no counts: compute the importance matrix again")
        if len(total.reshape(-1, total.shape[-1])) != 1:
            raise QlabError(f"{path}: {base} has one row for each expert: mixtures of experts are not read yet")
        sums[base] = torch.from_numpy(total.reshape(-1).copy())
        counts[base] = max(1, int(count.reshape(-1)[0]))
    if not sums:
        raise QlabError(f"{path} holds no sums: compute the importance matrix again")
    meta = file.metadata
    chunks, size = int(meta.get("imatrix.chunk_count", 0)), int(meta.get("imatrix.chunk_size", 512))
    return ImportanceMatrix(sums, counts, tuple(meta.get("imatrix.datasets", ())), chunks, size, path)


def _read_dat(path: Path) -> ImportanceMatrix:
    data, at = path.read_bytes(), 0

    def take(size: int) -> bytes:
        nonlocal at
        if not 0 <= size <= len(data) - at:
            raise QlabError(f"not a readable importance matrix: {path}: cut off or damaged at byte {at}")
        at += size
        return data[at - size : at]

    def integer() -> int:
        return int(struct.unpack("<i", take(4))[0])

    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    entries = integer()
    if not 0 < entries <= _MAX_ENTRIES:
        raise QlabError(f"not a readable importance matrix: {path}: it announces {entries} entries")
    for _ in range(entries):
        length = integer()
        if not 0 < length <= _MAX_NAME:
            raise QlabError(f"not a readable importance matrix: {path}: a name of {length} bytes at byte {at}")
        try:
            name = take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise QlabError(f"not a readable importance matrix: {path}: a name is not UTF-8: {error}") from error
        calls, values = integer(), integer()
        if calls < 1 or values < 1:
            raise QlabError(f"not a readable importance matrix: {path}: {name} has {values} values of {calls} calls")
        sums[name] = torch.frombuffer(bytearray(take(4 * values)), dtype=torch.float32)
        counts[name] = calls
    chunks = integer() if at < len(data) else 0
    datasets = (take(integer()).decode("utf-8", "replace"),) if at < len(data) else ()
    return ImportanceMatrix(sums, counts, datasets, chunks, path=path)


def write_imatrix(matrix: ImportanceMatrix, path: str | Path) -> None:
    """Write the form that the name asks for: `.dat`, else GGUF. The file appears whole or not at all."""
    path = Path(path).expanduser()
    partial = path.with_name(f".{path.name}.partial")
    try:
        (_write_dat if path.suffix == ".dat" else _write_gguf)(matrix, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_gguf(matrix: ImportanceMatrix, path: Path) -> None:
    writer = GGUFWriter(path, "imatrix")
    writer.kv_data[0].clear()  # an importance matrix has no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(matrix.datasets) or ["unknown"])
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    for name in sorted(matrix.sums):
        writer.add_tensor(f"{name}.in_sum2", matrix.sums[name].float().numpy()[None])
        writer.add_tensor(f"{name}.counts", np.full((1, 1), matrix.counts[name], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_dat(matrix: ImportanceMatrix, path: Path) -> None:
    """Means times chunks, as the older tool wrote them."""
    calls = max(1, matrix.chunks)
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(matrix.sums)))
        for name in sorted(matrix.sums):
            values = (matrix.sums[name].double() / matrix.counts[name] * calls).float().numpy()
            raw = name.encode()
            file.write(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, len(values)) + values.tobytes())
        dataset = ", ".join(matrix.datasets).encode()
        file.write(struct.pack("<ii", calls, len(dataset)) + dataset)
