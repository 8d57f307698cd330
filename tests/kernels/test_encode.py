"""The compiled encoders and decoders: the bytes and numbers of the torch code, on every instruction set there is."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qlab.kernels import cpu
from torch import Tensor

from qlab.convert import encoded
from qlab.errors import QlabError
from qlab.ggml import block_type, compiled, grid_type, grid_types
from qlab.methods import quantize
from qlab.stats import Stats

ROW = 512
KINDS = (
    "normal", "uniform", "constant", "zero", "signed zeros", "tiny", "denormal", "huge", "beyond float16",
    "one outlier", "few values", "many magnitudes", "beside halves",
)  # fmt: skip


def rows(kind: str, count: int, seed: int) -> Tensor:
    """Weights [count, ROW] of one sort."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, ROW, generator=generator)
    uniform = torch.rand(count, ROW, generator=generator)
    sign = torch.where(uniform < 0.5, -1.0, 1.0)
    outlier = 0.01 * normal
    outlier[:, seed % ROW] = 9 * sign[:, 0]
    halves = torch.round(9 * normal) + 0.5 + (torch.round(4 * uniform) - 2) * 2**-24  # in units of a row's last weight
    halves[:, -1] = 127
    return {
        "beside halves": halves,
        "normal": 0.02 * normal, "uniform": uniform - 0.3, "constant": sign[:, :1].expand_as(normal) * 0.3,
        "zero": 0 * uniform, "signed zeros": 0 * sign, "tiny": 1e-20 * normal, "denormal": 1e-40 * normal,
        "huge": 1e4 * normal, "beyond float16": 1e30 * normal, "one outlier": outlier,
        "few values": 0.1 * torch.round(2 * normal), "many magnitudes": sign * 10 ** (9 * normal).clamp(-38, 38),
    }[kind].contiguous()  # fmt: skip


def importance_of(kind: str | None, seed: int) -> Tensor | None:
    """The mean squares of the columns: uneven, and with columns that never see an input."""
    x = torch.rand(ROW, generator=torch.Generator().manual_seed(seed))
    return None if kind is None else x**4 + 1e-6 if kind == "uneven" else torch.where(x < 0.1, 0.0, x)


def statistics(importance: Tensor | None) -> Stats | None:
    if importance is None:
        return None
    stats = Stats(len(importance), gram=False)
    stats.tokens, stats.sq_sum = 1, importance.double()
    return stats


def in_torch(name: str, W: Tensor, importance: Tensor | None) -> Tensor | None:
    """The bytes of the method `ggml`; None where it refuses."""
    kind = grid_type(name)
    try:
        return kind.pack(quantize(W, kind.spec, "ggml", stats=statistics(importance)))
    except QlabError:
        return None


def by_kernel(name: str, W: Tensor, importance: Tensor | None, **how) -> Tensor | None:
    kind = grid_type(name)
    out = torch.zeros(len(W), W.shape[1] // kind.weights * kind.nbytes, dtype=torch.uint8)
    return out if cpu.encode(name, W, out, importance, **how) else None


def test_every_grid_type_is_compiled():
    assert set(cpu.block_types()) == set(grid_types())


@pytest.mark.parametrize("importance", [None, "uneven", "with zeros"])
@pytest.mark.parametrize("name", grid_types())
@settings(max_examples=12, deadline=None)
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), seed=st.integers(0, 2**32), data=st.data())
def test_the_bytes_are_those_of_torch(name, importance, kinds, seed, data):
    W = torch.cat([rows(kind, 1, seed + i) for i, kind in enumerate(kinds)])
    how = {"threads": data.draw(st.sampled_from([1, 2, 5])), "isa": data.draw(st.sampled_from(cpu.isas()))}
    weights = importance_of(importance, seed)
    theirs, ours = in_torch(name, W, weights), by_kernel(name, W, weights, **how)
    if theirs is None:
        assert ours is None
    elif ours is not None:  # where it gives up, `encoded` asks torch
        assert torch.equal(ours, theirs)


@cache
def many() -> Tensor:
    """Enough rows that every thread has several chunks and the last batch is not full."""
    return torch.cat([rows(kind, 7, i) for i, kind in enumerate(("normal", "uniform", "one outlier", "few values"))])


