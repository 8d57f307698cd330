"""Inspection: the numbers are the weights' own, and the table hides what repeats."""

import pytest
import torch
from torch import nn

from qlab.errors import QlabError
from qlab.inspection import inspect
from qlab.methods import quantize
from qlab.recipes import Recipe


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"up": nn.Linear(64, 32), "down": nn.Linear(32, 64), "lm_head": nn.Linear(64, 8)})


def test_rows_hold_the_weights_own_figures() -> None:
    net = model()
    row = inspect(net, Recipe.of("int4-g32-asym")).rows[0]
    W = net["up"].weight.detach()
    assert row["rms"] == pytest.approx(float(W.square().mean().sqrt()))
    assert row["absmax/rms"] == pytest.approx(float(W.abs().max()) / row["rms"])
    assert row["snr_db"] == quantize(W, "int4-g32-asym").error(W).snr_db


def test_skipped_layers_say_why() -> None:
    row = inspect(model(), Recipe.of("int4-g32-asym")).rows[2]
    assert row["weight"] == "skip: output head kept in 16 bits"
    assert row["snr_db"] is None


def test_a_spec_that_all_layers_share_moves_to_the_facts() -> None:
    shown = inspect(model(), Recipe.of("int4-g32-asym"), lambda name: name != "lm_head")
    assert shown.facts() == {"linears": 2, "weights": 4096, "spec": "int4-g32-asym"}
    assert all(row.keys().isdisjoint({"weight", "weights"}) for row in shown.table())
    assert "weight" in inspect(model(), Recipe.of("int4-g32-asym")).table()[0]


def test_nothing_to_inspect_is_an_error() -> None:
    with pytest.raises(QlabError, match=r"no layer of m matches: names look like up"):
        inspect(model(), wanted=lambda name: False, name="m")
    with pytest.raises(QlabError, match=r"has no nn\.Linear"):
        inspect(nn.LayerNorm(3))
