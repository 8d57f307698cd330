"""The record of lesson 03: what each protocol counts, and one of its rows computed again."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import qlab
from qlab.evaluate import evaluate
from qlab.metrics import token_losses
from qlab.records import load_record

ROOT = Path(__file__).parents[2]
FOUR_DIGITS = 5e-4
"""Half a unit in the fourth digit: what survives other thread counts and instruction sets."""


def load_script():
    spec = importlib.util.spec_from_file_location(
        "make_record_protocols", ROOT / "scripts" / "make_record_protocols.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture
def tiny():
    """A random Llama of 100 words and its text of two chunks."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), torch.randint(0, 100, (2 * script.LONG,))


def sliding_by_the_guide(model, ids, length, stride):
    """Hugging Face's loop (docs/source/en/perplexity.md): the losses of all tokens of `ids` but the first."""
    losses, previous_end = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        new = end - previous_end
        with torch.no_grad():
            logits = model(input_ids=ids[None, begin:end]).logits[0]
        losses.append(token_losses(logits[:-1], ids[begin + 1 : end])[-new:])
        previous_end = end
        if end == len(ids):
            return torch.cat(losses)
    raise AssertionError("the loop ends at the end of the text")


def test_sliding_scores_what_hugging_faces_loop_scores(tiny):
    model, ids = tiny
    mine = [
        torch.cat(r["losses"]["sliding"]) for c in range(2) for _, r in script.run_chunk({"reference": model}, ids, c)
    ]
    theirs = sliding_by_the_guide(model, ids, script.SHORT, script.HALF)
    assert len(theirs) == len(ids) - 1
    torch.testing.assert_close(torch.cat(mine), theirs, rtol=1e-5, atol=0)  # float32 logits in other batch shapes


@pytest.mark.parametrize(
    ("protocol", "window", "name"),
    [("512", 512, "windows"), ("2048", 2048, "windows"), ("llama.cpp", 512, "llama.cpp")],
)
def test_the_other_protocols_are_those_of_evaluate(tiny, protocol, window, name):
    model, ids = tiny
    ((_, result),) = script.run_chunk({"reference": model}, ids[: script.LONG], 0)
    kept = evaluate(model, ids[: script.LONG], window=window, protocol=name, token_losses=True, progress=False)
    torch.testing.assert_close(torch.stack(result["losses"][protocol]).float(), kept.token_losses, rtol=1e-6, atol=0)


def test_distance_to_the_reference_is_that_of_evaluate(tiny):
    model, ids = tiny
    quantized, _ = qlab.quantized_copy(model, "int2-row-asym", progress=False)
    row = script.Row("int8", 8.0)
    for name, result in script.run_chunk({"reference": model, "int8": quantized}, ids, 0):
        if name == "int8":
            row.add(**result)
    made = row.to_dict()
    truth = evaluate(quantized, ids[: script.LONG], reference=model, window=512, progress=False)
    assert sum(made["kl"]) / truth.tokens == pytest.approx(truth.kl_mean, rel=FOUR_DIGITS)
    assert sum(made["same_top"]) == pytest.approx(truth.top1_agreement * truth.tokens)
    assert made["kl_median"] == pytest.approx(truth.kl_median, rel=0.006)  # bins of LogHistogram, and 4 digits


def test_gained_and_lost_make_up_the_difference_in_right_answers():
    record = load_record("protocols")
    base = record["models"][0]["right"]
    for row in record["models"]:
        change = [g - lost for g, lost in zip(row["gained"], row["lost"], strict=True)]
        assert [now - before for now, before in zip(row["right"], base, strict=True)] == change


def test_the_record_says_how_it_was_made():
    record = load_record("protocols")
    assert record["made"]["command"].startswith("python scripts/make_record_protocols.py")
    assert set(record["made"]) == {"command", "date", "hardware", "versions", "commit"}
    assert record["text"]["tokens"] == script.LONG * len(record["tokens"]["2048"])


@pytest.mark.reference
def test_one_row_again():
    record = load_record("protocols")
    loaded = qlab.load("reference")
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text("britannica").text, script.SHORT)
    models = {name: model for name, (model, _) in script.build_models(loaded.model, ["reference", "int8"]).items()}
    rows = {row["name"]: row for row in record["models"]}
    for name, losses, distance in script.run_window(models, ids, 0):
        assert losses.sum().item() == pytest.approx(rows[name]["nll"]["512"][0], rel=FOUR_DIGITS)
        assert losses[script.HALF :].sum().item() == pytest.approx(rows[name]["nll"]["llama.cpp"][0], rel=FOUR_DIGITS)
        assert distance["right"].sum().item() == pytest.approx(
            rows[name]["right"][0], abs=1
        )  # a tie may fall either way
