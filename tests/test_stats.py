"""Stats: streamed sums equal those of the whole, in any order."""

import pytest
import torch

from qlab.errors import QlabError
from qlab.stats import Stats


def test_streamed_sums_equal_the_whole() -> None:
    X = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
    stats, rows = Stats(8), X.reshape(-1, 8).double()
    for part in X:
        stats.update(part)
    assert stats.tokens == 120
    eps = 120 * torch.finfo(torch.float32).eps  # products of one call are float32
    assert torch.allclose(stats.gram, rows.T @ rows, rtol=0, atol=eps * float((rows.T @ rows).abs().max()))
    assert torch.allclose(stats.mean_abs, rows.abs().mean(0), rtol=eps)
    assert torch.allclose(stats.mean_sq, stats.gram.diag() / 120, rtol=eps)


def test_double_inputs_keep_their_precision() -> None:
    X = torch.randn(120, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stats = Stats(8)
    stats.update(X)
    eps = 120 * torch.finfo(torch.float64).eps
    assert torch.allclose(stats.gram, X.T @ X, rtol=0, atol=eps * float((X.T @ X).abs().max()))


def test_cross_moment_of_what_the_float_model_would_have_sent() -> None:
    g = torch.Generator().manual_seed(0)
    X, X_float = torch.randn(2, 30, 4, generator=g, dtype=torch.float64)
    stats = Stats(4, cross=True)
    stats.update(X[:10], X_float=X_float[:10])
    stats.update(X[10:], X_float=X_float[10:])
    assert torch.allclose(stats.cross, (X_float - X).T @ X, rtol=0, atol=1e-12)


def test_order_does_not_show() -> None:
    X = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)).half().float()
    forward, backward = Stats(4), Stats(4)
    for row in X:
        forward.update(row[None])
    for row in X.flip(0):
        backward.update(row[None])
    assert torch.allclose(forward.gram, backward.gram, rtol=64 * torch.finfo(torch.float64).eps)


def test_without_gram_memory_is_two_vectors() -> None:
    assert Stats(4, gram=False).gram is None


def test_bad_activations_are_named() -> None:
    with pytest.raises(QlabError, match=r"layers\.3\.mlp holds NaN"):
        Stats(2).update(torch.tensor([[1.0, torch.nan]]), "layers.3.mlp")
    with pytest.raises(QlabError, match="has 3 channels: these statistics hold 2"):
        Stats(2).update(torch.ones(1, 3))


def test_empty_statistics_do_not_divide_by_zero() -> None:
    assert torch.equal(Stats(2).mean_abs, torch.zeros(2, dtype=torch.float64))
