"""The searches against golden blocks of llama.cpp's own encoder (scripts/make_ggml_fixture.py)."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qlab.errors import QlabError
from qlab.ggml import grid_type, grid_types
from qlab.methods import get_method, quantize
from qlab.stats import Stats

GOLDEN = load_file(Path(__file__).parents[1] / "data/ggml_blocks.safetensors")
W = GOLDEN["W"]


def statistics(importance: torch.Tensor) -> Stats:
    stats = Stats(len(importance), gram=False)
    stats.tokens, stats.sq_sum = 1, importance.double()
    return stats


@pytest.mark.parametrize("how", ["plain", "imatrix"])
@pytest.mark.parametrize("name", grid_types())
def test_bytes_are_llama_cpps(name, how):
    kind = grid_type(name)
    stats = statistics(GOLDEN["importance"]) if how == "imatrix" else None
    theirs = GOLDEN[f"{name}.{how}"]
    ours = kind.pack(quantize(W, kind.spec, "ggml", stats=stats))
    same = (kind.blocks(ours) == kind.blocks(theirs)).all(1)
    assert same.double().mean() > (0.95 if how == "imatrix" else 0.999), same.logical_not().nonzero().flatten()
    weight = GOLDEN["importance"] if stats else torch.ones(W.shape[1])
    error, their_error = (((kind.decode(b) - W).square() * weight).sum() for b in (ours, theirs))
    assert error <= their_error * 1.0005


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q4_0"])
def test_the_search_is_better_than_plain_rounding_and_importance_than_none(name):
    X = torch.randn(64, 1024, generator=torch.Generator().manual_seed(1)) * 0.05
    spec = grid_type(name).spec
    stats = statistics(GOLDEN["importance"])
    rtn, plain = quantize(X, spec, "rtn"), quantize(X, spec, "ggml")
    weighted = quantize(X, spec, "ggml", stats=stats)
    if name != "Q4_0":  # which has no search without importance
        assert plain.error(X).mse < rtn.error(X).mse
    assert weighted.error(X, GOLDEN["importance"]).mse < plain.error(X, GOLDEN["importance"]).mse
    assert torch.equal(quantize(X, spec, "ggml", stats=stats, imatrix=False).codes, plain.codes)


def test_uniform_importance_is_not_the_plain_search():
    spec = grid_type("Q4_K").spec
    uniform = quantize(W, spec, "ggml", stats=statistics(torch.ones(W.shape[1])))
    assert not torch.equal(uniform.codes, quantize(W, spec, "ggml").codes)


def test_steps_are_the_candidates_and_their_best_never_grows():
    X = W[:1, :256]
    steps = list(get_method("ggml").steps(X, grid_type("Q4_K").spec, grain="group"))
    candidates = [step for step in steps if step.name == "candidate"]
    assert len(candidates) == 21 and candidates[0].data["scale"].shape == (8,)
    best = [step.error for step in candidates]
    assert all(later <= earlier for earlier, later in pairwise(best)) and best[-1] < best[0]


def test_rows_are_quantized_alike_in_chunks(monkeypatch):
    spec = grid_type("Q4_K").spec
    whole = quantize(W, spec, "ggml")
    monkeypatch.setattr("qlab.methods.ggml.CHUNK", 2048)
    assert torch.equal(grid_type("Q4_K").pack(quantize(W, spec, "ggml")), grid_type("Q4_K").pack(whole))


def test_what_ggml_cannot_do_is_named():
    with pytest.raises(QlabError, match=r"ggml does not know int4-g128-asym: its blocks are q4_0, .*q6_k"):
        quantize(W, "int4-g128-asym", "ggml")
    with pytest.raises(QlabError, match=r"rows of 576: q4_k has blocks of 256; choose a type of smaller blocks"):
        quantize(torch.randn(2, 576), "q4_k", "ggml")
    with pytest.raises(QlabError, match=r"a scale of 1e\+0[45] does not fit fp16"):
        quantize(torch.full((1, 32), 8e5), "q4_0", "ggml")
