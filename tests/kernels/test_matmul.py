"""The CPU kernels held to their oracles: exact where sums are exact, within float32's rounding elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qlab.kernels import cpu
from qtensors import CODES, GGML, SCALES, SPECS, made, size, stored_in
from torch import nn

from qlab.errors import QlabError
from qlab.ggml.activations import q8_0, q8_k
from qlab.nn import INPUTS, FloatLinear, QEmbedding, QLinear
from qlab.packed import pack_floats
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec
from qlab.tiles import tile

TOKENS = (1, 2, 3, 4, 5, 15, 16, 17, 33)
ISAS = cpu.isas()
# one of each way of computing: no zero, a zero point, a minimum, a table, bytes of scales with and without minima
WAYS = ("q4_0", "q8_0", "int3-g64-asym", "int8-g32-asym", "q4_1", "iq4_nl", "q2_k", "q4_k", "q6_k", "iq4_xs")
CASE = {
    "rows": st.integers(1, 70),
    "blocks": st.integers(1, 12),
    "tokens": st.sampled_from(TOKENS),
    "threads": st.integers(1, 5),
    "dtype": st.sampled_from(["fp16", "fp32", "bf16"]),
    "codes": st.sampled_from(CODES),
    "seed": st.integers(0, 2**31),
    "order": st.booleans(),
}


def test_every_format_is_reached():
    assert {tile(made(spec, 3, 256)).format for spec in SPECS} == set(cpu.formats())


def matrix(spec, rows, blocks, seed, codes, scales, order, dtype):
    """A QTensor of at least one group in a row; act-order where a format has it."""
    found = stored_in(spec, dtype if "offset" not in str(spec) and spec not in GGML else "fp16")
    nested = found.scale is not None
    columns = 256 * (1 + blocks % 2) if nested else max(32 * blocks, found.group_size or 0)
    return made(found, rows, columns, seed, codes, scales, order and not nested)


def block_of(Q):
    """Inputs that share a scale."""
    return 32 if Q.spec.scale is None else 256


def rounded(X, Q, half):
    """The inputs as the kernels round them, float64."""
    if block_of(Q) == 256:
        return q8_k(X).double()
    if half:
        return q8_0(X).double()
    blocks = X.reshape(-1, 32)
    peak = blocks.abs().amax(1, keepdim=True)
    codes = torch.round(blocks * torch.where(peak > 0, torch.tensor(127.0) / peak, 0))
    return (codes.double() * (peak / 127).double()).reshape(X.shape)


def bound(Q, X):
    """What float32 may lose of X · W_hatᵀ: half a unit of the sum at an addition, of a term at four products."""
    span = 32 if Q.spec.scale is None else Q.spec.group_size
    additions = Q.shape[1] // span * (2 if Q.offset is not None else 1)
    return (additions + 4) * 2.0**-24 * (X.abs() @ size(Q).T)


def stored_order(packed):
    """The columns in the order in which blocks are cut."""
    return torch.arange(packed.shape[1]) if packed.order is None else packed.order


def whole_inputs(Q, order, tokens, draw):
    """Inputs that are 8-bit codes · 2^k already, as large as leaves every partial sum below 2^24 units."""
    block, columns = block_of(Q), Q.shape[1]
    unit = 2.0 ** torch.randint(-3, 4, (tokens, 1), generator=draw)
    for largest in (127, 40, 12, 4, 1):
        codes = torch.randint(-largest, largest + 1, (tokens, columns), generator=draw).float()
        codes[:, order[::block]] = 127.0 * (1 - 2 * torch.randint(2, (tokens, columns // block), generator=draw))
        if (codes.abs().double() @ size(Q).T).max() < 2**24:
            return codes * unit
    raise AssertionError("no input is small enough")


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=8)
@given(**CASE)
def test_exact_sums_are_exact(spec, rows, blocks, tokens, threads, dtype, codes, seed, order):
    Q = matrix(spec, rows, blocks, seed, codes, "powers", order, dtype)
    packed = tile(Q)
    X = whole_inputs(Q, stored_order(packed), tokens, torch.Generator().manual_seed(seed))
    wanted = (X.double() @ Q.dequantize(torch.float64).T).float()
    for isa in ISAS:
        assert torch.equal(packed.multiply(X, isa=isa, threads=threads), wanted), isa


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=8)
@given(**CASE, scales=st.sampled_from(SCALES), half=st.booleans(), size_of_inputs=st.integers(-8, 4))
def test_within_the_rounding_of_float32(
    spec, rows, blocks, tokens, threads, dtype, codes, seed, order, scales, half, size_of_inputs
):
    Q = matrix(spec, rows, blocks, seed, codes, scales, order, dtype)
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(tokens, Q.shape[1], generator=draw) * 10.0**size_of_inputs
    X[torch.rand(X.shape, generator=draw) < 0.3] = 0
    packed = tile(Q)
    stored = stored_order(packed)
    X_hat = rounded(X[:, stored], Q, half)[:, stored.argsort()]
    wanted, allowed = X_hat @ Q.dequantize(torch.float64).T, bound(Q, X_hat)
    # a product of two scales below 2^-126 is rounded to a multiple of 2^-149, and then multiplied by a sum of codes
    allowed += Q.shape[1] * 127 * 255 * 2.0**-150 * 255
    for isa in ISAS:
        error = (packed.multiply(X, half, isa, threads).double() - wanted).abs()
        assert (error <= allowed).all(), (isa, float((error / allowed).max()))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("spec, columns", [("int8-g32-sym", 64), ("q6_k", 256)])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-42, 37), tokens=st.sampled_from(TOKENS))
def test_instruction_sets_round_inputs_alike(spec, columns, half, seed, exponent, tokens):
    Q = made(spec, columns, columns, seed, "random", "powers")
    zero = -int(Q.spec.grid.levels[0])
    Q.codes[:] = zero
    Q.codes.fill_diagonal_(zero + 1)  # so that every output is one input's code times its scale
    X = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    X[:, 3] = X[:, 5] * 127.5 / 127  # halves, often
    packed = tile(Q)
    first = packed.multiply(X, half, ISAS[0])
    for isa in ISAS[1:]:
        found = packed.multiply(X, half, isa)
        assert torch.equal(found.nan_to_num(nan=1e38), first.nan_to_num(nan=1e38))


@pytest.mark.parametrize("codes", CODES[1:])
@pytest.mark.parametrize("spec", SPECS)
def test_the_largest_codes_times_the_largest_inputs(spec, codes):
    """Where 16-bit sums would saturate: all inputs ±127, the signs alternating by ones, twos, fours or not at all."""
    columns = 256 if QuantSpec.parse(spec).scale is not None else max(128, QuantSpec.parse(spec).group_size or 0)
    Q = made(spec, 17, columns, 5, codes, "powers")
    if isinstance(Q.scale, QTensor):  # 256 · 127 · 127 · 2 · 2 is just below 2^24
        zero = -int(Q.scale.spec.grid.levels[0])
        Q.scale.codes.clamp_(max(0, zero - 2), zero + 2)
    at = torch.arange(columns)
    X = torch.stack([127.0 * (1 - 2 * (at // run % 2)) for run in (1, 2, 4, 16, columns)])
    X = torch.cat([X, -X, torch.where(at % 4 == 0, 127.0, -127.0)[None], X])
    wanted = (X.double() @ Q.dequantize(torch.float64).T).float()
    assert (X.abs().double() @ size(Q).T).max() < 2**24
    for isa in ISAS:
        assert torch.equal(tile(Q).multiply(X, isa=isa), wanted), isa


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("spec", WAYS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_stay_with_their_token(spec, isa, value):
    packed = tile(made(spec, 20, 512, 1, "random", "zero"))
    X = torch.randn(22, 512, generator=torch.Generator().manual_seed(0))
    clean = packed.multiply(X, isa=isa)
    hit = [0, 5, 17, 21]
    X[hit, [0, 511, 40, 255]] = value
    found = packed.multiply(X, isa=isa)
    assert found[hit].isnan().all()
    others = [t for t in range(22) if t not in hit]
    assert torch.equal(found[others], clean[others])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("spec", WAYS)
def test_nothing_in_nothing_out(spec, isa):
    packed = tile(made(spec, 20, 256))
    assert packed.multiply(torch.empty(0, 256), isa=isa).shape == (0, 20)
    assert (packed.multiply(torch.zeros(5, 256), isa=isa) == 0).all()
    # below 2^-121 there is no 127 / max|x|: such inputs count as nothing
    assert (packed.multiply(torch.full((5, 256), 2.0**-122), isa=isa) == 0).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("spec", WAYS)
@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_tiny_and_huge_inputs(spec, isa, magnitude):
    Q = made(spec, 20, 256)
    X = torch.randn(5, 256, generator=torch.Generator().manual_seed(0)) * magnitude
    X_hat = rounded(X, Q, False)
    found = tile(Q).multiply(X, isa=isa).double()
    allowed = bound(Q, X_hat) + 256 * 127 * 255 * 2.0**-150 * 255
    assert ((found - X_hat @ Q.dequantize(torch.float64).T).abs() <= allowed).all()
    if block_of(Q) == 32:  # a float16 scale has no room for them
        stored = tile(Q).multiply(X, half=True, isa=isa)
        assert (stored == 0).all() if magnitude < 1 else not stored.isfinite().any()


@pytest.mark.parametrize("spec", WAYS)
def test_tokens_and_threads_do_not_change_a_bit(spec):
    packed = tile(made(spec, 70, 512))
    X = torch.randn(33, 512, generator=torch.Generator().manual_seed(0))
    for isa in ISAS:
        alone = torch.cat([packed.multiply(x[None], isa=isa, threads=1) for x in X])
        assert all(torch.equal(packed.multiply(X, isa=isa, threads=n), alone) for n in (1, 2, 5))


# --- refusals


def arguments(spec="int4-g64-asym", **changed):
    """A valid call of cpu.multiply, some of its arguments changed."""
    W = tile(made(spec, 20, 256))
    given = {"format": W.format, "codes": W.codes, "scale": W.scale, "offset": W.offset, "sub": W.sub,
             "group": W.group, "rows": 20, "x": torch.ones(3, 256), "y": torch.empty(3, 20)}  # fmt: skip
    return given | {name: change(given[name]) if callable(change) else change for name, change in changed.items()}


WRONG_VALUES = [
    ("format", {"format": "int7"}),
    ("codes", {"codes": lambda t: t[:, :, :-1].contiguous()}),
    ("codes", {"codes": lambda t: t.flatten(1)}),
    ("codes", {"codes": lambda t: t[:, :0].contiguous()}),
    ("rows", {"rows": 33}),
    ("rows", {"rows": 16}),
    ("rows", {"rows": 0}),
    ("rows", {"rows": -1}),
    ("group", {"group": 0}),
    ("group", {"group": -2}),
    ("scale", {"group": 1}),
    ("scale", {"group": 2**62}),
    ("scale", {"group": 2**63 - 1, "scale": torch.empty(2, 0, 16), "offset": torch.empty(2, 0, 16, dtype=torch.uint8)}),
    ("scale", {"scale": lambda t: t.bfloat16()}),
    ("scale", {"scale": lambda t: t.double()}),
    ("scale", {"scale": lambda t: t.view(torch.int16)}),
    ("scale", {"scale": lambda t: t[:1].contiguous()}),
    ("offset", {"offset": None}),
    ("offset", {"offset": lambda t: t.half()}),
    ("offset", {"offset": lambda t: t.view(torch.int8)}),
    ("offset", {"offset": lambda t: t[:, :1].contiguous()}),
    ("sub", {"sub": torch.zeros(2, 1, 16, 16, dtype=torch.uint8)}),
    ("offset", {"spec": "q4_0", "offset": torch.zeros(2, 8, 16, dtype=torch.uint8)}),
    ("offset", {"spec": "q4_1", "offset": lambda t: t.float()}),
    ("scale", {"spec": "q4_k", "scale": lambda t: t.float()}),
    ("sub", {"spec": "q4_k", "sub": None}),
    ("sub", {"spec": "q4_k", "sub": lambda t: t[:, :, :8].contiguous()}),
    ("sub", {"spec": "q6_k", "sub": lambda t: t.view(torch.int8)}),
    ("blocks", {"spec": "q6_k", "codes": lambda t: t[:, :4].contiguous()}),
    ("x", {"x": torch.ones(256)}),
    ("x", {"x": torch.ones(3, 224)}),
    ("y", {"y": torch.empty(2, 20)}),
    ("y", {"y": torch.empty(3, 32)}),
    ("threads", {"threads": 0}),
    ("threads", {"threads": -3}),
    ("isa", {"isa": "sse9"}),
]


@pytest.mark.parametrize("name, changed", WRONG_VALUES)
def test_wrong_values_are_refused_by_name(name, changed):
    cpu.multiply(**arguments(changed.get("spec", "int4-g64-asym")))
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        cpu.multiply(**arguments(**changed))


WRONG_TYPES = [
    {"codes": lambda t: t.to(torch.int8)},
    {"codes": lambda t: t.transpose(0, 1)},
    {"codes": lambda t: t.to("meta")},
    {"scale": lambda t: t.transpose(0, 1)},
    {"offset": lambda t: t.transpose(0, 1)},
    {"x": torch.ones(3, 256).double()},
    {"x": torch.ones(256, 3).T},
    {"x": torch.ones(3, 512)[:, ::2]},
    {"x": torch.ones(3, 256, device="meta")},
    {"y": torch.empty(3, 20).half()},
    {"y": torch.empty(20, 3).T},
    {"y": torch.empty(3, 20).numpy().astype("f4").tobytes()},
]


@pytest.mark.parametrize("changed", WRONG_TYPES)
def test_wrong_types_layouts_and_devices_are_refused(changed):
    with pytest.raises(TypeError, match=rf"^{next(iter(changed))} must be a contiguous ndarray\[.*: it is "):
        cpu.multiply(**arguments(**changed))


def test_a_result_is_not_written_to_a_read_only_array():
    y = torch.zeros(3, 20).numpy()
    y.flags.writeable = False
    with pytest.raises(TypeError, match="^y must be a contiguous ndarray"):
        cpu.multiply(**arguments(y=y))


FAR = 2**63 - 16  # a multiple of 16 that overflows when rows are added


@pytest.mark.parametrize("first", [-16, 8, 16, 32, FAR])
def test_rows_outside_the_matrix_are_refused(first):
    W = arguments()
    parts = [W[name] for name in ("format", "codes", "scale", "offset", "sub", "group", "rows")]
    with pytest.raises(ValueError, match="first must be a multiple of 16 inside the matrix"):
        cpu.dequantize(*parts, first, torch.empty(17, 256))
    with pytest.raises(ValueError, match="first must be a multiple of 16 inside the matrix"):
        cpu.untile(W["codes"], first, torch.empty(17, 256, dtype=torch.uint8))
    with pytest.raises(IndexError, match="ids holds"):
        cpu.dequantize_rows(*parts, torch.tensor([0, first if first != 8 and first != 16 else 20]), torch.empty(2, 256))


@pytest.mark.parametrize(
    "bits, codes, out, message",
    [
        (0, (20, 64), (2, 2, 0), "bits is 0"),
        (9, (20, 64), (2, 2, 576), "bits is 9"),
        (4, (20, 48), (2, 1, 256), "codes must be"),
        (4, (1, 20, 64), (2, 2, 256), "codes must be"),
        (4, (20, 64), (1, 2, 256), "out is"),
        (4, (20, 64), (2, 2, 192), "out is"),
    ],
)
def test_what_cannot_be_tiled_is_refused(bits, codes, out, message):
    with pytest.raises(ValueError, match=message):
        cpu.tile(torch.zeros(codes, dtype=torch.uint8), bits, torch.zeros(out, dtype=torch.uint8))


def test_the_instruction_set_is_the_best_unless_named():
    assert cpu.isa() in ISAS and cpu.isa("scalar") == "scalar"
    with pytest.raises(ValueError, match="isa is sse9: this processor runs .*scalar"):
        cpu.isa("sse9")


# --- in torch


@pytest.mark.parametrize("spec", ["q4_0", "int4-g64-asym", "q4_k"])
def test_the_operator_keeps_torchs_rules(spec):
    W = tile(made(spec, 20, 256))
    given = (torch.randn(3, 256), W.codes, W.scale, W.offset, W.sub, W.format, W.group, 20, False)
    torch.library.opcheck(torch.ops.qlab.multiply, given)
    torch.library.opcheck(torch.ops.qlab.dequantize, (*W.arrays, W.format, W.group, 20, 16, 4))
    ids = torch.tensor([3, 19, 3])
    torch.library.opcheck(torch.ops.qlab.dequantize_rows, (*W.arrays, W.format, W.group, 20, ids))


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("spec, order", [("q8_0", False), ("q4_k", False), ("int4-g64-asym", True)])
def test_packed_layers_compile_whole(spec, order, inputs):
    W = tile(made(spec, 20, 256, order=order))
    layers = nn.Sequential(QEmbedding(W), QLinear(W, torch.randn(20), inputs=inputs))
    ids = torch.arange(20).reshape(2, 10)
    torch.compiler.reset()  # the layers of the other cases count as compilations of this one
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(ids), layers(ids))


def packed_layers():
    W, (_, F, _) = tile(made("q4_k", 20, 256)), floats("float16", 20, 8, 0)
    return [*(QLinear(W, torch.randn(20), inputs=inputs) for inputs in INPUTS), FloatLinear(F)]


def test_no_tokens_no_rows():
    for layer in packed_layers():
        assert layer(torch.empty(0, 256)).shape == (0, 20)
        assert layer(torch.empty(2, 0, 256)).shape == (2, 0, 20)
    assert QEmbedding(tile(made("q4_k", 20, 256)))(torch.empty(3, 0, dtype=torch.int64)).shape == (3, 0, 256)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_inputs_that_are_no_floats_are_refused(dtype):
    for layer in [*packed_layers(), QLinear(made("q4_k", 20, 256))]:
        with pytest.raises(QlabError, match=r"\[3, 256\]: this layer takes floats \[\.\.\., 256\]"):
            layer(torch.ones(3, 256, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 255), (3, 0), ()])
def test_inputs_of_another_length_are_refused(shape):
    for layer in packed_layers():
        with pytest.raises(QlabError, match="this layer takes floats"):
            layer(torch.ones(shape))


def test_ids_may_be_32_bit():
    embedding, ids = QEmbedding(tile(made("q4_k", 20, 256))), torch.tensor([[3, 19]])
    assert torch.equal(embedding(ids.int()), embedding(ids))


FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def floats(format, rows, blocks, seed, spread=1.0):
    draw = torch.Generator().manual_seed(seed)
    W = (torch.randn(rows, 32 * blocks, generator=draw) * spread).to(FLOATS[format])
    return W, pack_floats([W], (rows, 32 * blocks)), draw


def test_every_float_has_kernels():
    assert cpu.floats() == list(FLOATS)


@pytest.mark.parametrize("format", FLOATS)
@settings(max_examples=20)
@given(
    rows=CASE["rows"], blocks=CASE["blocks"], tokens=CASE["tokens"], threads=CASE["threads"], seed=CASE["seed"],
    spread=st.sampled_from([1e-6, 0.02, 1.0, 1000.0]),
)  # fmt: skip
def test_floats_lose_nothing_but_the_roundings_of_their_sums(format, rows, blocks, tokens, threads, seed, spread):
    W, packed, draw = floats(format, rows, blocks, seed, spread)
    assert torch.equal(packed.dequantize(), W.float())
    X = torch.randn(tokens, W.shape[1], generator=draw)
    wanted, terms = X.double() @ W.double().T, X.double().abs() @ W.double().abs().T
    for isa in ISAS:
        Y = packed.multiply(X, isa=isa, threads=threads)
        assert ((Y.double() - wanted).abs() <= (W.shape[1] + 1) * 2.0**-24 * terms).all(), isa
        assert torch.equal(Y[:1], packed.multiply(X[:1], isa=isa)), isa  # whatever tokens stand beside


@pytest.mark.parametrize("format", FLOATS)
def test_floats_multiply_in_whole_numbers_exactly(format):
    """Sums below 2^24 of integers below 2^8: every rounding is none; float16's smallest included."""
    draw = torch.Generator().manual_seed(3)
    W = torch.randint(-128, 129, (37, 96), generator=draw).to(FLOATS[format])
    X = torch.randint(-900, 900, (21, 96), generator=draw).float()
    for unit in (1.0, 2.0**-24 if format == "float16" else 2.0**-116):
        packed = pack_floats([(W[:16] * unit), (W[16:] * unit)], (37, 96))
        for isa in ISAS:
            assert torch.equal(packed.multiply(X / unit, isa=isa), X @ W.float().T), isa


