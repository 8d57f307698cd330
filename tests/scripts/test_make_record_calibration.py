"""The record of lesson 05: what each cell calibrates on, and two of its numbers computed again."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import qlab
from qlab.blocks import BlockStream
from qlab.evaluate import evaluate
from qlab.records import load_record

ROOT = Path(__file__).parents[2]
FOUR_DIGITS = 5e-4
"""Half a unit in the fourth digit: what survives other thread counts and instruction sets."""


def load_script():
    path = ROOT / "scripts" / "make_record_calibration.py"
    spec = importlib.util.spec_from_file_location("make_record_calibration", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


script = load_script()


class Letters:
    """A tokenizer whose tokens are the characters."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids):
        return "".join(chr(i) for i in ids.tolist())


@pytest.mark.parametrize("method", script.CELLS)
def test_every_cell_has_a_name_of_its_own(method):
    assert max(Counter(cell.name for cell in script.CELLS[method]).values()) == 1


def test_rounding_calibrates_on_nothing():
    assert script.windows(Letters(), script.Cell("rtn", None), torch.empty(0)) is None


def test_a_mixture_is_half_of_each():
    mixed = script.windows(Letters(), script.Cell(text="mixture", samples=4), torch.empty(0)).ids
    halves = [
        script.windows(Letters(), script.Cell(text=text, samples=2), torch.empty(0)).ids
        for text in ("shakespeare", "pydoc")
    ]
    assert torch.equal(mixed, torch.cat(halves)) and mixed.shape == (4, script.SEQLEN)


def test_other_pages_are_drawn_from_what_is_not_evaluated():
    unread = torch.tensor([ord(c) for c in "wxyz" * script.SEQLEN])
    ids = script.windows(Letters(), script.Cell(text="other pages", samples=3), unread).ids
    assert ids.shape == (3, script.SEQLEN) and set(ids.flatten().tolist()) == {ord(c) for c in "wxyz"}


def test_another_seed_draws_other_windows():
    one, two = (script.windows(Letters(), script.Cell(samples=8, seed=s), torch.empty(0)).ids for s in (0, 1))
    assert not torch.equal(one, two)


def test_an_unfinished_run_is_resumed_only_on_the_same_text(monkeypatch):
    rows = [{"name": script.CELLS["gptq"][0].name}, {"name": "a cell that is no more"}]
    monkeypatch.setattr(script, "load_record", lambda name: {"text": {"tokens": 4096}, "rows": rows})
    kept = {row["name"]: row for row in script.kept("gptq_calibration", 4096)}
    assert script.record("gptq", 8, 4096, kept)["rows"] == rows[:1]
    assert script.kept("gptq_calibration", 512) == []


@pytest.mark.parametrize("method", script.CELLS)
def test_the_record_is_whole_and_says_how_it_was_made(method):
    record = load_record(f"{method}_calibration")
    assert record["made"]["command"].startswith("python scripts/make_record_calibration.py")
    assert set(record["made"]) == {"command", "date", "hardware", "versions", "commit"}
    assert [row["name"] for row in record["rows"]] == ["reference", *(cell.name for cell in script.CELLS[method])]
    assert record["text"] == {"name": "britannica", "tokens": 4096, "window": 512, "scored_per_window": 511}


def test_the_record_agrees_with_that_of_lesson_00():
    ours = {row["name"]: row for row in load_record("gptq_calibration")["rows"]}
    theirs = {row["name"]: row for row in load_record("ranking")["rows"]}
    for spec in ("int3-g128-asym", "int4-g128-asym"):
        for key in ("perplexity", "kl_mean", "bits_per_weight"):
            assert ours[f"rtn {spec}"][key] == pytest.approx(theirs[spec][key], rel=FOUR_DIGITS)


@pytest.mark.reference
def test_two_numbers_again():
    record, (rounding, gptq, *_) = load_record("gptq_calibration"), script.CELLS["gptq"]
    rows = {row["name"]: row for row in record["rows"]}
    loaded = qlab.load("reference")
    passages = script.windows(loaded.tokenizer, gptq, torch.empty(0))
    name = script.FIRST.removeprefix("model.layers.0.")
    stats = BlockStream(loaded.model, passages.ids).observe(0, [name])[name]
    W = loaded.model.get_submodule(script.FIRST).weight.detach()
    again = qlab.quantize(W, gptq.spec, gptq.method, stats=stats).error(W, stats.gram).rel_mse
    # float32 activations: where a weight lies between two levels, another thread count may take the other one
    assert again == pytest.approx(rows[gptq.name]["first_output"], rel=0.01)
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(script.TEXT).text, script.WINDOW)
    rounded, _ = qlab.quantized_copy(loaded.model, rounding.spec, progress=False)
    losses = evaluate(rounded, ids, window=script.WINDOW, token_losses=True, progress=False).token_losses
    assert losses.double().sum().item() == pytest.approx(rows[rounding.name]["nll"][0], rel=FOUR_DIGITS)
