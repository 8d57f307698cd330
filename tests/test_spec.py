"""QuantSpec: names print and parse back, sizes count every stored bit, mistakes are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.grid import get_grid
from qlab.spec import QuantSpec

INTEGER = st.builds(lambda b, r: f"int{b}{r}", st.integers(2, 8), st.sampled_from(["", "~up", "~away"]))
CODEBOOK = st.sampled_from(["nf4", "fp4", "iq4_nl", "e2m1", "e4m3", "e5m2"])
GROUP = st.sampled_from(["g16", "g32-flat", "g64-rows", "g128", "row", "tensor"])
DTYPE = st.sampled_from(["", "-fp32", "-bf16", "-fp16"])
RULED = st.one_of(
    st.tuples(INTEGER, GROUP, st.sampled_from(["sym", "narrow", "asym", "awq", "offset"])),
    st.tuples(CODEBOOK, GROUP, st.sampled_from(["sym", "mx"])),
)
NAMES = st.builds(lambda parts, dtype: "-".join(parts) + dtype, RULED, DTYPE)


@given(NAMES)
def test_a_name_prints_and_parses_back(name: str) -> None:
    spec = QuantSpec.parse(name)
    assert QuantSpec.parse(str(spec)) == spec


@given(NAMES, NAMES, NAMES)
def test_nested_names_parse_back(outer: str, scale: str, offset: str) -> None:
    name = f"{outer}-scale({scale}-scale({offset}))-offset({offset})"
    spec = QuantSpec.parse(name)
    assert QuantSpec.parse(str(spec)) == spec
    assert str(spec.scale.scale) == str(QuantSpec.parse(offset))


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("int4", "int4-g128-asym"),
        ("INT4-g64-sym ", "int4-g64-sym"),
        ("int8-token-sym", "int8-row-sym"),
        ("int8-channel-narrow", "int8-row-narrow"),
        ("nf4", "nf4-g64"),
        ("nf4-g64-dq", "nf4-g64-dq"),
        ("mxfp4", "mxfp4"),
        ("e2m1-g32-mx-scale(e8m0-row-none)", "mxfp4"),
        ("e4m3-row", "e4m3-row-sym"),
        ("int4-g32-offset", "int4-g32-offset"),
    ],
)
def test_canonical_names(name: str, canonical: str) -> None:
    assert str(QuantSpec.parse(name)) == canonical


@pytest.mark.parametrize(
    ("name", "bits"),
    [  # codes + scale (+ zero or minimum) over the group, as formats count them
        ("int4-g128-asym", 4 + (16 + 4) / 128),
        ("int4-g128-sym", 4 + 16 / 128),
        ("int4-g32-sym", 4.5),  # Q4_0
        ("int4-g32-offset", 5.0),  # Q4_1
        ("int8-g32-narrow", 8.5),  # Q8_0
        ("nf4-g64", 4.5),
        ("mxfp4", 4.25),
        # QLoRA: .127 bits of metadata instead of .5, and one float32 mean for the whole tensor
        ("nf4-g64-dq", 4 + 8 / 64 + 32 / (64 * 256) + 32 / (1024 * 1024)),
        ("nvfp4", 4.5 + 32 / (1024 * 1024)),
    ],
)
def test_true_bits_per_weight(name: str, bits: float) -> None:
    assert QuantSpec.parse(name).bits_per_weight((1024, 1024)) == bits


def test_ragged_rows_pay_for_their_short_group() -> None:
    assert QuantSpec.parse("int4-g128-asym").bits_per_weight((10, 576)) == 4 + 5 * 20 / 576


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int9", "unknown grid 'int9' in spec 'int9': did you mean int8"),
        ("banana", "a spec reads like int4-g128-asym"),
        ("int4-g128-asymm", "unknown part 'asymm'.*did you mean asym"),
        ("int4-q128", "did you mean g128"),
        ("int4-xyzzy", "known parts"),
        ("int4-g0", "group size 0"),
        ("nf4-asym", "nf4 is not an integer grid"),
        ("int1-narrow", "no such scale"),
        ("int4-tensor-g32", "leave out one of the two"),
        ("int4-scale(bogus)", "unknown grid 'bogus'"),
        ("", "a spec reads like"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    with pytest.raises(QlabError, match=message):
        QuantSpec.parse(name)


def test_direct_construction_is_checked_too() -> None:
    with pytest.raises(QlabError, match="sint4 is signed"):
        QuantSpec(get_grid("sint4"), 64, "asym")
    with pytest.raises(QlabError, match="dtype 'fp8'"):
        QuantSpec(get_grid("int4"), dtype="fp8")
    with pytest.raises(QlabError, match="unknown rule 'half'"):
        QuantSpec(get_grid("int4"), rule="half")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 64), r"group size 128 is larger than the 64 in a row of layers\.0"),
        ((64,), r"layers\.0 has shape \(64,\)"),
        ((0, 64), "non-empty matrix"),
    ],
)
def test_shapes_are_checked(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(QlabError, match=message):
        QuantSpec.parse("int4-g128-asym").check(shape, "layers.0")
