"""What a GGUF file says: its keys, its types, its true bits, and one block of it field by field."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import torch
from torch import Tensor

from qlab.display import number, size, table_text
from qlab.errors import QlabError
from qlab.files.gguf import GGUFFile, dump
from qlab.ggml import GridType, block_type
from qlab.qtensor import QTensor


def summary(file: GGUFFile) -> dict[str, Any]:
    """Keys (long arrays by their first elements), tensors, how many weights have which type, bits per weight, bytes."""
    weights: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for info in file.tensors.values():
        weights[info.type] += prod(info.shape)
        tensors[info.type] += 1
    total = file.weights
    types = [
        {"type": name, "tensors": tensors[name], "weights": count, "share": count / total,
         "bits_per_weight": block_type(name).bits_per_weight}
        for name, count in weights.most_common()
    ]  # fmt: skip
    return {
        "files": [str(path) for path in file.paths], "size_bytes": file.nbytes, "tensors": len(file.tensors),
        "weights": total, "bits_per_weight": file.bits_per_weight, "types": types,
        "metadata": {key: dump(file.metadata[key]) for key in file.metadata},
    }  # fmt: skip


def tensor(file: GGUFFile, name: str) -> dict[str, Any]:
    """One tensor: shape, type, place in the file, and the range of its numbers."""
    info = _info(file, name)
    W = block_type(info.type).decode(_bytes(file, name))
    return {
        "tensor": name, "shape": list(info.shape), "type": info.type, "offset": info.offset, "nbytes": info.nbytes,
        "blocks": prod(info.shape) // block_type(info.type).weights, "min": float(W.min()), "max": float(W.max()),
        "mean": float(W.mean()), "std": float(W.std()) if W.numel() > 1 else 0.0,
    }  # fmt: skip


def block(file: GGUFFile, name: str, index: int) -> dict[str, Any]:
    """Block `index` of a tensor, counted along its rows: bytes, stored fields, and every group read out of them.

    Each group gives its scale and minimum as they are used and as they are stored (codes of the super-block's own
    scale), the codes of its weights and their numbers: `scale · level + minimum`.
    """
    info = _info(file, name)
    kind = block_type(info.type)
    if not isinstance(kind, GridType):
        raise QlabError(f"{name} is {info.type}, which has no fields to show: choose a tensor of a grid")
    blocks = kind.blocks(_bytes(file, name))
    if not 0 <= index < len(blocks):
        raise QlabError(f"{name} has blocks 0 … {len(blocks) - 1}: there is no block {index}")
    one = blocks[index : index + 1]
    Q = kind.unpack(one)
    per_row = info.shape[-1] // kind.weights
    size_ = kind.spec.group_in(kind.weights)
    W, codes = Q.dequantize()[0], Q.codes[0]
    levels = kind.spec.grid.decode(codes)
    groups = []
    for g in range(kind.weights // size_):
        part = slice(g * size_, (g + 1) * size_)
        groups.append(
            {"group": g, **_stored("scale", Q.scale, g), **_stored("minimum", Q.offset, g),
             "codes": codes[part].tolist(), "levels": levels[part].tolist(), "weights": W[part].tolist()}
        )  # fmt: skip
    return {
        "tensor": name, "type": info.type, "block": index, "row": index // per_row,
        "first_column": index % per_row * kind.weights, "bytes": bytes(one[0].tolist()).hex(),
        "fields": {field: values[0].tolist() for field, values in kind.split(one).items()}, "groups": groups,
    }  # fmt: skip


def _stored(name: str, part: Tensor | QTensor | None, group: int) -> dict[str, Any]:
    """A group's scale or minimum, and the code that stands for it where it has a grid of its own."""
    if part is None:
        return {}
    if not isinstance(part, QTensor):
        return {name: float(part[0, group])}
    step = None if part.scale is None else float(part.scale[0, 0])  # type: ignore[index]
    code = int(part.codes[0, group])
    found = {name: float(part.dequantize()[0, group]), f"{name}_code": code}
    level = float(part.spec.grid.decode(part.codes[:, group])[0])
    return found | ({} if step is None else {f"{name}_level": level, f"{name}_step": step})


def _info(file: GGUFFile, name: str) -> Any:
    if name not in file.tensors:
        import difflib

        near = difflib.get_close_matches(name, file.tensors, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(list(file.tensors)[:3])} …"
        raise QlabError(f"{file.path} has no tensor {name!r}: {hint}")
    return file.tensors[name]


def _bytes(file: GGUFFile, name: str) -> Tensor:
    return torch.from_numpy(file.data(name).copy())


def summary_text(data: dict[str, Any]) -> str:
    """`summary` for a terminal."""
    cost = f"{number(data['bits_per_weight'])} bits per weight" if data["weights"] else "no tensors"
    head = f"{', '.join(data['files'])}: {size(data['size_bytes'])}, {data['tensors']} tensors, {cost}"
    types = [
        {"type": t["type"], "tensors": t["tensors"], "weights": f"{t['weights']:,}", "share": f"{t['share']:.1%}",
         "bits per weight": number(t["bits_per_weight"])}
        for t in data["types"]
    ]  # fmt: skip
    keys = [{"key": key, "value": _short(value)} for key, value in data["metadata"].items()]
    return "\n\n".join([head, *(table_text(rows) for rows in (types, keys) if rows)])


def tensor_text(data: dict[str, Any]) -> str:
    """`tensor` for a terminal."""
    shape = " × ".join(map(str, data["shape"]))
    return (f"{data['tensor']}: {shape}, {data['type']}, {data['blocks']:,} blocks in {size(data['nbytes'])} at byte "
            f"{data['offset']:,}\nfrom {data['min']:.4g} to {data['max']:.4g}, mean {data['mean']:.4g}, "
            f"standard deviation {data['std']:.4g}\n\nTry --block 0 to see one of its blocks bit by bit.")  # fmt: skip


def block_text(data: dict[str, Any]) -> str:
    """`block` for a terminal: fields, then a line for each group and the decode line of its first weight."""
    where = f"row {data['row']}, columns from {data['first_column']}"
    lines = [f"{data['tensor']}, block {data['block']} ({data['type']}): {where}, {len(data['bytes']) // 2} bytes", ""]
    lines += [f"{name:>9}  {_short(values, 90)}" for name, values in data["fields"].items()]
    rows = []
    for g in data["groups"]:
        minimum = f" {g['minimum']:+.4g}" if "minimum" in g else ""
        first = f"{g['scale']:.4g} · {g['levels'][0]:g}{minimum} = {g['weights'][0]:.4g}"
        rows.append({"group": g["group"], "scale": _made("scale", g), "minimum": _made("minimum", g),
                     "codes": _short(g["codes"], 20), "first weight": first})  # fmt: skip
    if all(row["minimum"] == "" for row in rows):
        rows = [{key: value for key, value in row.items() if key != "minimum"} for row in rows]
    return "\n".join(lines) + "\n\n" + table_text(rows)


def _made(name: str, group: dict[str, Any]) -> str:
    if name not in group:
        return ""
    if f"{name}_level" not in group:
        return f"{group[name]:.4g}"
    return f"{group[f'{name}_step']:.4g} · {group[f'{name}_level']:g} = {group[name]:.4g}"


def _short(value: Any, width: int = 76) -> str:
    told = " ".join(map(str, value)) if isinstance(value, list) else str(value).replace("\n", "⏎")
    return told if len(told) <= width else told[: width - 1] + "…"
