"""Comparison: costs are the copies', losses are evaluate's, the float model comes first."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qlab.compare import compare
from qlab.errors import QlabError
from qlab.evaluate import evaluate
from qlab.recipes import Recipe
from qlab.run import quantized_copy

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=50,
)
IDS = torch.randint(0, 50, (130,), generator=torch.Generator().manual_seed(0))


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


def test_each_row_is_what_one_evaluation_says() -> None:
    float_model = model()
    mse = Recipe.of("int3-g32-asym", "mse")
    result = compare(float_model, IDS, ["int4-g32-sym", mse], name="tiny", window=32, progress=False)
    assert [row["name"] for row in result.rows] == ["tiny", "int4-g32-sym", "mse int3-g32-asym"]
    copy, report = quantized_copy(float_model, mse, progress=False)
    alone = evaluate(copy, IDS, reference=float_model, window=32, progress=False)
    row = result.rows[2]
    assert (row["perplexity"], row["kl_mean"]) == (alone.perplexity, alone.kl_mean)
    assert (row["bits_per_weight"], row["size_bytes"]) == (report.bits_per_weight, report.size_bytes)


def test_the_float_model_is_its_own_reference() -> None:
    first = compare(model(), IDS, ["int4-g32-sym"], window=32, progress=False).rows[0]
    assert (first["kl_mean"], first["ppl_ratio"], first["top1_agreement"], first["rel_mse"]) == (0, 1, 1, 0)


def test_two_rows_never_share_a_name() -> None:
    with pytest.raises(QlabError, match="two rows would be called 'int4-g32-asym'"):
        compare(model(), IDS, ["int4-g32-asym", "int4-g32"], window=32, progress=False)


def test_it_is_json_and_says_what_was_scored() -> None:
    result = compare(model(), IDS, ["int4-g32-sym"], window=32, progress=False)
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.title == "float: 124 tokens scored in windows of 32 (windows)"
    assert result.table()[1]["bits_per_weight"] == 4.5