@pytest.mark.parametrize("isa", cpu.isas())
@pytest.mark.parametrize("name", grid_types())
@pytest.mark.parametrize("importance", [None, "uneven"])
def test_no_row_of_plain_weights_is_given_up(name, isa, importance):
    W, weights = many(), importance_of(importance, 3)
    theirs = in_torch(name, W, weights)
    for threads in (1, 2, 3, 8):
        assert torch.equal(by_kernel(name, W, weights, threads=threads, isa=isa), theirs)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, zeros of either sign included; a NaN has more than one way to be written."""
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("name", grid_types())
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.integers(1, 40), threads=st.sampled_from([1, 2, 5]))
def test_any_bytes_decode_to_the_numbers_of_torch(name, seed, blocks, threads):
    kind = grid_type(name)
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(256, (3, blocks * kind.nbytes), dtype=torch.uint8, generator=generator)
    out = torch.zeros(3, blocks * kind.weights)
    cpu.decode(name, data, out, threads)
    assert same_numbers(out, kind.decode(data))


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_every_small_float_scale_decodes(name):
    kind = grid_type(name)
    data = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, kind.nbytes).contiguous()
    out = torch.zeros(256, kind.weights)
    cpu.decode(name, data, out)
    assert same_numbers(out, kind.decode(data))


def test_every_float16_is_rounded_to_and_read_alike():
    # All of a block is its scale's float16: d = max|w|. The values lie on, between and halfway between float16s.
    halves = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16).float()
    W = torch.cat([halves, (halves[:-1] + halves[1:]) / 2, halves[1:] * (1 + 2**-12), halves[1:] * (1 - 2**-12)])
    W = W[: len(W) // 256 * 256, None].expand(-1, 256).contiguous()
    data = by_kernel("TQ2_0", W, None)
    assert data is not None and torch.equal(data[:, 64:].contiguous().view(torch.float16)[:, 0], W[:, 0].half())
    assert torch.equal(grid_type("TQ2_0").decode(data)[:, 0], W[:, 0].half().float())
    assert torch.equal(compiled.decode(grid_type("TQ2_0"), data.numpy())[:, 0], W[:, 0].half().float())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", grid_types())
def test_what_is_not_finite_is_given_up_and_named(name, bad):
    W = rows("normal", 2, 0)
    W[1, 300] = bad
    assert all(by_kernel(name, W, None, isa=isa) is None for isa in cpu.isas())
    assert by_kernel(name, rows("normal", 2, 0), torch.full((ROW,), bad)) is None or name in (
        "Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",  # importance is nothing to them
    )  # fmt: skip
    with pytest.raises(QlabError, match=r"blk.0.x holds (nan|-?inf) at row 1, column 300"):
        encoded(W, name, "blk.0.x")


def test_a_scale_that_does_not_fit_is_torchs_error():
    with pytest.raises(QlabError, match=r"a scale of 1e\+0[45] does not fit fp16"):
        encoded(torch.full((1, 32), 8e5), "Q4_0")


def test_without_the_kernels_torch_does_it(monkeypatch):
    W = rows("normal", 3, 0)
    data = encoded(W, "Q4_K")
    numbers = compiled.decode(grid_type("Q4_K"), data.numpy())
    monkeypatch.setattr(cpu, "available", False)
    assert torch.equal(encoded(W, "Q4_K"), data)
    assert torch.equal(compiled.decode(grid_type("Q4_K"), data.numpy()), numbers)


@pytest.mark.parametrize("where", ["meta", "cpu"])
def test_torchs_defaults_change_nothing(where):
    W, kind = rows("normal", 3, 0), grid_type("Q4_K")
    data = encoded(W, "Q4_K")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device(where):
            assert torch.equal(compiled.encode(kind, W), data)
            assert compiled.decode(kind, data.numpy()).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_types_that_are_numbers_themselves_decode_too():
    W = rows("normal", 3, 0)
    data = block_type("BF16").encode_plain(W)
    assert torch.equal(compiled.decode(block_type("BF16"), data.numpy()), W.bfloat16().float())


def test_weights_that_lie_apart_are_put_together_first():
    W = rows("normal", 4, 0)
    apart = W.T.contiguous().T
    assert torch.equal(compiled.encode(grid_type("Q4_K"), apart), compiled.encode(grid_type("Q4_K"), W))


W, OUT = np.zeros((2, 256), np.float32), np.zeros((2, 144), np.uint8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"type": "Q9_K"}, ValueError, r"type is Q9_K: choose one of Q4_0, .*NVFP4"),
        ({"isa": "mmx"}, ValueError, r"isa is mmx: this processor runs .*scalar"),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"W": W[:, :128].copy()}, ValueError, "W has rows of 128: Q4_K needs a multiple of 256"),
        ({"out": OUT[:, :143].copy()}, ValueError, r"out is \[2, 143\]: \[2, 144\] is needed"),
        ({"out": OUT[:1]}, ValueError, r"out is \[1, 144\]: \[2, 144\] is needed"),
        ({"importance": W[0, :255]}, ValueError, "importance has 255 numbers: W has rows of 256"),
        ({"W": W.astype(np.float64)}, TypeError, "^W must be a contiguous ndarray"),
        ({"W": np.zeros((2, 512), np.float32)[:, ::2]}, TypeError, "^W must be a contiguous ndarray"),
        ({"W": W[0]}, TypeError, "^W must be a contiguous ndarray"),
        ({"out": OUT.view(np.int8)}, TypeError, "^out must be a contiguous ndarray"),
        ({"importance": W[:1]}, TypeError, "^importance must be a contiguous ndarray"),
    ],
)
def test_what_encode_refuses(change, error, message):
    with pytest.raises(error, match=message):
        cpu.encode(**({"type": "Q4_K", "W": W, "out": OUT.copy()} | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": OUT[:, :143].copy()}, ValueError, "data has rows of 143 bytes: Q4_K needs a multiple of 144"),
        ({"out": W[:, :255].copy()}, ValueError, r"out is \[2, 255\]: \[2, 256\] is needed"),
        ({"data": OUT.view(np.int8)}, TypeError, "^data must be a contiguous ndarray"),
        ({"out": W.astype(np.float64)}, TypeError, "^out must be a contiguous ndarray"),
        ({"type": "F16"}, ValueError, "type is F16"),
    ],
)
def test_what_decode_refuses(change, error, message):
    with pytest.raises(error, match=message):
        cpu.decode(**({"type": "Q4_K", "data": OUT, "out": W.copy()} | change))


def test_read_only_outputs_are_refused():
    out = OUT.copy()
    out.flags.writeable = False
    with pytest.raises(TypeError, match="^(W|out|importance|data) must be a contiguous ndarray"):
        cpu.encode("Q4_K", W, out)


def test_no_rows_are_no_work():
    assert cpu.encode("Q4_K", W[:0], OUT[:0])
    cpu.decode("Q4_K", OUT[:0], W[:0])
