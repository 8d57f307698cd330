"""GPTQ checkpoints, as AutoGPTQ began and GPTQModel writes them: codes packed down the rows of the transposed weight.

Tensors of a linear: `qweight` int32 [in·b/32, out], `qzeros` int32 [groups, out·b/32], `scales` float16 [groups, out],
`g_idx` int32 [in]. Version 1 ("gptq") stores zero − 1, version 2 ("gptq_v2") stores zero (AutoGPTQ
`qlinear_cuda.py:169`, GPTQModel `utils/model.py`).

A shorter last group is part of the format: scales have ⌈in/G⌉ rows. GPTQModel 7.6 loads it; vLLM does not (it expects
⌊in/G⌋ rows), so choose a group that divides every row if vLLM is the goal.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from qlab.bits import WORD, pack_bits, unpack_bits
from qlab.errors import QlabError
from qlab.layouts import SpecOf, register_layout
from qlab.layouts.affine import (
    Numbers,
    as_stored,
    check_spec,
    commonest,
    counted,
    expect,
    middle,
    numbers,
    plain,
    scattered,
    spec_from,
    take,
)
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec

BITS = (2, 3, 4, 8)
GROUPS = (16, 32, 64, 128, 256, 512, 1024)
"""What GPTQModel's kernels take (`qlinear/torch.py`), besides one group per row."""


