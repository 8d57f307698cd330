import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.metrics import ROWS, LogHistogram, WindowMean, exp_with_se, token_kl, token_losses

FP32 = torch.finfo(torch.float32).eps


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_losses_equal_a_float64_softmax_across_chunks():
    logits, targets = 5 * gaussian(2 * ROWS + 7, 50), torch.arange(2 * ROWS + 7) % 50
    expected = -logits.double().softmax(-1).log()[torch.arange(len(targets)), targets]
    # a float32 log-softmax is off by a few units in the last place of its largest term, here below 64
    assert (token_losses(logits, targets) - expected).abs().max() < 64 * FP32


def test_a_long_tail_of_unlikely_tokens_is_not_lost_in_the_normaliser():
    # each of 49136 tokens has 2^-25 of the mass of a likely one: added to it singly in float32, it vanishes
    logits = torch.full((1, 49152), -25 * math.log(2))
    logits[:, :16] = 0
    expected = math.log(16 + 49136 / 2**25)
    # the whole tail is worth 9e-5; a sum that adds in pairs loses at most a unit for each of log2(49152) levels
    assert token_losses(logits, torch.tensor([0])).item() == pytest.approx(expected, abs=16 * FP32)


def test_half_precision_logits_are_scored_in_float32():
    logits, targets = gaussian(9, 50).bfloat16(), torch.arange(9)
    assert torch.equal(token_losses(logits, targets), token_losses(logits.float(), targets))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_logit_gives_a_nan_loss_in_its_row_only(bad):
    logits = gaussian(3, 5)
    logits[1, 4] = bad
    assert token_losses(logits, torch.zeros(3, dtype=torch.long)).isnan().tolist() == [False, True, False]


def test_kl_of_two_fixed_distributions():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    # 1/2 ln 2 + 0 - 1/4 ln 2
    assert token_kl(p.log(), q.log()).item() == pytest.approx(math.log(2) / 4, abs=4 * FP32)


def test_kl_of_gaussian_logits_equals_a_float64_sum_across_chunks():
    p, q = gaussian(ROWS + 1, 300, seed=1), gaussian(ROWS + 1, 300, seed=2)
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    # each log-probability (below 16 in size) and each factor of a term is off by some units in the last place
    assert (token_kl(p, q) - expected).abs().max() < 64 * FP32


def test_kl_to_itself_is_exactly_zero_even_where_tokens_are_masked():
    logits = gaussian(4, 6)
    logits[:, 2] = -math.inf
    assert torch.equal(token_kl(logits, logits), torch.zeros(4, dtype=torch.float64))


def test_kl_is_infinite_where_q_excludes_what_p_expects():
    q = torch.tensor([[0.0, -math.inf]])
    assert token_kl(torch.zeros(1, 2), q).item() == math.inf


@given(st.floats(-6, 3), st.integers(0, 99))
def test_kl_is_never_negative(log10_noise, seed):
    p = gaussian(3, 40, seed=seed)
    assert (token_kl(p, p + 10**log10_noise * gaussian(3, 40, seed=seed + 1)) >= 0).all()


def clustered(windows, tokens, seed=0):
    """Values with a shift common to each window: [windows, tokens], strongly dependent inside a window."""
    return (gaussian(windows, 1, seed=seed) + 0.3 * gaussian(windows, tokens, seed=seed + 1)).double()


def accumulate(values):
    mean = WindowMean()
    for window in values:
        mean.add(window)
    return mean


def test_window_mean_equals_the_ratio_estimator_written_out():
    values = clustered(windows=9, tokens=11)
    C, N = 9, 99
    residuals = (values - values.mean()).sum(1)  # Y_c - ȳ m
    variance = C / (C - 1) * (residuals**2).sum() / N**2
    got = accumulate(values)
    assert got.mean == pytest.approx(values.mean().item(), rel=1e-13)
    assert got.se == pytest.approx(variance.sqrt().item(), rel=1e-13)


def test_window_se_agrees_with_a_bootstrap_of_windows_and_exceeds_the_naive_one():
    C, draws = 60, 4000
    values = clustered(C, tokens=20)
    picks = torch.randint(C, (draws, C), generator=torch.Generator().manual_seed(7))
    bootstrap = values.mean(1)[picks].mean(1).std().item()
    se = accumulate(values).se
    # a standard deviation from n draws has relative error 1/√(2n), here 1.1%; four of them, and √(C/(C-1))
    assert se == pytest.approx(bootstrap * math.sqrt(C / (C - 1)), rel=4 / math.sqrt(2 * draws))
    naive = values.std().item() / math.sqrt(values.numel())
    assert se > 3 * naive  # 20 tokens that move together are nearly one observation: up to √20 = 4.5 times


def test_window_se_survives_a_mean_far_larger_than_the_spread():
    values = clustered(12, 5)
    # at 1e8 a float64 resolves 1.5e-8, so window means that spread by 1 keep about 8 digits
    assert accumulate(values + 1e8).se == pytest.approx(accumulate(values).se, rel=1e-7)


@pytest.mark.parametrize("windows", [0, 1])
def test_the_standard_error_of_fewer_than_two_windows_is_undefined(windows):
    assert math.isnan(accumulate(clustered(2, 3)[:windows]).se)


def test_exp_with_se_is_the_delta_method():
    mean = accumulate(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))  # mean 1.5, s² = 1/2, SE = √(s²/2) = 1/2
    assert exp_with_se(mean) == pytest.approx((math.exp(1.5), math.exp(1.5) / 2), rel=1e-15)


@pytest.mark.parametrize("loss", [1e4, math.inf])
def test_a_mean_loss_beyond_float64_gives_an_infinite_perplexity(loss):
    assert exp_with_se(accumulate(torch.full((2, 3), loss)))[0] == math.inf


@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 99))
def test_quantiles_are_those_of_torch_within_half_a_bin(count, q, seed):
    values = (3 * gaussian(count, seed=seed)).double().exp()
    histogram = LogHistogram()
    for part in values.split(37):
        histogram.add(part)
    half_bin = math.expm1(LogHistogram.STEP / 2)
    assert half_bin < 0.005  # what the docstring promises
    # torch interpolates at q(n - 1) too; 1e-12 is the rounding of the position and of the bins' edges
    assert histogram.quantile(q) == pytest.approx(values.quantile(q).item(), rel=half_bin + 1e-12)


def test_values_off_the_histogram_are_zero_or_infinite():
    histogram = LogHistogram()
    histogram.add(torch.tensor([0.0, 1e-11, 1.0, 1e7, math.inf]))
    assert [histogram.quantile(q) for q in (0, 0.25, 0.75, 1)] == [0, 0, math.inf, math.inf]


def test_an_empty_histogram_has_no_quantile():
    assert math.isnan(LogHistogram().quantile(0.5))


def test_running_sums_keep_their_size():
    histogram, mean = LogHistogram(), WindowMean()
    size = histogram.counts.shape
    for window in clustered(50, 40).exp():
        histogram.add(window)
        mean.add(window)
    assert histogram.counts.shape == size
    assert histogram.counts.sum() == 2000
    assert all(isinstance(v, int | float) for v in vars(mean).values())
