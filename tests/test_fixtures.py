"""Fixtures: small, true to the reference model, and clear about what is missing."""

import json
import re

import pytest
import torch
from safetensors import safe_open

from qlab import fixtures
from qlab.errors import QlabError
from qlab.fixtures import fixture_names, load_fixture, pack_symmetric, unpack_symmetric

NAMES = ["down_proj.11", "k_proj.11", "q_proj.0", "q_proj.11"]
PREFIX = 64  # rows kept
# 12 float32 layers summed in another order: measured 3e-6 of a row's norm with two threads, 2e-6 without AVX.
REORDERED = 1e-5


@pytest.fixture(scope="module")
def model():
    import qlab

    return qlab.load("reference").model


@pytest.fixture(scope="module")
def inputs(model):
    """Inputs of every fixture's linear for the kept token ids, recomputed."""
    found = {}
    handles = [
        model.get_submodule(f.linear).register_forward_pre_hook(lambda _, args, n=f.name: found.update({n: args[0][0]}))
        for f in map(load_fixture, NAMES)
    ]
    with torch.inference_mode():
        model(input_ids=load_fixture(NAMES[0]).ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def test_names():
    assert fixture_names() == NAMES


def test_all_files_fit_in_five_megabytes():
    assert sum(file.stat().st_size for file in fixtures.folder().rglob("*") if file.is_file()) < 5e6


@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_is_consistent(name):
    f = load_fixture(name)
    assert f.X.shape == (PREFIX, f.shape[1])
    assert len(f.ids) == PREFIX
    assert f.tokens == 4096
    for values in (f.mean_abs, f.mean_sq, f.absmax):
        assert values.shape == (f.shape[1],)
    assert (f.X.abs().amax(0) <= f.absmax).all()
    # mean |x| ≤ √(mean x²) ≤ max |x|; each was rounded to float32 once
    rounding = 1 + torch.finfo(torch.float32).eps
    assert (f.mean_abs <= f.mean_sq.sqrt() * rounding).all()
    assert (f.mean_sq.sqrt() <= f.absmax * rounding).all()


def test_statistics_can_be_handed_to_a_method():
    f = load_fixture("q_proj.11")
    assert f.stats.tokens == f.tokens
    torch.testing.assert_close(f.stats.mean_abs.float(), f.mean_abs, rtol=0, atol=0)
    torch.testing.assert_close(f.stats.mean_sq.float(), f.mean_sq, rtol=0, atol=0)
    assert load_fixture("down_proj.11").stats.gram is None


def test_the_gram_matrix_is_one():
    f = load_fixture("q_proj.11")
    assert torch.equal(f.gram, f.gram.T)
    assert torch.equal(f.gram.diagonal(), f.mean_sq)
    assert torch.linalg.eigvalsh(f.gram.double())[0] > 0


def test_two_linears_share_one_input():
    q, k = load_fixture("q_proj.11"), load_fixture("k_proj.11")
    assert torch.equal(q.X, k.X)
    assert torch.equal(q.gram, k.gram)


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_references(name, model):
    f = load_fixture(name)
    assert torch.equal(f.W, model.get_submodule(f.linear).weight)


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_inputs_can_be_computed_again_from_their_ids(name, inputs):
    f, X = load_fixture(name), inputs[name]
    assert ((X - f.X).norm(dim=1) <= REORDERED * f.X.norm(dim=1)).all()
    # |x| − |x'| ≤ |x − x'|: the statistics of this prefix follow the rows
    assert ((X.abs() - f.X.abs()).norm(dim=1) <= REORDERED * f.X.norm(dim=1)).all()


def test_provenance_is_in_every_file():
    for file in fixtures.folder().rglob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["qlab"])
        wanted = "model package gguf_sha256 permutation_seed text script date commit"
        assert set(wanted.split()) <= about.keys()


@pytest.mark.parametrize("n", [1, 2, 3, 17, 576])
def test_half_a_symmetric_matrix_is_the_whole(n):
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(n))
    H = A + A.T
    assert pack_symmetric(H).numel() == n * (n + 1) // 2
    assert torch.equal(unpack_symmetric(pack_symmetric(H)), H)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(QlabError, match=re.escape("unknown fixture 'v_proj.3': choose one of down_proj.11")):
        load_fixture("v_proj.3")


def test_a_missing_folder_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(fixtures, "FOLDERS", (tmp_path / "a", tmp_path / "b"))
    fixtures.folder.cache_clear()
    with pytest.raises(QlabError, match="work in a checkout"):
        load_fixture("q_proj.0")
    fixtures.folder.cache_clear()


@pytest.mark.parametrize("damage", [b"", b"not safetensors"])
def test_a_damaged_file_is_named(monkeypatch, tmp_path, damage):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "q_proj.0.safetensors").write_bytes(damage)
    monkeypatch.setattr(fixtures, "FOLDERS", (tmp_path,))
    fixtures.folder.cache_clear()
    with pytest.raises(QlabError, match="damaged fixture"):
        load_fixture("q_proj.0")
    fixtures.folder.cache_clear()
