"""AWQ checkpoints: weight by weight as AutoAWQ's gemm version defines them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.layouts import get_layout
from qlab.spec import QuantSpec
from tests.layouts.oracle import assert_same, field, random_qtensor

AWQ = get_layout("awq")
READ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # the nibble that holds output channel 8·word + k


@settings(max_examples=30)
@given(st.sampled_from([16, 32, 64, 128]), st.sampled_from(["sym", "narrow", "asym", "awq"]), st.integers(1, 9),
       st.integers(1, 4), st.integers(0, 2**16))  # fmt: skip
def test_unpacking_gives_back_what_was_packed(group, rule, rows, groups, seed) -> None:
    Q = random_qtensor(f"int4-g{group}-{rule}", 8 * rows, group * groups, seed)
    assert_same(AWQ.unpack(AWQ.pack(Q), Q.shape, Q.spec), Q)


@pytest.mark.parametrize("rule", ["awq", "sym"])
def test_every_weight_is_where_the_format_says(rule: str) -> None:
    Q = random_qtensor(f"int4-g32-{rule}", 24, 96, 1)
    tensors, W_hat = AWQ.pack(Q), Q.dequantize(torch.float64)
    assert {k: tuple(t.shape) for k, t in tensors.items()} == {"qweight": (96, 3), "qzeros": (3, 3), "scales": (3, 24)}
    for o in range(24):
        for i in (0, 31, 32, 95):
            word, nibble = o // 8, READ_ORDER[o % 8]
            code = field([int(tensors["qweight"][i, word])], 4, nibble)
            zero = field([int(tensors["qzeros"][i // 32, word])], 4, nibble)
            assert float(tensors["scales"][i // 32, o]) * (code - zero) == W_hat[o, i]


REFUSED = [
    ("int3-g32-asym", (64, 128), {}, "q_proj has 3 bits: awq stores 4"),
    ("int4-g32-asym", (36, 128), {}, "q_proj has 36 out channels: awq packs 8 at a time"),
    ("int4-g128-asym", (64, 576), {}, "no multiple of the group 128: .* use a group of 64"),
    ("int4-g24-asym", (64, 96), {}, "q_proj has groups of 24: AWQ's kernels take 16, 32, 64, 128"),
    ("int4-g128-asym-fp32", (64, 128), {}, "q_proj has fp32 scales"),
    ("int4-g32-asym", (64, 128), {"group_index": True}, "scattered groups: awq has no group index; use act_order"),
]


@pytest.mark.parametrize(("spec", "shape", "options", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_other_tools_cannot_load_is_refused(spec, shape, options, message) -> None:
    with pytest.raises(QlabError, match=message):
        AWQ.check(shape, QuantSpec.parse(spec), "q_proj", **options)


def test_a_symmetric_label_on_other_zero_points_is_refused() -> None:
    Q = random_qtensor("int4-g32-awq", 8, 64, 0)
    with pytest.raises(QlabError, match="qzeros are not all 8 in a symmetric layer.* zero_point: true"):
        AWQ.unpack(AWQ.pack(Q), Q.shape, QuantSpec.parse("int4-g32-sym"))


def test_the_configuration_holds_one_spec() -> None:
    spec = QuantSpec.parse("int4-g64-awq")
    config = AWQ.config({"a": spec, "b": spec}, ["lm_head"])
    assert config == {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm",
                      "modules_to_not_convert": ["lm_head"]}  # fmt: skip
    assert AWQ.accepts(config) and AWQ.specs(config)("a") == spec and AWQ.specs(config)("lm_head") is None
    with pytest.raises(QlabError, match="b is int4-g32-awq, most layers have 4 bits in groups of 64: awq holds one"):
        AWQ.config({"a": spec, "c": spec, "b": QuantSpec.parse("int4-g32-awq")})


def test_other_tools_spellings_are_read() -> None:
    assert AWQ.specs({"w_bit": 4, "q_group_size": -1})("x") == QuantSpec.parse("int4-row-awq")
    assert AWQ.specs({"bits": 4, "group_size": 32, "sym": True})("x") == QuantSpec.parse("int4-g32-narrow")
    assert AWQ.accepts({"quant_method": "awq", "version": "GEMM"})
    assert not AWQ.accepts({"quant_method": "awq", "version": "gemv"})
    with pytest.raises(QlabError, match="bits 8 in an awq configuration"):
        AWQ.specs({"bits": 8, "group_size": 32})
