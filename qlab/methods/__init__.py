"""Methods: W → QTensor, per linear, one file each. `steps()` is a method's only implementation."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from qlab.plan import LinearPlan
from qlab.qtensor import QTensor, check_finite
from qlab.registry import Registry
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Steps, drain


@runtime_checkable
class Method(Protocol):
    """How codes and scales are chosen for one weight; a frozen dataclass whose fields are the method's options.

    needs: the statistics it cannot do without, among "gram", "abs" and "sq" (data-free methods need none).
    """

    name: str
    needs: frozenset[str]

    def steps(
        self,
        W: Tensor,
        spec: QuantSpec,
        stats: Stats | None = None,
        plan: LinearPlan | None = None,
        grain: str = "layer",
    ) -> Steps[QTensor]:
        """Quantize `W` [out, in], yielding Steps and returning the QTensor.

        grain says how fine the Steps are: "layer" for production, "group" or "column" for a lesson. It never changes
        the result.
        """
        ...


METHODS: Registry = Registry("method")
register_method = METHODS.register
get_method = METHODS.get
method_names = METHODS.names


def quantize(
    W: Tensor,
    spec: QuantSpec | str,
    method: str | Method = "rtn",
    *,
    stats: Stats | None = None,
    plan: LinearPlan | None = None,
    name: str = "weight",
    **options: Any,
) -> QTensor:
    """Quantize `W` [out, in] by a method (its name with `options`, or an instance) under `spec`.

    Raises QlabError, naming `name`, for NaN or infinite weights, shapes that are no matrix, groups larger than a row,
    and statistics the method needs and did not get.
    """
    spec = QuantSpec.parse(spec)
    method = get_method(method, **options) if isinstance(method, str) else method
    spec.check(W.shape, name)
    check_finite(W, name)
    W = W.detach()
    if W.dtype in (torch.float16, torch.bfloat16):  # their arithmetic would add an error of its own
        W = W.float()
    return drain(method.steps(W, spec, stats, plan))


from qlab.methods import ggml, gptq, hqq, mse, rtn  # noqa: E402, F401  (the decorators in them fill METHODS)
