"""The GPU benchmark of `kernels/triton/bench` for an installed qlab, which opens quantized models too."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from qlab.errors import QlabError
from qlab.gpu import kernels, pack_for_gpu
from qlab.models import load
from qlab.nn import QLinear
from qlab.qtensor import QTensor


def run(arguments: Sequence[str]) -> int:
    """The benchmark's exit code; see its `--help`. Without Triton or a GPU, the newest recorded run, or 2."""
    triton = kernels()
    if not triton.available:
        return int(_part("report").show_recorded(triton.missing, "--json" in arguments))
    return int(_part("run").main(arguments, opened))


def recorded() -> list[dict[str, Any]]:
    """Recorded runs on GPUs, newest first, each with a `label` that says when and on what."""
    report = _part("report")
    return [{"label": report.label(found)} | found for _, found in report.recorded()]


def opened(name: str, device: torch.device) -> tuple[Any, Callable[[nn.Module], Any]]:
    """A model in float16, and what gives its linears packed: quantized ones as they are, others rounded to 4 bits."""
    model = load(name, dtype=torch.float16, device=device).model
    rounded = _part("model").rounding(model)

    def pack(linear: nn.Module) -> Any:
        if not isinstance(linear, QLinear) or not isinstance(linear.weight_, QTensor):
            return rounded(linear)
        try:
            weights = pack_for_gpu(linear.weight_).weights
        except QlabError:
            return None
        return linear.W_hat(torch.float16), weights, linear.bias

    return model, pack


def _part(name: str) -> Any:
    return importlib.import_module(f"qlab.kernels.triton.bench.{name}")