@pytest.mark.parametrize("format", FLOATS)
def test_floats_that_are_not_finite_stay_in_their_rows_and_tokens(format):
    W, _, draw = floats(format, 20, 2, 5)
    W[3, 5], W[7, 9] = float("nan"), float("inf")
    packed, X = pack_floats([W], (20, 64)), torch.randn(5, 64, generator=draw).abs()
    X[2, 40] = float("nan")
    for isa in ISAS:
        Y = packed.multiply(X, isa=isa)
        assert Y[:, 3].isnan().all() and Y[2].isnan().all()
        assert (Y[[0, 1, 3, 4], 7] == float("inf")).all()
        assert Y[[0, 1, 3, 4]][:, [r for r in range(20) if r not in (3, 7)]].isfinite().all()


def test_floats_and_quantized_weights_are_refused_each_others_arrays():
    _, packed, _ = floats("float16", 16, 2, 0)
    x, y = torch.zeros(1, 64), torch.zeros(1, 16)
    scale = torch.ones(1, 2, 16)
    with pytest.raises(ValueError, match="scale is given, but this format has none"):
        cpu.multiply("float16", packed.codes, scale, None, None, 1, 16, x, y)
    with pytest.raises(ValueError, match="scale is missing: this format has one"):
        cpu.multiply("int8", torch.zeros(1, 2, 512, dtype=torch.uint8), None, None, None, 1, 16, x, y)
    odd = torch.zeros(packed.codes.numel() + 1, dtype=torch.uint8)[1:].view(packed.codes.shape)
    with pytest.raises(ValueError, match="codes does not lie at a multiple of 2 bytes"):
        cpu.multiply("float16", odd, None, None, None, 1, 16, x, y)
