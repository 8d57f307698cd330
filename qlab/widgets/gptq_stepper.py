"""GPTQ column by column on a small slice of a real layer: where each error goes, and what it costs."""

from __future__ import annotations

from typing import Any

import torch
import traitlets
from torch import Tensor

from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods import get_method, quantize
from qlab.methods.gptq import hessian_factor
from qlab.plots import rounded
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step
from qlab.widgets.base import Widget, module

ORDERS = ("none", "desc", "static")


class GPTQStepper(Widget):
    """Weights coloured by how far they have moved, the column at work, its error, and both running errors."""

    _esm = module("gptq_stepper.js")
    layer = traitlets.Unicode().tag(sync=True)
    spec = traitlets.Unicode().tag(sync=True)
    channels: Any = traitlets.List().tag(sync=True)  # the layer's own numbers of the columns shown
    inputs: Any = traitlets.List().tag(sync=True)  # root mean square of each column's input
    weights: Any = traitlets.List().tag(sync=True)  # [out][in] at the start
    runs: Any = traitlets.Dict().tag(sync=True)  # act order -> frames, see `run`


def companions(gram: Tensor, count: int) -> Tensor:
    """The loudest input channel and the `count` − 1 that correlate most with it, in the layer's own order."""
    diag = gram.diag()
    loudest = int(diag.argmax())
    correlation = gram[loudest].abs() / (diag[loudest] * diag).sqrt()
    return correlation.argsort(descending=True, stable=True)[:count].sort().values


def gptq_stepper(fixture: Fixture, spec: str = "int3-g8-asym", rows: int = 12, columns: int = 32) -> GPTQStepper:
    """The widget for the first `rows` outputs and the `columns` most correlated inputs of a fixture with a Gram matrix.

    The slice is a small layer of its own: its Gram matrix is the real one's sub-matrix, as if nothing else came in.
    """
    if fixture.gram is None:
        raise QlabError(f"fixture {fixture.name} has no Gram matrix: use one that has, such as q_proj.11")
    chosen = companions(fixture.gram, columns)
    W, H = fixture.W[:rows, chosen].double(), fixture.gram[chosen][:, chosen].double()
    return GPTQStepper(
        layer=fixture.name,
        spec=spec,
        channels=chosen.tolist(),
        inputs=rounded(H.diag().sqrt()),
        weights=rounded(W),
        runs={order: run(W, H, QuantSpec.parse(spec), order) for order in ORDERS},
    )


def run(W: Tensor, H: Tensor, spec: QuantSpec, act_order: str, damp: float = 0.01) -> dict[str, list]:
    """The frames of one act order, from GPTQ's own Steps; H [in, in] is XᵀX/tokens.

    order: columns as they are quantized; group: of each column, as stored; e: [step][out]; U: [step][in], the row that
    e travels along, zero for columns already done; weight, output, rtn_weight, rtn_output: what is lost after 0, 1, 2 …
    columns, as shares of Σw² and of tr(W·H·Wᵀ).
    """
    steps, order, index = _steps(W, H, spec, act_order, damp)
    U = torch.zeros(len(order), W.shape[1], dtype=H.dtype)
    U[:, order] = hessian_factor(H[order][:, order], damp)
    rounded_alone = quantize(W, spec).dequantize(W.dtype)
    now, alone = W.clone(), W.clone()
    lost = [(*losses(W, now, H), *losses(W, alone, H))]
    for k, step in enumerate(steps):
        now = step.data["W"].clone()
        now[:, order[: k + 1]] = torch.stack([s.data["W_hat"] for s in steps[: k + 1]], dim=1)
        alone[:, order[k]] = rounded_alone[:, order[k]]
        lost.append((*losses(W, now, H), *losses(W, alone, H)))
    curves = zip(("weight", "output", "rtn_weight", "rtn_output"), zip(*lost, strict=True), strict=True)
    return {
        "order": order.tolist(),
        "group": index.tolist(),
        "e": [rounded(step.data["e"]) for step in steps],
        "U": rounded(U),
        **{name: rounded(list(values)) for name, values in curves},
    }


def _steps(W: Tensor, H: Tensor, spec: QuantSpec, act_order: str, damp: float) -> tuple[list[Step], Tensor, Tensor]:
    """GPTQ's Steps by column, the columns in the order they came, and the group of each."""
    stats = Stats(W.shape[1], gram=False)
    stats.tokens, stats.gram = 1, H
    method = get_method("gptq", act_order=act_order, damp=damp, block=W.shape[1])
    generator, steps = method.steps(W, spec, stats, grain="column"), []
    while True:
        try:
            steps.append(next(generator))
        except StopIteration as stop:
            index = stop.value.group_index
            break
    if index is None:
        index = torch.arange(W.shape[1]) // spec.group_in(W.shape[1])
    return steps, torch.tensor([step.columns.start for step in steps]), index


def losses(W: Tensor, W_now: Tensor, H: Tensor) -> tuple[float, float]:
    """Σ(w − w_now)²/Σw² and tr(E·H·Eᵀ)/tr(W·H·Wᵀ), E = W − W_now."""
    E = W - W_now
    return float(E.square().sum() / W.square().sum()), float((E @ H * E).sum() / (W @ H * W).sum())
