"""llama.cpp's mixes: which tensor type `llama-quantize` gives each tensor for a file type such as Q4_K_M.

Rules of `llama_tensor_get_type` in `src/llama-quant.cpp`, for dense models, as llama-cpp-python 0.3.36 contains it.
Layers are counted from 0; `more` marks the first and last eighth and every third layer between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from qlab.errors import QlabError
from qlab.ggml import block_type


@dataclass(frozen=True)
class FileType:
    """A file type: its number in `general.file_type`, and the type of most tensors."""

    name: str
    number: int
    base: str


FILE_TYPES = {
    name: FileType(name, number, base)
    for name, number, base in (
        ("F32", 0, "F32"), ("F16", 1, "F16"), ("BF16", 32, "BF16"), ("Q8_0", 7, "Q8_0"), ("Q6_K", 18, "Q6_K"),
        ("Q5_K_M", 17, "Q5_K"), ("Q5_K_S", 16, "Q5_K"), ("Q5_1", 9, "Q5_1"), ("Q5_0", 8, "Q5_0"),
        ("Q4_K_M", 15, "Q4_K"), ("Q4_K_S", 14, "Q4_K"), ("Q4_1", 3, "Q4_1"), ("Q4_0", 2, "Q4_0"),
        ("IQ4_NL", 25, "IQ4_NL"), ("IQ4_XS", 30, "IQ4_XS"), ("Q3_K_L", 13, "Q3_K"), ("Q3_K_M", 12, "Q3_K"),
        ("Q3_K_S", 11, "Q3_K"), ("Q2_K", 10, "Q2_K"), ("Q2_K_S", 21, "Q2_K"), ("TQ2_0", 37, "TQ2_0"),
        ("TQ1_0", 36, "TQ1_0"),
    )
}  # fmt: skip
FALLBACKS = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1",
    "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL",
}  # fmt: skip
"""What takes the place of a type whose blocks of 256 do not divide a row."""


@dataclass(frozen=True)
class Choice:
    """The type of one tensor, and why it is not what the file type says: empty, or the type that did not fit."""

    type: str
    instead_of: str = ""


@dataclass(frozen=True)
class Mix:
    """A file type with what its rules ask of a model.

    tied: whether the embedding is the output too; imatrix: whether an importance matrix is at hand. overrides:
    regular expression → type, the first that is found in a tensor's name wins over every rule.
    """

    file_type: str
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    experts: int = 0
    imatrix: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        file_type(self.file_type)
        for pattern, kind in self.overrides.items():
            block_type(kind)
            try:
                re.compile(pattern)
            except re.error as error:
                raise QlabError(f"tensor type pattern {pattern!r} is no regular expression: {error}") from error
        if self.file_type == "Q2_K_S" and not self.imatrix:
            raise QlabError("Q2_K_S needs an importance matrix, as llama-quantize demands: add --imatrix, or use Q2_K")

    def choose(self, name: str, shape: tuple[int, ...]) -> Choice:
        """The type of the tensor `name` of `shape` (slowest dimension first)."""
        base = file_type(self.file_type).base
        if len(shape) < 2 or not name.endswith(".weight") or name.endswith("_norm.weight") or "ffn_gate_inp" in name:
            return Choice("F32")
        if base in ("F32", "F16", "BF16"):
            return Choice(base)
        wanted = next((kind.upper() for p, kind in self.overrides.items() if re.search(p, name)), None)
        return fitting(wanted or self._rule(name, shape[-1], base), shape[-1])

    def _rule(self, name: str, row: int, base: str) -> str:
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return "Q8_0" if base == "Q8_0" or row % block_type(base).weights else "Q6_K"
        if name == "token_embd.weight":
            return "Q4_K" if base in ("TQ1_0", "TQ2_0") else base
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
        if match is None:
            return base
        rule = {"attn_v": self._value, "attn_qkv": self._value, "ffn_down": self._down, "attn_output": self._output,
                "attn_k": lambda i: "Q8_0" if self.experts == 8 else None}.get(match[2])  # fmt: skip
        return (rule and rule(int(match[1]))) or base

    def _value(self, i: int) -> str | None:
        if self.experts == 8:
            return "Q8_0"
        grouped = self.heads // self.kv_heads >= 4
        found = {
            "Q2_K": "Q4_K" if grouped else "Q3_K",
            "Q2_K_S": "Q4_K" if grouped else None,
            "Q3_K_M": "Q5_K" if i < 2 else "Q4_K",
            "Q3_K_L": "Q5_K",
            "IQ4_NL": "Q5_K" if grouped else None,
            "IQ4_XS": "Q5_K" if grouped else None,
            "Q4_K_S": "Q5_K" if i < 4 else None,
            "Q4_K_M": "Q6_K" if self._more(i) else None,
            "Q5_K_M": "Q6_K" if self._more(i) else None,
        }.get(self.file_type)
        if self.layers == 80 and self.heads != self.kv_heads:  # the 70B models: eight heads share these weights
            base = found or file_type(self.file_type).base
            return "Q5_K" if base in ("Q3_K", "Q4_K") else found
        return found

    def _down(self, i: int) -> str | None:
        early = i < self.layers // 8
        return {
            "Q2_K": "Q3_K",
            "Q2_K_S": "Q4_K" if early else None,
            "Q3_K_M": "Q5_K" if i < self.layers // 16 else "Q4_K",
            "Q3_K_L": "Q5_K",
            "IQ4_NL": "Q5_K" if early and not self.imatrix else None,
            "IQ4_XS": "Q5_K" if early and not self.imatrix else None,
            "Q4_K_S": "Q5_K" if early else None,
            "Q4_K_M": "Q6_K" if self._more(i) else None,
            "Q5_K_M": "Q6_K" if self._more(i) else None,
            "Q4_0": "Q4_1" if early and self.imatrix else None,
            "Q5_0": "Q5_1" if early and self.imatrix else None,
        }.get(self.file_type)

    def _output(self, i: int) -> str | None:
        if self.experts == 8:
            small = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
            return "Q5_K" if self.file_type in small else None
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(self.file_type)

    def _more(self, i: int) -> bool:
        n = self.layers
        return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def fitting(kind: str, row: int) -> Choice:
    """`kind` itself if its blocks divide rows of `row`, else its fallback, else F16."""
    if row % block_type(kind).weights == 0:
        return Choice(kind)
    instead = FALLBACKS.get(kind, "F16")
    return Choice(instead if row % block_type(instead).weights == 0 else "F16", kind)


def file_type(name: str) -> FileType:
    """The file type `name`; QlabError with all of them for an unknown one."""
    if name not in FILE_TYPES:
        raise QlabError(f"unknown file type {name!r}: choose one of {', '.join(FILE_TYPES)}")
    return FILE_TYPES[name]
