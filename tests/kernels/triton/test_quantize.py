"""Rounding on the device against the workbench's own round-to-nearest: the same codes, scales and zeros."""

import pytest
import torch
from qlab.kernels import triton as kernels

from qlab.grid import get_grid
from qlab.ranges import round_to_nearest
from qlab.spec import QuantSpec


def weight(N=40, K=256):
    W = torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 0.05
    W[3] = 0  # a row without extent
    return W


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("rule", ["sym", "asym"])
@pytest.mark.parametrize("group", [32, 128, None])
def test_codes_are_those_of_rtn(bits, rule, group):
    W = weight()
    codes, scale, zero = kernels.unpack(kernels.quantize(W, bits, group or 256, rule))
    wanted = round_to_nearest(W, QuantSpec.parse(f"int{bits}-{f'g{group}' if group else 'row'}-{rule}"))
    assert torch.equal(codes, wanted.codes.reshape(codes.shape))
    assert torch.equal(scale, wanted.scale.reshape(scale.shape))
    assert zero is None if rule == "sym" else torch.equal(zero, wanted.zero.reshape(zero.shape).half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_nf4_takes_the_nearest_entry(dtype):
    W, book = weight().to(dtype), torch.tensor(get_grid("nf4").levels)
    codes, scale, _ = kernels.unpack(kernels.quantize(W, 4, 64, "table", codebook=book))
    levels = book.half().float()
    at = W.float() / scale.float().repeat_interleave(64, 1)
    distance = (at.unsqueeze(-1) - levels).abs()
    chosen = distance.gather(-1, codes.long().unsqueeze(-1)).squeeze(-1)
    assert torch.equal(chosen, distance.amin(-1))


REFUSED = [
    ({"bits": 3}, "bits is 3"), ({"group": 96}, "group 96 does not divide"), ({"group": 8}, "group 8 with K = 256"),
    ({"rule": "best"}, "there is no rule 'best'"), ({"rule": "table"}, "go together"),
    ({"rule": "table", "codebook": torch.zeros(16)}, "16 rising numbers"), ({"W": weight().T}, "call W.contiguous"),
    ({"W": torch.zeros(0, 256)}, "give"), ({"W": torch.zeros(4, 256, dtype=torch.uint8)}, "W is torch.uint8"),
]  # fmt: skip


@pytest.mark.parametrize("asked, message", REFUSED)
def test_what_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        kernels.quantize(**({"W": weight()} | asked))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"dtype": torch.float32}, "dtype is torch.float32: give float16 or bfloat16"),
        ({"group": 0}, "group is 0: give a power of two"),
        ({"W": weight() * 1e7}, "a scale is beyond torch.float16"),
    ],
)
def test_what_cannot_be_stored_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        kernels.quantize(given.pop("W", weight()), **given)
