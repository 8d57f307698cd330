"""Blocks of 32 weights with one scale, the two FP4 formats, and the ternary types. Layouts: ggml `ggml-common.h`."""

from __future__ import annotations

import torch
from torch import Tensor

from qlab.ggml import Fields, GridType, from_planes, register_block, to_planes
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec

_F16, _U8 = torch.float16, torch.uint8


class _Simple(GridType):
    """Nibbles `qs` (byte j holds weights j and j + 16), a fifth bit each in `qh`, a scale `d`, a minimum `m`."""

    weights = 32

    def _read(self, f: Fields) -> QTensor:
        codes = from_planes(f["qs"], 4, 16)
        if "qh" in f:
            codes = codes | from_planes(f["qh"], 1, 1) << 4
        return QTensor(codes, f["d"], self.spec, offset=f.get("m"))

    def _write(self, Q: QTensor) -> Fields:
        found = {"d": Q.scale, "m": Q.offset, "qs": to_planes(Q.codes & 15, 4, 16), "qh": to_planes(Q.codes >> 4, 1, 1)}
        return {name: found[name] for name, *_ in self.fields}  # type: ignore[misc]


@register_block("Q4_0")
class Q4_0(_Simple):
    """d · (q − 8)."""

    nbytes, spec = 18, QuantSpec.parse("q4_0")
    fields = (("d", _F16, 1), ("qs", _U8, 16))


@register_block("Q4_1")
class Q4_1(_Simple):
    """d · q + m."""

    nbytes, spec = 20, QuantSpec.parse("q4_1")
    fields = (("d", _F16, 1), ("m", _F16, 1), ("qs", _U8, 16))


@register_block("Q5_0")
class Q5_0(_Simple):
    """d · (q − 16)."""

    nbytes, spec = 22, QuantSpec.parse("q5_0")
    fields = (("d", _F16, 1), ("qh", _U8, 4), ("qs", _U8, 16))


@register_block("Q5_1")
class Q5_1(_Simple):
    """d · q + m."""

    nbytes, spec = 24, QuantSpec.parse("q5_1")
    fields = (("d", _F16, 1), ("m", _F16, 1), ("qh", _U8, 4), ("qs", _U8, 16))


@register_block("IQ4_NL")
class IQ4_NL(_Simple):
    """d · K[q], K being sixteen levels that stand closer near zero."""

    nbytes, spec = 18, QuantSpec.parse("iq4_nl")
    fields = (("d", _F16, 1), ("qs", _U8, 16))


@register_block("Q8_0")
class Q8_0(GridType):
    """d · q with signed bytes."""

    weights, nbytes, spec = 32, 34, QuantSpec.parse("q8_0")
    fields = (("d", _F16, 1), ("qs", _U8, 32))

    def _read(self, f: Fields) -> QTensor:
        return QTensor(f["qs"] ^ 128, f["d"], self.spec)  # two's complement to offset binary: the top bit flips

    def _write(self, Q: QTensor) -> Fields:
        return {"d": _plain(Q.scale), "qs": Q.codes ^ 128}


class _FP4(GridType):
    """E2M1 numbers under 8-bit float scales `d`; byte j of a run holds the weights j and j + half a run."""

    def _read(self, f: Fields) -> QTensor:
        codes = from_planes(f["qs"], 4, self._run())
        return QTensor(codes, QTensor(f["d"], None, self._scale()), self.spec)

    def _write(self, Q: QTensor) -> Fields:
        assert isinstance(Q.scale, QTensor)
        return {"d": Q.scale.codes, "qs": to_planes(Q.codes, 4, self._run())}

    def _run(self) -> int:
        return (self.spec.group_size or 0) // 2

    def _scale(self) -> QuantSpec:
        assert self.spec.scale is not None
        return self.spec.scale


@register_block("MXFP4")
class MXFP4(_FP4):
    """2^(d − 127) · F[q], a power of two for 32 weights (OCP Microscaling)."""

    weights, nbytes, spec = 32, 17, QuantSpec.parse("mxfp4_ggml")
    fields = (("d", _U8, 1), ("qs", _U8, 16))


@register_block("NVFP4")
class NVFP4(_FP4):
    """E4M3(d) · F[q], a scale for 16 weights, four runs in a block."""

    weights, nbytes, spec = 64, 36, QuantSpec.parse("nvfp4_ggml")
    fields = (("d", _U8, 4), ("qs", _U8, 32))


@register_block("TQ2_0")
class TQ2_0(GridType):
    """d · (q − 1), two bits each."""

    weights, nbytes, spec = 256, 66, QuantSpec.parse("tq2_0")
    fields = (("qs", _U8, 64), ("d", _F16, 1))

    def _read(self, f: Fields) -> QTensor:
        return QTensor(from_planes(f["qs"], 2, 32), f["d"], self.spec)

    def _write(self, Q: QTensor) -> Fields:
        return {"qs": to_planes(Q.codes, 2, 32), "d": _plain(Q.scale)}


@register_block("TQ1_0")
class TQ1_0(GridType):
    """d · (q − 1), five ternary digits a byte.

    A byte holds the fraction ⌈number · 256 / 243⌉ / 256: multiplying by 3 carries the next digit, the highest first,
    out of the byte. Other bytes than those decode to the same digits, so only our own come back unchanged.
    """

    weights, nbytes, spec = 256, 54, QuantSpec.parse("tq1_0")
    fields = (("qs", _U8, 48), ("qh", _U8, 4), ("d", _F16, 1))
    # (bytes, digits in each): 32 · 5, 16 · 5 and 4 · 4 digits; plane after plane within each part
    parts = ((32, 5), (16, 5), (4, 4))

    def _read(self, f: Fields) -> QTensor:
        data = torch.cat([f["qs"], f["qh"]], 1).split([n for n, _ in self.parts], 1)
        return QTensor(torch.cat([self._digits(x, n) for x, (_, n) in zip(data, self.parts, strict=True)], 1), f["d"],
                       self.spec)  # fmt: skip

    def _write(self, Q: QTensor) -> Fields:
        codes = Q.codes.split([bytes_ * n for bytes_, n in self.parts], 1)
        data = torch.cat([self._bytes(x, n) for x, (_, n) in zip(codes, self.parts, strict=True)], 1)
        return {"qs": data[:, :48], "qh": data[:, 48:], "d": _plain(Q.scale)}

    @staticmethod
    def _digits(data: Tensor, n: int) -> Tensor:
        powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8)[:n, None]
        return ((data[:, None] * powers).to(torch.int16) * 3 >> 8).to(torch.uint8).flatten(1)

    @staticmethod
    def _bytes(codes: Tensor, n: int) -> Tensor:
        powers = torch.tensor([81, 27, 9, 3, 1], dtype=torch.int32)[:n, None]
        number = (codes.reshape(len(codes), n, -1) * powers).sum(1, dtype=torch.int32)
        return ((number * 256 + 242) // 243).to(torch.uint8)


def _plain(scale: Tensor | QTensor | None) -> Tensor:
    assert isinstance(scale, Tensor)
    return scale
