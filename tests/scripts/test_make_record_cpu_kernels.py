"""The record of the CPU kernels: whole, within its own ceilings, and one of its numbers computed again."""

import importlib.util
from pathlib import Path

import pytest

import qlab
from qlab import bench_cpu
from qlab.evaluate import evaluate
from qlab.records import load_record

SCRIPT = Path(__file__).parents[2] / "scripts/make_record_cpu_kernels.py"
spec = importlib.util.spec_from_file_location("make_record_cpu_kernels", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

RECORD = load_record("cpu_kernels")
FOUR_DIGITS = 5e-4
"""Half a unit in the fourth digit."""


def test_every_type_and_count_of_tokens_is_there():
    best = [(row["type"], row["m"]) for row in RECORD["kernels"] if row["isa"] == RECORD["machine"]["isa"]]
    assert best == [(name, m) for name in script.TYPES for m in script.TOKENS]
    others = [row for row in RECORD["kernels"] if row["isa"] != RECORD["machine"]["isa"]]
    assert others and all((row["type"], row["m"]) == ("Q4_0", 1) for row in others)


def test_no_kernel_reads_faster_than_a_plain_read():
    for row in RECORD["kernels"]:
        assert (row["m"] == 1) == (row["fraction_of_read"] is not None)
        # a busy machine may take its time from either
        assert row["fraction_of_read"] is None or row["fraction_of_read"] < 1.2
        assert row["p10_us"] <= row["median_us"]
    assert bench_cpu.read_beside(RECORD["kernels"]) > 0


def test_the_scalar_loop_is_far_behind():
    speeds = {row["isa"]: row["gflops"] for row in RECORD["kernels"] if (row["type"], row["m"]) == ("Q4_0", 1)}
    best = max(speeds.values())
    assert "scalar" not in speeds or best > 10 * speeds["scalar"]


def test_layouts_are_of_types_that_are_repacked():
    rows = RECORD["layouts"]
    assert {row["type"] for row in rows} <= set(script.REPACKED) and any(row["type"] == "Q4_0" for row in rows)
    assert all(row["m"] in (1, 16) and row["gain"] > 0 for row in rows)
    gains = {(row["type"], row["m"]): row["gain"] for row in rows}
    assert all(gains[name, 16] > gains[name, 1] > 1 for name in ("Q4_0", "Q4_K", "IQ4_NL"))  # as lesson 16 says


def test_inputs_are_there_for_every_file():
    cells = [(row["type"], row["inputs"]) for row in RECORD["inputs"]]
    assert cells == [(name, inputs) for name in script.FILES for inputs in ("float", "int8")]
    by = {(row["type"], row["inputs"]): row["kl_mean"] for row in RECORD["inputs"]}
    assert by["Q8_0", "int8"] > by["Q8_0", "float"]


@pytest.mark.reference
def test_one_file_again(tmp_path):
    text, (floats, integers) = RECORD["text"], RECORD["inputs"][:2]
    loaded = qlab.load(script.MODEL)
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(text["name"]).text, text["tokens"])
    path = tmp_path / "model.gguf"
    script.to_gguf_file(script.MODEL, path, floats["type"], progress=False)

    def again(row):
        model = qlab.load(path, packed=True, activations=row["inputs"]).model
        return evaluate(model, ids, window=text["window"], progress=False).perplexity

    assert again(floats) == pytest.approx(floats["perplexity"], rel=FOUR_DIGITS)
    # an input that lies on a step goes either way by its last bit, which is the processor's
    apart = abs(integers["perplexity"] - floats["perplexity"])
    assert abs(again(integers) - integers["perplexity"]) < apart / 2
