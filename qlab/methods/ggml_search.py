"""The searches of llama.cpp's `ggml-quants.c`: scale and codes of groups under weighted errors, candidate by candidate.

Everything is computed for all groups at once and lies weight by weight, [group, groups]: sums then run over the first
axis in the order of the C code, and come out equal to its, bit for bit. `kernels/cpu/encode_search.h` is the same,
operation by operation, compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qlab.grid import get_grid
from qlab.step import Step, Steps

SMALL = 1e-15
"""ggml's GROUP_MAX_EPS: a group that small is empty."""


@dataclass(frozen=True)
class Found:
    """What a search found: codes [group, groups] as unsigned floats, scale and (added) minimum [groups]."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None


def total(x: Tensor) -> Tensor:
    """Σ over the first axis, one after the other as a C loop adds: sums in another order differ in the last bit."""
    result = x[0].clone()
    for row in x[1:]:
        result += row
    return result


def over(a: float, x: Tensor) -> Tensor:
    """a/x, rounded once; `a / x` of a number and a tensor is a · (1/x), which rounds twice and loses the ties."""
    return torch.tensor(a, dtype=x.dtype) / x


def root(x: Tensor) -> Tensor:
    """√x, correctly rounded as C's `sqrtf`; torch's own is a unit off for one number in five where it has AVX2 only."""
    return x.double().sqrt().float()


def safe(x: Tensor) -> Tensor:
    """1/x, and 0 where x is 0."""
    return torch.where(x == 0, 0.0, 1 / x)


def farthest(x: Tensor) -> Tensor:
    """The entry of largest magnitude in each column, with its sign; the first of equals, and never −0."""
    return x.gather(0, x.abs().argmax(0, keepdim=True))[0] + 0.0


def smallest(x: Tensor) -> Tensor:
    """The smallest entry of each column; of zeros of both signs the first, as a C loop finds it."""
    return x.gather(0, x.argmin(0, keepdim=True))[0]


def search_affine(
    x: Tensor, w: Tensor, top: int, first: float, step: float, steps: int, absolute: bool = False
) -> Steps[Found]:
    """`make_qkx2_quants`: levels 0 … top, scale and minimum ≤ 0 with the least Σ w·(x − x̂)² (or w·|x − x̂|).

    Candidate k rounds by the inverse scale (top + first + k·step) / (max − min) and solves scale and minimum in closed
    form. The minimum in that formula is the best one so far, so that candidates depend on those before them.
    """
    lo, hi = smallest(x), x.amax(0)
    lo = torch.where(lo > 0, 0.0, lo)
    empty = hi <= lo
    sum_w, sum_x = total(w), total(w * x)
    inverse = over(top, hi - lo)
    scale, minimum = 1 / inverse, lo
    codes = torch.round((x - lo) * inverse).clamp_(0, top)
    best = total(_weighted(scale * codes + minimum - x, w, absolute))
    for k in range(steps + 1):
        units = _f32(_f32(_f32(first) + _f32(_f32(step) * k)) + top)
        trial = torch.round((x - minimum) * over(units, hi - minimum)).clamp_(0, top)
        wl = w * trial
        sum_l, sum_l2, sum_xl = total(wl), total(wl * trial), total(wl * x)
        det = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / det
        new_min = (sum_l2 * sum_x - sum_l * sum_xl) / det
        positive = new_min > 0
        new_scale, new_min = torch.where(positive, sum_xl / sum_l2, new_scale), torch.where(positive, 0.0, new_min)
        error = total(_weighted(new_scale * trial + new_min - x, w, absolute))
        better = (det > 0) & (error < best)
        best = torch.where(better, error, best)
        scale, minimum = torch.where(better, new_scale, scale), torch.where(better, new_min, minimum)
        codes = torch.where(better, trial, codes)
        yield _candidate(k, steps + 1, best, error, scale, minimum)
    return Found(codes.masked_fill(empty, 0), scale.masked_fill(empty, 0), torch.where(empty, lo, minimum))


def search_symmetric(x: Tensor, w: Tensor, half: int) -> Steps[Found]:
    """`make_qx_quants`: levels −half … half − 1; the scale that explains most, (Σ w·x·l)² / Σ w·l².

    Candidate k rounds by −(half + k/10) / extreme, k = 0, then −9 … 9: the extreme weight takes the level −half.
    """
    extreme = farthest(x)
    empty = extreme.abs() < SMALL
    extreme = extreme.masked_fill(empty, 1)
    codes = scale = best = torch.empty(0)
    tries = [0, *range(-9, 0), *range(1, 10)]
    for number, k in enumerate(tries):
        inverse = over(-_f32(half + _f32(_f32(0.1) * k)), extreme)
        trial = torch.round(x * inverse).clamp_(-half, half - 1)
        wl = w * trial
        sum_lx, sum_l2 = total(w * x * trial), total(wl * trial)
        if number == 0:
            codes, scale = trial, torch.where(sum_l2 > 0, sum_lx / sum_l2, 0.0)
            best = scale * sum_lx
        else:
            better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
            codes, scale = torch.where(better, trial, codes), torch.where(better, sum_lx / sum_l2, scale)
            best = torch.where(better, scale * sum_lx, best)
        yield _candidate(number, len(tries), -best, -best, scale, None)
    return Found(codes.masked_fill(empty, -half) + half, scale.masked_fill(empty, 0))


def refine_symmetric(x: Tensor, w: Tensor, half: int) -> Steps[Found]:
    """`make_q3_quants`: round once, then change one code after the other as long as (Σ w·x·l)² / Σ w·l² grows."""
    extreme = farthest(x)
    empty = extreme.abs() < SMALL
    codes = torch.round(x * over(-half, extreme.masked_fill(empty, 1))).clamp_(-half, half - 1)
    codes, sum_lx, sum_l2 = yield from _descend(x, w, codes, -half, half - 1)
    scale = torch.where(sum_l2 > 0, sum_lx / sum_l2, 0.0)
    return Found(codes.masked_fill(empty, -half) + half, scale.masked_fill(empty, 0))


def fit_scales(x: Tensor, w: Tensor, top: int) -> Steps[Found]:
    """`make_qp_quants`: scales or minima x ≥ 0 on levels 0 … top, weighted; candidates, then one code at a time."""
    hi = x.amax(0)
    empty = hi < SMALL
    hi = hi.masked_fill(empty, 1)
    chosen = over(top, hi)
    best = total(_weighted(x - (1 / chosen) * torch.round(chosen * x), w, False))
    for k in (-4, -3, -2, -1, 1, 2, 3, 4):
        inverse = over(_f32(_f32(_f32(0.1) * k) + top), hi)
        error = total(_weighted(x - (1 / inverse) * torch.round(inverse * x).clamp_(max=top), w, False))
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, inverse, chosen)
    codes = torch.round(chosen * x).clamp_(max=top)
    codes, sum_lx, sum_l2 = yield from _descend(x, w, codes, 0, top, both=True)
    scale = torch.where(sum_l2 > 0, sum_lx / sum_l2, 0.0)
    return Found(codes.masked_fill(empty, 0), scale.masked_fill(empty, 0))


def scales_by_max(values: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scales [blocks, groups] ≥ 0 on levels 0 … top with the largest at the top: (codes, step [blocks])."""
    hi = values.amax(1)
    inverse = torch.where(hi > 0, over(top, hi), 0.0)
    return torch.round(inverse[:, None] * values).clamp_(max=top), (hi + 0.0) / top  # never −0


