"""The driver: every linear accounted for, nothing touched before all is checked, a plugin is a method like ours."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qlab.blocks import BlockStream
from qlab.calibration import Calibration
from qlab.compare import compare
from qlab.errors import QlabError
from qlab.evaluate import evaluate
from qlab.methods import get_method, quantize
from qlab.nn import QLinear, packed_bytes
from qlab.recipes import Recipe
from qlab.registry import load_plugin
from qlab.run import quantize_, quantized_copy
from qlab.spec import QuantSpec

PLUGIN = Path(__file__).parent / "data" / "plugin_method.py"


def tiny(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def ids(n: int = 200) -> torch.Tensor:
    return torch.randint(0, 128, (n,), generator=torch.Generator().manual_seed(1))


def test_every_linear_is_quantized_or_skipped_with_a_reason() -> None:
    model = tiny()
    report = quantize_(model, "int4-g32-asym", progress=False)
    assert [r.status for r in report.rows].count("quantized") == 14
    assert [r.layer for r in report.rows if r.status.startswith("skipped: output head")] == ["lm_head"]
    assert sum(isinstance(m, QLinear) for m in model.modules()) == 14
    assert report.bits_per_weight == pytest.approx(4 + 20 / 32)
    assert report.size_bytes == packed_bytes(model) and report.facts()["skipped"] == 1


def test_reported_error_and_weights_are_the_methods() -> None:
    model = tiny()
    W = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    report = quantize_(model, "int3-g32-sym", progress=False)
    row = next(r for r in report.rows if r.layer == "model.layers.1.mlp.up_proj")
    Q = quantize(W, "int3-g32-sym")
    assert row.rel_mse == Q.error(W).rel_mse and row.size_bytes == Q.nbytes
    assert torch.equal(model.model.layers[1].mlp.up_proj.W_hat(), Q.dequantize())


def test_a_copy_leaves_the_original_alone_and_shares_what_it_can() -> None:
    model = tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    copy, _ = quantized_copy(model, "int4-g32-asym", progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert copy.model.embed_tokens.weight is model.model.embed_tokens.weight


def test_nothing_is_touched_when_any_layer_is_bad() -> None:
    model = tiny()
    with pytest.raises(QlabError, match="group size 96 is larger than the 64 in a row"):
        quantize_(model, "int4-g96-asym", progress=False)
    model.model.layers[1].mlp.down_proj.weight.data[3, 5] = torch.nan
    with pytest.raises(QlabError, match=r"model\.layers\.1\.mlp\.down_proj holds nan at row 3, column 5"):
        quantize_(model, "int4-g32-asym", progress=False)
    assert not any(isinstance(m, QLinear) for m in model.modules())


def test_weights_that_are_no_linears_are_listed() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 64}
    experts = MixtralForCausalLM(
        MixtralConfig(**small, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)
    )
    report = quantize_(experts, "int4-g32-asym", progress=False)
    skipped = {row.layer: row.status for row in report.rows if row.status != "quantized"}
    assert any("experts" in name for name in skipped)
    assert {row.layer.split(".")[-1] for row in report.rows if row.status == "quantized"} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    with pytest.raises(QlabError, match="Conv1D weights stay as they are"):
        quantize_(GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64)), "int4-g32-asym")


def test_w8a8_is_a_recipe() -> None:
    model = tiny()
    recipe = Recipe.of("int8-row-sym", input="int8-token-sym")
    copy, _ = quantized_copy(model, recipe, progress=False)
    assert copy.model.layers[0].mlp.up_proj.input_spec == QuantSpec.parse("int8-row-sym")
    weights_only, _ = quantized_copy(model, "int8-row-sym", progress=False)
    kl = [evaluate(m, ids(), reference=model, window=32, progress=False).kl_mean for m in (copy, weights_only)]
    assert kl[0] > kl[1] > 0


def test_more_bits_are_closer_in_a_comparison() -> None:
    result = compare(tiny(), ids(), ["int8-g32-asym", "int4-g32-asym", "int2-g32-asym"], window=32, progress=False)
    assert [r["name"] for r in result.rows] == ["float", "int8-g32-asym", "int4-g32-asym", "int2-g32-asym"]
    kl = [r["kl_mean"] for r in result.rows]
    assert kl[0] == 0 and kl == sorted(kl)
    sizes = [r["size_bytes"] for r in result.rows]
    assert sizes == sorted(sizes, reverse=True)


def test_a_thirty_line_plugin_is_a_method_like_ours() -> None:
    assert len(PLUGIN.read_text().splitlines()) <= 35
    load_plugin(PLUGIN)
    W = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    spec = QuantSpec.parse("int4-g32-asym")
    steps = list(get_method("stochastic").steps(W, spec))
    assert steps and steps[-1].name == "round"
    model = tiny()
    copy, report = quantized_copy(model, Recipe.of(spec, "stochastic", seed=3), progress=False)
    assert report.facts()["quantized"] == 14
    assert evaluate(copy, ids(), reference=model, window=32, progress=False).kl_mean > 0


def test_a_method_that_needs_calibration_is_refused_by_name() -> None:
    load_plugin(PLUGIN)
    with pytest.raises(QlabError, match=r"method 'needy' for model\.layers\.0.* needs calibration activations"):
        quantize_(tiny(), Recipe.of("int4-g32-asym", "needy"), progress=False)


def calibrated(seqlen: int = 24) -> Calibration:
    return Calibration(ids(8 * seqlen).reshape(8, seqlen), "random ids", 0)


def test_calibrated_methods_go_block_by_block_with_what_quantized_predecessors_send() -> None:
    model = tiny()
    copy, report = quantized_copy(model, Recipe.of("int3-g32-asym", "gptq"), calibrated(), progress=False)
    assert report.facts()["quantized"] == 14 and report.calibration == "8 × 24 tokens of random ids, seed 0"
    # by hand: the second block's inputs come from the first block as quantized
    by_hand = copy_with_first_block_quantized(model, copy)
    stream = BlockStream(by_hand, calibrated().ids)
    stream.advance(0)
    stats = stream.observe(1, ["mlp.down_proj"])["mlp.down_proj"]
    wanted = quantize(model.model.layers[1].mlp.down_proj.weight, "int3-g32-asym", "gptq", stats=stats)
    assert torch.equal(copy.model.layers[1].mlp.down_proj.qtensor.codes, wanted.codes)


def copy_with_first_block_quantized(model: LlamaForCausalLM, quantized: torch.nn.Module) -> torch.nn.Module:
    twin = deepcopy(model)
    twin.model.layers[0] = quantized.model.layers[0]
    return twin


def test_the_report_compares_each_layer_with_plain_rounding() -> None:
    _, report = quantized_copy(tiny(), Recipe.of("int3-g32-asym", "gptq"), calibrated(), progress=False)
    rows = [row for row in report.rows if row.status == "quantized"]
    assert all(0 < row.rel_output < row.rtn_output for row in rows)
    assert {"rel_output", "rtn_output"} <= report.table()[0].keys()
    plain = quantize_(tiny(), "int3-g32-asym", progress=False)
    assert not {"rel_output", "rtn_output", "note"} & plain.table()[0].keys() and "calibration" not in plain.facts()


def test_a_calibration_changes_nothing_where_no_method_needs_it() -> None:
    with_text = quantized_copy(tiny(), "int4-g32-asym", calibrated(), progress=False)[0]
    without = quantized_copy(tiny(), "int4-g32-asym", progress=False)[0]
    name = "model.layers.1.mlp.up_proj"
    assert torch.equal(with_text.get_submodule(name).qtensor.codes, without.get_submodule(name).qtensor.codes)


def test_gptaq_runs_beside_the_float_model() -> None:
    plain, asymmetric = (
        quantized_copy(tiny(), Recipe.of("int3-g32-asym", "gptq", alpha=a), calibrated(), progress=False)[0]
        for a in (0.0, 0.25)
    )
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
    same = [torch.equal(plain.get_submodule(n).qtensor.codes, asymmetric.get_submodule(n).qtensor.codes)
            for n in (first, second)]  # fmt: skip
    assert same == [True, False]  # the first linears see what the float model sees


def test_calibrated_methods_outside_the_blocks_are_refused() -> None:
    gptq = Recipe.from_dict({"version": 1, "rules": [{"match": "*", "method": "gptq", "weight": "int4-g32-asym"}]})
    with pytest.raises(QlabError, match=r"lm_head lies outside the blocks model\.layers\.\*"):
        quantize_(tiny(), gptq, calibrated(), progress=False)


def test_what_goes_wrong_in_a_layer_names_it() -> None:
    model = tiny()
    model.model.layers[1].post_attention_layernorm.weight.data.zero_()
    with pytest.raises(QlabError, match=r"^model\.layers\.1\.mlp\.\w+_proj: gptq: every input of the layer was zero"):
        quantize_(model, Recipe.of("int4-g32-asym", "gptq"), calibrated(), progress=False)


def test_raised_damping_is_reported() -> None:
    short = Calibration(ids(4).reshape(1, 4), "four tokens")
    _, report = quantized_copy(tiny(), Recipe.of("int4-g32-asym", "gptq", damp=0.0), short, progress=False)
    assert any("damping raised to" in row["note"] for row in report.table() if "note" in row)
