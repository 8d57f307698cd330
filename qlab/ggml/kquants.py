"""Super-blocks of 256 weights whose scales and minima are themselves on a grid. Layouts: ggml `ggml-common.h`."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from qlab.ggml import Fields, FieldTable, GridType, from_planes, register_block, to_planes
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec

_F16, _U8 = torch.float16, torch.uint8


class _Super(GridType):
    """W = d·sc·level − dmin·m: QTensors whose scale, and offset where there is one, are QTensors of their own."""

    weights = 256

    def tensor(
        self, codes: Tensor, d: Tensor, sc: Tensor, dmin: Tensor | None = None, m: Tensor | None = None
    ) -> QTensor:
        """The QTensor of codes [blocks, 256], step d [blocks, 1] of scales sc [blocks, groups], the same for minima."""
        spec = self.spec
        offset = None if m is None or dmin is None else QTensor(m, -dmin, cast(QuantSpec, spec.offset))
        return QTensor(codes, QTensor(sc, d, cast(QuantSpec, spec.scale)), spec, offset=offset)

    @staticmethod
    def scales(Q: QTensor) -> tuple[Tensor, Tensor]:
        """d [blocks, 1] and sc [blocks, groups]."""
        scale = cast(QTensor, Q.scale)
        return cast(Tensor, scale.scale), scale.codes

    @staticmethod
    def minima(Q: QTensor) -> tuple[Tensor, Tensor]:
        """dmin [blocks, 1] and m [blocks, groups]."""
        offset = cast(QTensor, Q.offset)
        return -cast(Tensor, offset.scale), offset.codes


@register_block("Q2_K")
class Q2_K(_Super):
    """Sixteen groups of 16; scale and minimum are the two nibbles of a byte."""

    nbytes, spec = 84, QuantSpec.parse("q2_k")
    fields = (("scales", _U8, 16), ("qs", _U8, 64), ("d", _F16, 1), ("dmin", _F16, 1))

    def _read(self, f: Fields) -> QTensor:
        return self.tensor(from_planes(f["qs"], 2, 32), f["d"], f["scales"] & 15, f["dmin"], f["scales"] >> 4)

    def _write(self, Q: QTensor) -> Fields:
        (d, sc), (dmin, m) = self.scales(Q), self.minima(Q)
        return {"scales": sc | m << 4, "qs": to_planes(Q.codes, 2, 32), "d": d, "dmin": dmin}


@register_block("Q3_K")
class Q3_K(_Super):
    """Sixteen groups of 16 with signed 6-bit scales; the third bit of every weight lies apart in `hmask`."""

    nbytes, spec = 110, QuantSpec.parse("q3_k")
    fields = (("hmask", _U8, 32), ("qs", _U8, 64), ("scales", _U8, 12), ("d", _F16, 1))

    def _read(self, f: Fields) -> QTensor:
        low, high = f["scales"][:, :8], f["scales"][:, 8:]
        sc = from_planes(low, 4, 8) | from_planes(high, 2, 4) << 4
        return self.tensor(from_planes(f["qs"], 2, 32) | from_planes(f["hmask"], 1, 32) << 2, f["d"], sc)

    def _write(self, Q: QTensor) -> Fields:
        d, sc = self.scales(Q)
        scales = torch.cat([to_planes(sc & 15, 4, 8), to_planes(sc >> 4, 2, 4)], 1)
        return {"hmask": to_planes(Q.codes >> 2, 1, 32), "qs": to_planes(Q.codes & 3, 2, 32), "scales": scales, "d": d}


def unpack_sixes(s: Tensor) -> tuple[Tensor, Tensor]:
    """Eight 6-bit scales and eight 6-bit minima from 12 bytes [blocks, 12].

    Bytes 0–3 and 4–7 hold the first four scales and minima; their two upper bits, and bytes 8–11, hold the other four.
    """
    whole, high, low = s[:, :8] & 63, s[:, :8] >> 6 << 4, from_planes(s[:, 8:], 4, 4)
    rest = low | high
    return torch.cat([whole[:, :4], rest[:, :4]], 1), torch.cat([whole[:, 4:], rest[:, 4:]], 1)


def pack_sixes(scales: Tensor, minima: Tensor) -> Tensor:
    """The inverse of `unpack_sixes`."""
    whole = torch.cat([scales[:, :4], minima[:, :4]], 1)
    rest = torch.cat([scales[:, 4:], minima[:, 4:]], 1)
    return torch.cat([whole | rest >> 4 << 6, to_planes(rest & 15, 4, 4)], 1)


@register_block("Q4_K")
class Q4_K(_Super):
    """Eight groups of 32, 6-bit scales and minima."""

    nbytes, spec = 144, QuantSpec.parse("q4_k")
    fields: ClassVar[FieldTable] = (("d", _F16, 1), ("dmin", _F16, 1), ("scales", _U8, 12), ("qs", _U8, 128))

    def _read(self, f: Fields) -> QTensor:
        sc, m = unpack_sixes(f["scales"])
        codes = from_planes(f["qs"], 4, 32)
        if "qh" in f:
            codes = codes | from_planes(f["qh"], 1, 32) << 4
        return self.tensor(codes, f["d"], sc, f["dmin"], m)

    def _write(self, Q: QTensor) -> Fields:
        (d, sc), (dmin, m) = self.scales(Q), self.minima(Q)
        qs, qh = to_planes(Q.codes & 15, 4, 32), to_planes(Q.codes >> 4, 1, 32)
        return {"d": d, "dmin": dmin, "scales": pack_sixes(sc, m), "qs": qs, "qh": qh}


@register_block("Q5_K")
class Q5_K(Q4_K):
    """Q4_K with a fifth bit of every weight in `qh`."""

    nbytes, spec = 176, QuantSpec.parse("q5_k")
    fields = (("d", _F16, 1), ("dmin", _F16, 1), ("scales", _U8, 12), ("qh", _U8, 32), ("qs", _U8, 128))


@register_block("Q6_K")
class Q6_K(_Super):
    """Sixteen groups of 16 with signed 8-bit scales; four lower bits in `ql`, two upper ones in `qh`."""

    nbytes, spec = 210, QuantSpec.parse("q6_k")
    fields = (("ql", _U8, 128), ("qh", _U8, 64), ("scales", _U8, 16), ("d", _F16, 1))

    def _read(self, f: Fields) -> QTensor:
        codes = from_planes(f["ql"], 4, 64) | from_planes(f["qh"], 2, 32) << 4
        return self.tensor(codes, f["d"], f["scales"] ^ 128)

    def _write(self, Q: QTensor) -> Fields:
        d, sc = self.scales(Q)
        ql, qh = to_planes(Q.codes & 15, 4, 64), to_planes(Q.codes >> 4, 2, 32)
        return {"ql": ql, "qh": qh, "scales": sc ^ 128, "d": d}


@register_block("IQ4_XS")
class IQ4_XS(_Super):
    """Eight groups of 32 on IQ4_NL's levels, with signed 6-bit scales in two parts."""

    nbytes, spec = 136, QuantSpec.parse("iq4_xs")
    fields = (("d", _F16, 1), ("scales_h", _U8, 2), ("scales_l", _U8, 4), ("qs", _U8, 128))

    def _read(self, f: Fields) -> QTensor:
        sc = from_planes(f["scales_l"], 4, 1) | from_planes(f["scales_h"], 2, 1) << 4
        return self.tensor(from_planes(f["qs"], 4, 16), f["d"], sc)

    def _write(self, Q: QTensor) -> Fields:
        d, sc = self.scales(Q)
        high, low = to_planes(sc >> 4, 2, 1), to_planes(sc & 15, 4, 1)
        return {"d": d, "scales_h": high, "scales_l": low, "qs": to_planes(Q.codes, 4, 16)}
