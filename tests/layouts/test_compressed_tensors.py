"""compressed-tensors, pack-quantized: weight by weight as the library defines it, in today's packing and in the old."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.layouts import get_layout
from qlab.spec import QuantSpec
from tests.layouts.oracle import assert_same, field, random_qtensor

CT = get_layout("compressed-tensors")
WIDTHS = st.integers(2, 8)


@settings(max_examples=40)
@given(WIDTHS, st.sampled_from([8, 24, 32, 128, None]), st.sampled_from(["sym", "narrow", "asym", "awq"]),
       st.sampled_from(["fp16", "bf16", "fp32"]), st.integers(1, 40), st.integers(1, 4),
       st.integers(0, 2**16))  # fmt: skip
def test_unpacking_gives_back_what_was_packed(bits, group, rule, dtype, rows, groups, seed) -> None:
    name = f"int{bits}-{f'g{group}' if group else 'row'}-{rule}-{dtype}"
    Q = random_qtensor(name, rows, (group or 37) * groups, seed)
    assert_same(CT.unpack(CT.pack(Q), Q.shape, Q.spec), Q)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_weight_is_where_the_format_says(bits: int) -> None:
    Q = random_qtensor(f"int{bits}-g32-asym", 24, 96, bits)
    tensors, W_hat = CT.pack(Q), Q.dequantize(torch.float64)
    half = 2 ** (bits - 1)  # codes and zero points are signed, and stored with this added
    for o, i in [(0, 0), (1, 10), (7, 31), (23, 32), (16, 63), (23, 95)]:
        code = field(tensors["weight_packed"][o].tolist(), bits, i) - half
        zero = field(tensors["weight_zero_point"][:, i // 32].tolist(), bits, o) - half
        assert float(tensors["weight_scale"][o, i // 32]) * (code - zero) == W_hat[o, i]


def test_shapes_and_dtypes_are_those_of_the_format() -> None:
    tensors = CT.pack(random_qtensor("int3-g32-asym-bf16", 24, 96, 0))
    assert {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()} == {
        "weight_packed": ((24, 9), torch.int32),
        "weight_scale": ((24, 3), torch.bfloat16),
        "weight_shape": ((2,), torch.int64),
        "weight_zero_point": ((3, 3), torch.int32),
    }
    assert "weight_zero_point" not in CT.pack(random_qtensor("int3-g32-sym", 24, 96, 0))


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_the_packing_of_before_may_2026_is_told_by_its_width(bits: int) -> None:
    Q = random_qtensor(f"int{bits}-g32-asym", 32, 96, bits)
    tensors = CT.pack(Q)
    tensors["weight_packed"] = one_word_at_a_time(Q.codes, bits)
    tensors["weight_zero_point"] = one_word_at_a_time(Q.zero.T, bits).T.contiguous()
    assert tensors["weight_packed"].shape[1] > 96 * bits // 32
    assert_same(CT.unpack(tensors, Q.shape, Q.spec), Q)


def one_word_at_a_time(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """⌊32/b⌋ codes to a word, its top bits unused."""
    n = 32 // bits
    words = [[sum(c << (bits * k) for k, c in enumerate(row[i : i + n])) for i in range(0, len(row), n)]
             for row in codes.tolist()]  # fmt: skip
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)


def test_scattered_groups_are_read_though_not_written() -> None:
    Q = random_qtensor("int4-g32-sym", 8, 64, 0, scattered=True)
    contiguous = CT.pack(random_qtensor("int4-g32-sym", 8, 64, 0))
    tensors = {**contiguous, "weight_g_idx": Q.group_index}
    assert_same(CT.unpack(tensors, Q.shape, Q.spec), Q)
    with pytest.raises(QlabError, match="scattered groups: compressed-tensors dropped them; use act_order=static"):
        CT.pack(Q)


REFUSED = [
    ("int4-g128-asym", (64, 576), "q_proj has 576 in channels, no multiple of the group 128: .* use group 64"),
    ("int1-g32-sym", (64, 64), "q_proj is int1-g32-sym: .* stores integers"),
    ("nf4-g64", (64, 64), "q_proj is nf4-g64: compressed-tensors stores integers"),
    ("int4-tensor-sym", (64, 64), "q_proj is int4-tensor-sym"),
]


@pytest.mark.parametrize(("spec", "shape", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_other_tools_cannot_load_is_refused(spec, shape, message) -> None:
    with pytest.raises(QlabError, match=message):
        CT.check(shape, QuantSpec.parse(spec), "q_proj")


def test_damaged_tensors_are_named() -> None:
    Q = random_qtensor("int4-g32-asym", 8, 64, 0)
    for change, message in [
        ({"weight_shape": torch.tensor([8, 32])}, r"weight_shape is \[8, 32\], the model's layer \[8, 64\]"),
        ({"weight_packed": torch.zeros(8, 3, dtype=torch.int32)}, "3 words in a line of 64 codes of 4 bits: 8"),
        ({"weight_scale": torch.zeros(8, 1)}, r"weight_scale is \(8, 1\) where its configuration says \(8, 2\)"),
    ]:
        with pytest.raises(QlabError, match=message):
            CT.unpack({**CT.pack(Q), **change}, Q.shape, Q.spec)


def test_the_configuration_comes_back_layer_by_layer() -> None:
    parse = QuantSpec.parse
    specs = {"a.up": parse("int4-g128-asym"), "b.up": parse("int4-g128-asym"), "a.down": parse("int8-row-sym")}
    config = CT.config(specs, ["lm_head"], "static")
    first, second = config["config_groups"].values()
    assert first["targets"] == ["Linear"] and first["weights"]["actorder"] == "weight"
    assert second["targets"] == ["a.down"] and second["weights"]["strategy"] == "channel"
    spec_of = CT.specs(config)
    assert CT.accepts(config) and {name: spec_of(name) for name in specs} == specs and spec_of("lm_head") is None


def test_other_tools_spellings_are_read() -> None:
    def group(targets, bits, **more):
        return {"targets": targets, "weights": {"num_bits": bits, "group_size": 32, "symmetric": True, **more}}

    groups = {"g0": group(["Linear"], 4), "g1": group([r"re:.*down$"], 8), "g2": group(["a.down"], 3)}
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups,
              "ignore": ["re:.*head"]}  # fmt: skip
    spec_of = CT.specs(config)
    assert [spec_of(n).bits for n in ("a.up", "b.down", "a.down")] == [4, 8, 3] and spec_of("lm_head") is None
    for bad, message in [
        ({"g": group(["Linear"], 4, type="float")}, "g of quantization_config is no integer weight"),
        ({"g": group(["Linear"], 4) | {"input_activations": {"num_bits": 8}}}, "g of .* quantizes activations"),
    ]:
        with pytest.raises(QlabError, match=message):
            CT.specs({**config, "config_groups": bad})
    with pytest.raises(QlabError, match="transform_config: qlab applies no rotations"):
        CT.specs({**config, "transform_config": {"config_groups": {}}})
    with pytest.warns(UserWarning, match="kv_cache_scheme is not applied"):
        CT.specs({**config, "kv_cache_scheme": {"num_bits": 8}})
