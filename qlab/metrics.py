"""How far a model is from a text and from another model: metrics per token, and the running sums over them.

A running sum has a fixed size: it does not grow with the number of tokens it has seen.
"""

import math
import sys

import torch
from torch import Tensor

ROWS = 8  # positions taken at once: their float32 softmax (8 x 49152 is 1.5 MiB) stays in the cache
MAX_EXP = math.log(sys.float_info.max)  # math.exp raises above it


def log_softmax(logits: Tensor) -> Tensor:
    """float32 log-probabilities [..., vocab], off by units in the last place.

    torch's own adds the vocabulary up one term after another on a CPU: on a real model of 49152 tokens its
    normaliser is biased by 8e-6, which every loss inherits. `sum` adds pairwise, and is off by 4e-8.
    """
    x = logits.float()
    shifted = x - x.amax(-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(-1, keepdim=True).log_())


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each next token, in nats, by a float32 log-softmax.

    Logits [tokens, vocab], targets [tokens] -> float64 [tokens] on the CPU. NaN or +inf in a row: NaN.
    """
    rows = zip(torch.split(logits, ROWS), torch.split(targets.to(logits.device), ROWS), strict=True)
    return torch.cat([-log_softmax(x).gather(-1, t[:, None])[:, 0] for x, t in rows]).cpu().double()


def token_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL divergence of q from p at each position, in nats: Σ p log(p/q) over the vocabulary.

    Both [tokens, vocab] -> float64 [tokens] on the CPU, never negative: rounding of the float32
    log-probabilities (about 1e-6) can push the sum of two nearly equal distributions below zero.
    """
    rows = zip(torch.split(p_logits, ROWS), torch.split(q_logits, ROWS), strict=True)
    return torch.cat([_kl(p.to(q.device), q) for p, q in rows]).cpu().double()


def _kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    p = log_p.exp()
    # KL(p‖q) = Σ p (log p - log q); a token that p excludes adds nothing, though 0·∞ is NaN
    terms = (p * (log_p - log_q)).masked_fill_(p == 0, 0.0)
    return terms.sum(-1).clamp_min_(0.0)


class WindowMean:
    """Mean over tokens, with a standard error that respects that the tokens of one window belong together.

    Every window must hold the same number of tokens m. The cluster-robust variance of a ratio of sums Σy/Σm,
    C/(C-1) · Σ_c (Y_c - ȳ m)² / (C m)² over C windows, is then s²/C, the variance of the window means over
    their number (Cochran, Sampling Techniques, ch. 9; Miller, arXiv:2411.00640, without its C/(C-1)).
    """

    def __init__(self) -> None:
        self.windows, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Take in the values of one window's tokens."""
        y = values.double().mean().item()
        before = self.mean if self.windows else y
        self._sum += y
        self.windows += 1
        # Welford's update of Σ (y - mean)²: no difference of large sums
        self._squares += (y - before) * (y - self.mean)

    @property
    def mean(self) -> float:
        """The mean so far; NaN before the first window."""
        return self._sum / self.windows if self.windows else math.nan

    @property
    def se(self) -> float:
        """Standard error of the mean; NaN with fewer than two windows, where it is undefined."""
        C = self.windows
        return math.sqrt(self._squares / (C - 1) / C) if C > 1 else math.nan


class LogHistogram:
    """Quantiles of a stream of non-negative values, each within 0.5% of the exact one.

    Bins are log-spaced from LOW to HIGH and answer with their geometric middle. Below LOW a value counts
    as 0, from HIGH on as infinity.
    """

    LOW, HIGH, BINS = 1e-10, 1e6, 4096
    STEP = math.log(HIGH / LOW) / BINS  # ln of the ratio of neighbouring bins; a middle is off by half of it

    def __init__(self) -> None:
        self.counts = torch.zeros(self.BINS + 2, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count the values."""
        bins = ((values.double() / self.LOW).log() / self.STEP).floor() + 1  # log 0 = -inf: bin 0
        bins = bins.clamp(0, self.BINS + 1).long()
        self.counts += bins.bincount(minlength=self.BINS + 2)

    def quantile(self, q: float) -> float:
        """The q-quantile, interpolated between order statistics as torch.quantile does; NaN when empty."""
        last = int(self.counts.sum()) - 1
        if last < 0:
            return math.nan
        position = q * last
        low, high = self._ordered(math.floor(position)), self._ordered(math.ceil(position))
        return low if low == high else low + (high - low) * (position % 1)

    def _ordered(self, k: int) -> float:
        """The k-th smallest value, counted from 0."""
        b = int(torch.searchsorted(self.counts.cumsum(0), k, right=True))
        middle = self.LOW * math.exp((b - 0.5) * self.STEP)
        return 0.0 if b == 0 else math.inf if b > self.BINS else middle


def exp_with_se(mean: WindowMean) -> tuple[float, float]:
    """exp of a mean and its standard error by the delta method: SE(eˣ) = eˣ SE(x)."""
    value = math.inf if mean.mean > MAX_EXP else math.exp(mean.mean)
    return value, value * mean.se
