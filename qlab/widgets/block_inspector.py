"""One block of a real GGUF file, bit by bit: which of them make a weight, and what moves when one is turned over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import traitlets

from qlab.errors import QlabError
from qlab.files.gguf import GGUFFile
from qlab.ggml import grid_type
from qlab.gguf_inspection import block
from qlab.widgets.base import Widget, module

TYPES = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")
"""What `js/blocks.js` decodes."""


class BlockInspector(Widget):
    """The bytes of a block, the bits of one weight as buttons, and all weights before and after."""

    _esm = module("block_inspector.js")
    blocks: Any = traitlets.List().tag(sync=True)  # see `block_of`


def block_of(file: GGUFFile, tensor: str, index: int = 0) -> dict[str, Any]:
    """Block `index` of a tensor: type, where it is from, its bytes, and where its fields lie in them.

    QlabError for a tensor or a block that is not there, and a type that the widget does not decode.
    """
    info = file.tensors.get(tensor)
    if info is not None and info.type not in TYPES:
        raise QlabError(f"{tensor} is {info.type}: the widget decodes {', '.join(TYPES)}")
    found = block(file, tensor, index)
    kind, start, fields = grid_type(found["type"]), 0, []
    for name, dtype, count in kind.fields:
        size = count * torch.empty(0, dtype=dtype).element_size()
        fields.append({"name": name, "start": start, "size": size})
        start += size
    return {
        "type": found["type"], "tensor": tensor, "row": found["row"], "column": found["first_column"],
        "weights": kind.weights, "bytes": list(bytes.fromhex(found["bytes"])), "fields": fields,
    }  # fmt: skip


def block_inspector(places: Sequence[tuple[GGUFFile, str, int]]) -> BlockInspector:
    """The widget for blocks (file, tensor, number of the block), each of another type."""
    blocks = [block_of(*place) for place in places]
    if len({b["type"] for b in blocks}) != len(blocks) or not blocks:
        raise QlabError("give one block or more, each of another type")
    return BlockInspector(blocks=blocks)
