"""AWQ checkpoints, AutoAWQ's "gemm" version: 4-bit codes packed along `out`, eight to a word in an interleaved order.

Tensors of a linear: `qweight` int32 [in, out/8], `qzeros` int32 [in/G, out/8], `scales` float16 [in/G, out] (AutoAWQ
`modules/linear/gemm.py:132-160`). Nibble k of a word holds output channel 8·word + ORDER[k].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from qlab.bits import WORD, pack_bits, unpack_bits
from qlab.errors import QlabError
from qlab.layouts import SpecOf, register_layout
from qlab.layouts.affine import as_stored, check_spec, commonest, expect, middle, plain, spec_from, take
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
BITS = 4
LANES = WORD // BITS
GROUPS = (16, 32, 64, 128)
"""What the kernels of GPTQModel take (`qlinear/gemm_awq.py`), besides one group per row."""


@register_layout("awq")
@dataclass(frozen=True)
class AWQ:
    """One spec for the whole model, 4 bits, contiguous groups that divide the row.

    Every reader subtracts the zero points, so a symmetric spec is stored with zero points of 8.
    """

    name: ClassVar[str]
    codes_key: ClassVar[str] = "qweight"

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether quant_method is awq and its version gemm."""
        version = config.get("version") or config.get("checkpoint_format") or config.get("format") or "gemm"
        return (config.get("quant_method") or config.get("method")) == "awq" and str(version).lower() == "gemm"

    def check(self, shape: tuple[int, ...], spec: QuantSpec, name: str = "weight", group_index: bool = False) -> None:
        """4 bits, float16 scales, out a multiple of 8, in a multiple of the group; no group index."""
        spec.check(shape, name)
        check_spec(self.name, spec, name, (BITS,), ("fp16",))
        if group_index:
            raise QlabError(
                f"{name} has scattered groups: awq has no group index; use act_order=static, or layout gptq"
            )
        if shape[0] % LANES:
            raise QlabError(f"{name} has {shape[0]} out channels: awq packs {LANES} at a time; skip this layer")
        if shape[1] % spec.group_in(shape[1]):
            raise QlabError(
                f"{name} has {shape[1]} in channels, no multiple of the group {spec.group_size}: awq has no shorter "
                f"last group; use {_dividing(shape[1])}"
            )
        if spec.group_size not in (None, *GROUPS, shape[1]):
            raise QlabError(f"{name} has groups of {spec.group_size}: AWQ's kernels take {', '.join(map(str, GROUPS))}")

    def pack(self, Q: QTensor) -> dict[str, Tensor]:
        """qweight, qzeros and scales."""
        self.check(tuple(Q.shape), Q.spec, "the weight", Q.group_index is not None)
        scale, zero = plain(Q)
        return {
            "qweight": pack_bits(_interleaved(Q.codes.T), BITS),
            "qzeros": pack_bits(_interleaved(zero.T), BITS),
            "scales": scale.T.contiguous(),
        }

    def unpack(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], spec: QuantSpec) -> QTensor:
        """See Layout."""
        rows, length = shape
        groups = spec.group_count(length)
        qweight, qzeros, scales = take(tensors, ("qweight", "qzeros", "scales"))
        assert qweight is not None and qzeros is not None and scales is not None
        expect(qweight, "qweight", (length, rows // LANES), torch.int32)
        expect(qzeros, "qzeros", (groups, rows // LANES), torch.int32)
        expect(scales, "scales", (groups, rows), torch.float16, torch.bfloat16, torch.float32)
        codes, zero = (_in_order(unpack_bits(words, BITS, rows)).T.contiguous() for words in (qweight, qzeros))
        if spec.symmetric and not (zero == middle(spec)).all():
            raise QlabError("qzeros are not all 8 in a symmetric layer: config.json should say zero_point: true")
        kept = None if spec.symmetric else zero
        return QTensor(codes, scales.T.contiguous(), as_stored(spec, scales), kept)

    def config(
        self, specs: Mapping[str, QuantSpec], skipped: Sequence[str] = (), act_order: str = "none"
    ) -> dict[str, Any]:
        """AutoAWQ's configuration; QlabError unless all layers have one group size, since it has no place for two."""
        bits, group, _ = commonest(specs)
        for name, spec in specs.items():
            if (spec.bits, spec.group_size) != (bits, group):
                raise QlabError(
                    f"{name} is {spec}, most layers have {bits} bits in groups of {group}: awq holds one spec for all; "
                    "use gptq or compressed-tensors"
                )
        return {
            "quant_method": "awq",
            "bits": bits,
            "group_size": group or -1,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(skipped) or None,
        }

    def specs(self, config: Mapping[str, Any]) -> SpecOf:
        """One spec for every linear whose name holds none of `modules_to_not_convert`."""
        bits = config.get("bits", config.get("w_bit"))
        if bits != BITS:
            raise QlabError(f"bits {bits!r} in an awq configuration: the gemm version has {BITS}")
        group = config.get("group_size", config.get("q_group_size"))
        asymmetric = config.get("zero_point", not config.get("sym", False))
        spec = spec_from(bits, group, "awq" if asymmetric else "narrow")
        left = tuple(config.get("modules_to_not_convert") or ())
        return lambda name: None if any(part in name for part in left) else spec


def _dividing(length: int) -> str:
    return next((f"a group of {g}" for g in reversed(GROUPS) if length % g == 0), "one group per row")


def _interleaved(lines: Tensor) -> Tensor:
    """Output channels [.., out] in the order in which nibbles hold them."""
    return lines.unflatten(-1, (-1, LANES))[..., list(ORDER)].flatten(-2)


def _in_order(lines: Tensor) -> Tensor:
    """The inverse of `_interleaved`."""
    inverse = [ORDER.index(k) for k in range(LANES)]
    return lines.unflatten(-1, (-1, LANES))[..., inverse].flatten(-2)
