"""The widget of lesson 04: its answers are those of an independent least-squares fit, and its words are true."""

import json

import pytest
import torch

from qlab import load_fixture
from qlab.errors import QlabError
from qlab.widgets.compensation import MIXES, answers, compensation, frame, mixed
from tests.widgets.node import call


@pytest.fixture(scope="module")
def widget():
    return compensation(load_fixture("q_proj.11"))


@pytest.fixture(scope="module")
def H(widget):
    gram = load_fixture("q_proj.11").gram.double()
    return gram[widget.channels][:, widget.channels]


@pytest.mark.parametrize("later", [False, True])
def test_nobody_finds_a_better_answer(H, later):
    moves, left = answers(H, later)
    root = torch.linalg.cholesky(H).T  # rootᵀ·root = H, so εᵀHε = ‖root·ε‖²
    for j in (0, 1, 9, 17):
        others = torch.tensor([k for k in range(18) if (k > j if later else k != j)], dtype=torch.int64)
        best = torch.linalg.lstsq(root[:, others], -root[:, j : j + 1]).solution[:, 0]
        off = torch.eye(18, dtype=torch.float64)[j]
        off[others] = best
        assert torch.allclose(moves[j, others], best, rtol=1e-6, atol=1e-9)
        assert left[j] == pytest.approx(float(off @ H @ off / H[j, j]), rel=1e-9)
        still = [k for k in range(18) if k not in others]
        assert not moves[j, still].any()


def test_the_way_to_a_multiple_of_the_identity(H):
    assert torch.equal(mixed(H, 0.0), H)
    assert torch.allclose(mixed(H, 1.0), H.diag().mean() * torch.eye(18, dtype=torch.float64))
    assert all(mixed(H, t).trace() == pytest.approx(float(H.trace())) for t in MIXES)


def test_without_correlation_nobody_helps(H):
    alone = frame(mixed(H, 1.0))
    for who in ("all", "later"):
        assert alone[who]["left"] == [1.0] * 18
        assert not torch.tensor(alone[who]["moves"]).any()


def test_more_identity_less_help(widget):
    for who in ("all", "later"):
        left = torch.tensor([f[who]["left"] for f in widget.frames])
        assert (left[1:] >= left[:-1]).all()


def test_all_help_at_least_as_much_as_the_later_ones(widget):
    for f in widget.frames:
        assert all(a <= b for a, b in zip(f["all"]["left"], f["later"]["left"], strict=True))
        assert f["later"]["left"][-1] == 1.0  # after the last one there is nobody


def test_the_helpers_come_strongest_first():
    (found,) = call("compensation.js", "helpers", [[[0, 0.2, -0.9, 0.0]], 0])
    assert found == [[2, -0.9], [1, 0.2]]


def test_the_words():
    f = {"all": {"moves": [[0, -0.5], [0.25, 0]], "left": [0.36, 0.5]}}
    assert call("compensation.js", "describe", [f, "all", 0, [64, 307]]) == [
        "Channel 64 is off by one: 307 takes -0.5; 36 % of its output error stays."
    ]
    f["all"]["moves"] = [[0, 0], [0, 0]]
    assert "nobody can help" in call("compensation.js", "describe", [f, "all", 1, [64, 307]])[0]


def test_the_payload_is_small(widget):
    names = ("layer", "channels", "inputs", "mixes", "frames")
    assert len(json.dumps({name: widget.trait_values()[name] for name in names})) < 40_000


def test_a_fixture_without_a_gram_matrix_is_refused():
    with pytest.raises(QlabError, match="no Gram matrix"):
        compensation(load_fixture("down_proj.11"))
