"""The record of importance matrices: whole, and its differences are those of its windows."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from qlab.records import load_record

SCRIPT = Path(__file__).parents[2] / "scripts/make_record_imatrix.py"
spec = importlib.util.spec_from_file_location("make_record_imatrix", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

RECORD = load_record("imatrix")
ROWS = {(row["type"], row["matrix"]): row for row in RECORD["rows"]}


def test_every_cell_is_there_on_the_same_windows():
    assert tuple(ROWS) == script.CELLS
    windows = RECORD["text"]["tokens"] // RECORD["text"]["window"]
    assert windows >= 8
    assert all(len(row["kl"]) == len(row["nll"]) == windows for row in ROWS.values())


@pytest.mark.parametrize("cell", script.CELLS)
def test_means_are_those_of_the_windows(cell):
    row = ROWS[cell]
    # windows have four digits, sums keep them
    assert np.mean(row["kl"]) == pytest.approx(row["kl_mean"], rel=5e-4)
    assert np.std(row["kl"], ddof=1) / len(row["kl"]) ** 0.5 == pytest.approx(row["kl_se"], rel=5e-3)
    assert np.exp(np.mean(row["nll"])) == pytest.approx(row["perplexity"], rel=1e-3)


@pytest.mark.parametrize("cell", [cell for cell in script.CELLS if cell[1] != "none"])
def test_changes_are_paired(cell):
    row, plain = ROWS[cell], ROWS[cell[0], "none"]
    d = np.array(row["kl"]) - np.array(plain["kl"])
    assert d.mean() == pytest.approx(row["kl_change"], rel=5e-3)
    assert d.std(ddof=1) / len(d) ** 0.5 == pytest.approx(row["kl_change_se"], rel=5e-3)
    assert row["kl_change_se"] < (row["kl_se"] ** 2 + plain["kl_se"] ** 2) ** 0.5  # pairing pays


def test_paired_by_hand():
    found = script.paired({"kl": [1.0, 3.0, 2.0]}, {"kl": [2.0, 2.0, 2.0]})
    assert found == {"kl_change": 0.0, "kl_change_se": 0.577}  # −1, 1, 0: deviation 1, over √3


@pytest.mark.parametrize("cell", [cell for cell in script.CELLS if cell[1] != "none"])
def test_what_the_lesson_says(cell):
    row, plain = ROWS[cell], ROWS[cell[0], "none"]
    assert row["kl_mean"] < 0.51 * plain["kl_mean"]
    assert row["kl_change"] < -26 * row["kl_change_se"]
    other = ROWS[cell[0], {"shakespeare": "pydoc", "pydoc": "shakespeare"}[cell[1]]]
    assert row["kl_mean"] == pytest.approx(other["kl_mean"], rel=0.06)  # the text matters little
    assert row["bits_per_weight"] == plain["bits_per_weight"]