def _descend(
    x: Tensor, w: Tensor, codes: Tensor, low: int, high: int, both: bool = False
) -> Steps[tuple[Tensor, Tensor, Tensor]]:
    """Up to five rounds over the codes, each set to what the others' scale makes of it if that explains more."""
    codes = codes.clone()
    sum_lx, sum_l2 = total(w * x * codes), total(w * codes * codes)
    for number in range(5):
        changed = False
        for i in range(len(x)):
            old, wx = codes[i], w[i] * x[i]
            lx, l2 = sum_lx - wx * old, sum_l2 - w[i] * old * old
            new = torch.round(x[i] * l2 / lx).clamp_(low, high)
            new_lx, new_l2 = lx + wx * new, l2 + w[i] * new * new
            better = (lx > 0) & (new != old) & (new_l2 > 0) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
            better &= (l2 > 0) if both else True
            codes[i] = torch.where(better, new, old)
            sum_lx, sum_l2 = torch.where(better, new_lx, sum_lx), torch.where(better, new_l2, sum_l2)
            changed |= bool(better.any())
        if not changed:
            break
        yield Step("round", number, 5, -float(torch.where(sum_l2 > 0, sum_lx.square() / sum_l2, 0.0).sum()))
    return codes, sum_lx, sum_l2


def search_levels(x: Tensor, w: Tensor, tries: int = 7) -> Steps[Tensor]:
    """IQ4_NL's scale [groups]: the extreme weight is put near the first level, K[0] + k for k = −tries … tries."""
    levels = get_grid("iq4_nl").table
    extreme = farthest(x)
    empty = extreme.abs() < SMALL
    extreme = extreme.masked_fill(empty, 1)
    scale = best = torch.empty(0)
    candidates = [None, *range(-tries, tries + 1)]
    for number, k in enumerate(candidates):
        inverse = 1 / (-extreme / levels[0]) if k is None else (k + levels[0]) / extreme
        q = levels[nearest_level(inverse * x)]
        sum_qx, sum_q2 = total(w * q * x), total(w * q * q)
        if k is None:
            scale, best = sum_qx / sum_q2, sum_qx / sum_q2 * sum_qx
        else:
            better = (sum_q2 > 0) & (sum_qx * sum_qx > best * sum_q2)
            scale = torch.where(better, sum_qx / sum_q2, scale)
            best = torch.where(better, scale * sum_qx, best)
        yield _candidate(number, len(candidates), -best, -best, scale, None)
    return scale.masked_fill(empty, 0)


def nearest_level(x: Tensor) -> Tensor:
    """Index of the nearest of IQ4_NL's levels; a tie goes to the upper one, as in `best_index_int8`."""
    levels = get_grid("iq4_nl").table
    return torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2, right=True)


def _weighted(diff: Tensor, w: Tensor, absolute: bool) -> Tensor:
    return w * (diff.abs() if absolute else diff * diff)


def _candidate(index: int, count: int, best: Tensor, error: Tensor, scale: Tensor, minimum: Tensor | None) -> Step:
    data = {"error": error, "best": best, "scale": scale} | ({} if minimum is None else {"minimum": minimum})
    return Step("candidate", index, count, float(best.sum()), data=data)


def _f32(x: float) -> float:
    """`x` rounded to single precision, as a C float would be."""
    return float(torch.tensor(x, dtype=torch.float32))
