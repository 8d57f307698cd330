"""GPTQ checkpoints: weight by weight as AutoGPTQ defines them, both versions, and the label that may be wrong."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.layouts import get_layout
from qlab.methods import quantize
from qlab.spec import QuantSpec
from tests.layouts.oracle import assert_same, field, random_qtensor

V1, V2 = get_layout("gptq"), get_layout("gptq_v2")
WIDTHS = st.sampled_from([2, 3, 4, 8])
GROUPS = st.sampled_from(["g16", "g32", "g64", "g128", "row"])


def weight(tensors, bits: int, o: int, i: int, below: int) -> float:
    """W[o, i] = scales[g_idx[i], o] · (code − zero), read as AutoGPTQ stores them: codes down rows, zeros along out."""
    g = int(tensors["g_idx"][i])
    code = field(tensors["qweight"][:, o].tolist(), bits, i)
    zero = field(tensors["qzeros"][g].tolist(), bits, o) + below
    return float(tensors["scales"][g, o]) * (code - zero)


@settings(max_examples=40)
@given(WIDTHS, GROUPS, st.sampled_from(["sym", "narrow", "asym", "awq"]), st.integers(1, 3), st.integers(1, 6),
       st.booleans(), st.integers(0, 2**16))  # fmt: skip
def test_unpacking_gives_back_what_was_packed(bits, group, rule, rows, columns, scattered, seed) -> None:
    size = 32 * columns if group == "row" else int(group[1:])
    columns = max(1, -(-size // 32), columns)  # a group is no larger than a row; the last one may be shorter
    Q = random_qtensor(f"int{bits}-{group}-{rule}", 32 * rows, 32 * columns, seed, scattered)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(V2.unpack(V2.pack(Q), Q.shape, Q.spec), Q)
        if Q.spec.symmetric:
            assert_same(V1.unpack(V1.pack(Q), Q.shape, Q.spec), Q)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("scattered", [False, True])
def test_every_weight_is_where_the_format_says(bits: int, scattered: bool) -> None:
    for layout, rule in ((V1, "sym"), (V2, "sym"), (V2, "asym")):
        Q = random_qtensor(f"int{bits}-g64-{rule}", 32, 96, bits, scattered)
        tensors, W_hat = layout.pack(Q), Q.dequantize(torch.float64)
        for o, i in [(0, 0), (1, 10), (7, 31), (31, 32), (30, 63), (16, 64), (31, 95)]:
            assert weight(tensors, bits, o, i, layout.below) == W_hat[o, i]


def test_shapes_and_dtypes_are_those_of_the_format() -> None:
    tensors = V1.pack(quantize(torch.randn(64, 576, generator=torch.Generator().manual_seed(0)), "int3-g128-sym"))
    found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
    assert found == {
        "qweight": ((54, 64), torch.int32),
        "qzeros": ((5, 6), torch.int32),
        "scales": ((5, 64), torch.float16),  # ⌈576/128⌉ rows: the last group has 64 columns
        "g_idx": ((576,), torch.int32),
    }
    assert tensors["g_idx"].tolist() == [i // 128 for i in range(576)]


def test_symmetric_zero_points_are_the_published_words() -> None:
    Q = random_qtensor("int4-g32-sym", 32, 64, 0)
    assert set(V1.pack(Q)["qzeros"].flatten().tolist()) == {0x77777777}
    assert set(V2.pack(Q)["qzeros"].flatten().tolist()) == {0x88888888 - 2**32}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_wrong_label_is_seen_and_the_right_version_read(bits: int) -> None:
    Q = random_qtensor(f"int{bits}-g32-sym", 32, 64, bits)
    with pytest.warns(UserWarning, match="the zero points are those of gptq_v2, the label says gptq: read as gptq_v2"):
        assert_same(V1.unpack(V2.pack(Q), Q.shape, Q.spec), Q)
    with pytest.warns(UserWarning, match="those of gptq, the label says gptq_v2"):
        assert_same(V2.unpack(V1.pack(Q), Q.shape, Q.spec), Q)
    asymmetric = random_qtensor(f"int{bits}-g32-asym", 32, 64, bits)
    with pytest.raises(QlabError, match="no symmetric zero point: config.json should say sym: false"):
        V2.unpack(V2.pack(asymmetric), Q.shape, Q.spec)


def test_asymmetric_files_of_version_1_are_read_with_a_warning() -> None:
    Q = random_qtensor("int4-g32-asym", 32, 64, 3)
    Q.zero.clamp_(min=1)
    tensors = V2.pack(Q)
    tensors["qzeros"] = tensors["qzeros"] - 0x11111111  # one less in every field
    with pytest.warns(UserWarning, match="read as stored \\+ 1; .* set checkpoint_format to gptq_v2"):
        read = V1.unpack(tensors, Q.shape, Q.spec)
    assert torch.equal(read.dequantize(), Q.dequantize())


REFUSED = [
    (V1, "int4-g128-asym", (64, 128), "q_proj is int4-g128-asym: `gptq` stores zero − 1.* use the layout gptq_v2"),
    (V2, "int5-g128-asym", (64, 128), "q_proj has 5 bits: gptq_v2 stores 2, 3, 4, 8"),
    (V2, "nf4-g64", (64, 128), "q_proj is nf4-g64: gptq_v2 stores integers"),
    (V2, "int4-g32-offset", (64, 128), "one plain scale a group .*; use int4-g128-sym"),
    (V2, "int4-g128-asym-bf16", (64, 128), "q_proj has bf16 scales .* fp16 scales"),
    (V2, "int3-g32-asym", (40, 128), "q_proj has 40 out channels: gptq_v2 at 3 bits packs 32 at a time; skip this"),
    (V2, "int4-g32-asym", (64, 100), "q_proj has 100 in channels: gptq_v2 at 4 bits packs 8"),
    (V2, "int4-g48-asym", (64, 96), "q_proj has groups of 48: GPTQModel loads 16, 32"),
    (V2, "int4-g128-asym", (64, 64), "group size 128 is larger than the 64 in a row of q_proj"),
]


@pytest.mark.parametrize(("layout", "spec", "shape", "message"), REFUSED, ids=[f"{r[1]} {r[2]}" for r in REFUSED])
def test_what_other_tools_cannot_load_is_refused(layout, spec, shape, message) -> None:
    with pytest.raises(QlabError, match=message):
        layout.check(shape, QuantSpec.parse(spec), "q_proj")


def test_a_shorter_last_group_and_scattered_groups_are_allowed() -> None:
    V1.check((192, 576), QuantSpec.parse("int4-g128-sym"), "q_proj", group_index=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("qzeros"), "qzeros is missing"),
        (lambda t: t.update(perm=t["g_idx"]), "unexpected tensor perm"),
        (lambda t: t.update(qweight=t["qweight"][1:]), r"qweight is \(7, 32\) where its configuration says \(8, 32\)"),
        (lambda t: t.update(scales=t["scales"].int()), "scales holds int32, not float16 or"),
        (lambda t: t.update(g_idx=t["g_idx"] + 1), "g_idx names groups 1 … 2 of 2"),
    ],
)
def test_damaged_tensors_are_named(change, message) -> None:
    Q = random_qtensor("int4-g32-sym", 32, 64, 0)
    tensors = V1.pack(Q)
    change(tensors)
    with pytest.raises(QlabError, match=message):
        V1.unpack(tensors, Q.shape, Q.spec)


def test_the_configuration_comes_back_layer_by_layer() -> None:
    parse = QuantSpec.parse
    specs = {f"model.layers.{i}.mlp.up_proj": parse("int4-g128-sym") for i in range(11)}
    specs |= {"model.layers.1.mlp.down_proj": parse("int8-row-sym"), "lm_head": parse("int8-g32-asym")}
    config = V2.config(specs, ["model.layers.10.mlp.gate_proj"], "desc")
    assert (config["bits"], config["group_size"], config["sym"], config["desc_act"], config["lm_head"]) == (
        4, 128, True, True, True,
    )  # fmt: skip
    assert (
        config["checkpoint_format"] == config["format"] == "gptq_v2" and V2.accepts(config) and not V1.accepts(config)
    )
    spec_of = V2.specs(config)
    assert {name: spec_of(name) for name in specs} == specs
    assert spec_of("model.layers.10.mlp.gate_proj") is None
    assert spec_of("model.layers.10.mlp.up_proj") == parse("int4-g128-sym")  # layers.1's patterns do not reach it


def test_other_tools_spellings_are_read() -> None:
    old = {"quant_method": "gptq", "wbits": 3, "groupsize": -1}
    assert V1.accepts(old) and V1.specs(old)("x") == QuantSpec.parse("int3-row-sym")
    dynamic = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": False, "format": "gptq_v2",
               "dynamic": {r".*\.v_proj": {"bits": 8}, r"-:.*\.k_proj": {}}}  # fmt: skip
    spec_of = V2.specs(dynamic)
    assert spec_of("a.v_proj") == QuantSpec.parse("int8-g64-asym") and spec_of("a.k_proj") is None
    assert spec_of("a.q_proj") == QuantSpec.parse("int4-g64-asym")
    for bad, message in [({"bits": 5}, "bits 5 in a gptq"), ({"bits": 4, "group_size": 0}, "group_size 0")]:
        with pytest.raises(QlabError, match=message):
            V1.specs({"quant_method": "gptq", **bad})
