"""The record of the ladder's instructions: whole, as lesson 15 says, and one of its rows compiled again."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from qlab.records import load_record

SCRIPT = Path(__file__).parents[2] / "scripts/make_record_kernel_steps.py"
RECORD = load_record("kernel_steps")
ROWS = {(row["name"], row["capability"]): row for row in RECORD["rows"]}
CAPABILITIES = pytest.mark.parametrize("capability", [80, 90])


@CAPABILITIES
def test_every_kernel_is_there_and_nothing_spills(capability):
    pairs = [name for pair in RECORD["techniques"].values() for name in pair]
    assert all((name, capability) in ROWS for name in [*pairs, "unfused, writing", "packed", "split", "swapped"])
    assert all(row["spills"] == 0 and row["total"] >= sum(row["loop"].values()) for row in RECORD["rows"])


@CAPABILITIES
def test_a_conversion_a_weight_becomes_none_and_two_instructions_make_two_weights(capability):
    packed, magic = ROWS["packed", capability], ROWS["magic", capability]
    assert packed["loop"]["I2F"] == packed["weights"] and "I2F" not in magic["loop"]
    assert magic["loop"]["LOP3"] == magic["loop"]["HFMA2"] == magic["weights"] / 2


@CAPABILITIES
def test_each_technique_shows_where_the_lesson_looks(capability):
    def row(name):
        return ROWS[name, capability]

    assert row("unfused, writing")["loop"]["STG"] > 0 and "STG" not in row("fused")["loop"]
    assert "LDGSTS" not in row("magic")["loop"] and row("asynchronous")["loop"]["LDGSTS"] > 0
    assert row("asynchronous")["loop"]["STS"] < row("magic")["loop"]["STS"]
    assert row("asynchronous")["bypass"] == row("asynchronous")["loop"]["LDGSTS"]
    assert row("asynchronous, narrow")["bypass"] < row("asynchronous, narrow")["loop"]["LDGSTS"] / 2
    assert row("magic")["first"] == 0 < row("evict first")["first"]
    assert row("asynchronous")["hinted"] == 0 and (row("pipelined")["hinted"] > 0) == (capability == 90)
    assert row("pipelined")["sums"] == 0 < row("split")["sums"]
    assert ("HGMMA" in row("swapped")["loop"]) == (capability == 90)


def test_one_row_again():
    pytest.importorskip("triton")
    if version("triton") != RECORD["made"]["versions"]["triton"]:
        pytest.skip(f"counts are of Triton {RECORD['made']['versions']['triton']}, here is {version('triton')}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), "--only", "magic"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [ROWS["magic", 80], ROWS["magic", 90]]