@register_layout("gptq_v2")
@dataclass(frozen=True)
class GPTQv2:
    """Version 2: `qzeros` holds the zero points themselves, so asymmetric specs may be stored."""

    name: ClassVar[str]
    codes_key: ClassVar[str] = "qweight"
    below: ClassVar[int] = 0
    """What is taken off a zero point before it is stored."""

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether quant_method is gptq and the checkpoint format is this version."""
        stated = config.get("checkpoint_format") or config.get("format") or "gptq"
        return (config.get("quant_method") or config.get("method")) == "gptq" and stated == self.name

    def check(self, shape: tuple[int, ...], spec: QuantSpec, name: str = "weight", group_index: bool = False) -> None:
        """2, 3, 4 or 8 bits, float16 scales, whole words in both directions, groups that GPTQModel has kernels for."""
        spec.check(shape, name)
        check_spec(self.name, spec, name, BITS, ("fp16",))
        if self.below and not spec.symmetric:
            raise QlabError(f"{name} is {spec}: `gptq` stores zero − 1, which cannot be 0; use the layout gptq_v2")
        whole = WORD if spec.bits == 3 else WORD // spec.bits
        for axis, length in zip(("out", "in"), shape, strict=True):
            if length % whole:
                raise QlabError(
                    f"{name} has {length} {axis} channels: {self.name} at {spec.bits} bits packs {whole} at a time; "
                    "skip this layer, or use compressed-tensors"
                )
        if spec.group_size not in (None, *GROUPS, shape[1]):
            raise QlabError(
                f"{name} has groups of {spec.group_size}: GPTQModel loads {', '.join(map(str, GROUPS))} or one per row"
            )

    def pack(self, Q: QTensor) -> dict[str, Tensor]:
        """qweight, qzeros, scales and g_idx; g_idx counts off the groups where they are contiguous."""
        self.check(tuple(Q.shape), Q.spec, "the weight", Q.group_index is not None)
        scale, zero = plain(Q)
        index = counted(Q.spec, Q.shape[1]) if Q.group_index is None else Q.group_index.to(torch.int32)
        return {
            "qweight": pack_bits(Q.codes.T, Q.spec.bits, axis=0),
            "qzeros": pack_bits(zero.T.to(torch.int16) - self.below, Q.spec.bits),
            "scales": scale.T.contiguous(),
            "g_idx": index.contiguous(),
        }

    def unpack(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], spec: QuantSpec) -> QTensor:
        """See Layout. The zero points of a symmetric layer tell its version; where the label says the other, a warning.

        Such files exist: labelled `gptq`, they hold version 2 (vLLM's pull request 38966).
        """
        rows, length = shape
        groups = spec.group_count(length)
        qweight, qzeros, scales, g_idx = take(tensors, ("qweight", "qzeros", "scales"), ("g_idx",))
        assert qweight is not None and qzeros is not None and scales is not None
        expect(qweight, "qweight", (-(-length * spec.bits // WORD), rows), torch.int32)
        expect(qzeros, "qzeros", (groups, -(-rows * spec.bits // WORD)), torch.int32)
        expect(scales, "scales", (groups, rows), torch.float16, torch.bfloat16, torch.float32)
        codes = unpack_bits(qweight, spec.bits, length, axis=0).T.contiguous()
        zero = self._zero(unpack_bits(qzeros, spec.bits, rows).T.contiguous(), spec)
        index = scattered(g_idx, "g_idx", spec, length)
        return QTensor(codes, scales.T.contiguous(), as_stored(spec, scales), zero, group_index=index)

    def _zero(self, stored: Tensor, spec: QuantSpec) -> Tensor | None:
        """Zero points [out, groups] from the stored fields; None for a symmetric spec, after a look at them."""
        if not spec.symmetric:
            if not self.below:
                return stored
            warnings.warn(
                "asymmetric `gptq` checkpoint: zero points are read as stored + 1; if the model answers nonsense, its "
                "label is wrong: set checkpoint_format to gptq_v2 in config.json",
                stacklevel=3,
            )
            return stored.to(torch.int16) + self.below  # may be 2^b
        fields = (int(stored.min()), int(stored.max()))
        other = "gptq" if self.name == "gptq_v2" else "gptq_v2"
        if fields == (middle(spec) - self.below,) * 2:
            return None
        if fields == (middle(spec) - (1 - self.below),) * 2:
            warnings.warn(
                f"the zero points are those of {other}, the label says {self.name}: read as {other}", stacklevel=3
            )
            return None
        raise QlabError(
            f"qzeros hold {fields[0]} … {fields[1]}, no symmetric zero point: config.json should say sym: false and "
            "checkpoint_format: gptq_v2"
        )

    def config(
        self, specs: Mapping[str, QuantSpec], skipped: Sequence[str] = (), act_order: str = "none"
    ) -> dict[str, Any]:
        """GPTQModel's configuration; layers unlike most stand in `dynamic` by name, as do skipped ones."""
        base = commonest(specs)
        dynamic: dict[str, dict[str, Any]] = {
            f"+:^{re.escape(name)}$": _entries(numbers(spec)) for name, spec in specs.items() if numbers(spec) != base
        }
        dynamic |= {f"-:^{re.escape(name)}$": {} for name in skipped if name != "lm_head"}
        config = {
            "quant_method": "gptq",
            **_entries(base),
            "desc_act": act_order == "desc",
            "checkpoint_format": self.name,
            "format": self.name,
            "method": "gptq",
            "lm_head": "lm_head" in specs,
            "pack_dtype": "int32",
            "meta": {"static_groups": act_order == "static"},
        }
        return config | ({"dynamic": dynamic} if dynamic else {})

    def specs(self, config: Mapping[str, Any]) -> SpecOf:
        """By bits, group_size and sym, changed by the first pattern of `dynamic` that matches a name from its start."""
        base = _spec(config)
        rules = [
            (_pattern(key), None if key.startswith("-:") else _spec({**config, **override}))
            for key, override in (config.get("dynamic") or {}).items()
        ]

        def spec_of(name: str) -> QuantSpec | None:
            return next((spec for pattern, spec in rules if pattern.match(name)), base)

        return spec_of


@register_layout("gptq")
@dataclass(frozen=True)
class GPTQ(GPTQv2):
    """Version 1: zero − 1 is stored, and 0 has no predecessor: symmetric specs only."""

    below: ClassVar[int] = 1


def _entries(kind: Numbers) -> dict[str, Any]:
    bits, group, symmetric = kind
    return {"bits": bits, "group_size": group or -1, "sym": symmetric}


def _pattern(key: str) -> re.Pattern[str]:
    try:
        return re.compile(re.sub(r"^[+-]:", "", key))
    except re.error as error:
        raise QlabError(f"dynamic pattern {key!r} in quantization_config is no regular expression: {error}") from error


def _spec(config: Mapping[str, Any]) -> QuantSpec:
    bits = next((config[key] for key in ("bits", "wbits", "w_bit") if key in config), None)
    group = next((config[key] for key in ("group_size", "groupsize", "q_group_size") if key in config), None)
    if bits not in BITS:
        raise QlabError(f"bits {bits!r} in a gptq configuration: qlab reads {', '.join(map(str, BITS))}")
    symmetric = cast(bool, config.get("sym", True))
    return spec_from(bits, group, "sym" if symmetric else "asym")
