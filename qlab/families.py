"""Families: which linears of a transformer block share an input, and which module before them can take a scale.

Multiplying the input columns of a linear by s and dividing what produces that input by s changes no output: the float
model is the same, and its weights quantize differently (SmoothQuant, arXiv 2211.10438; AWQ, arXiv 2306.00978).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from qlab.errors import QlabError


@dataclass(frozen=True)
class Fold:
    """Linears of a block that read one tensor, and the module `into` that can take the inverse of their scale.

    into: a norm, or a linear whose output reaches them channel by channel; None where something in between is not
    linear. unit_offset: the norm multiplies by 1 + weight. parts: `into` is that many linears of equal height in one,
    and the last of them is meant.
    """

    linears: tuple[str, ...]
    into: str | None
    unit_offset: bool = False
    parts: int = 1


@dataclass(frozen=True)
class Family:
    """The blocks of an architecture: every linear is in one fold, and folds stand in the order they run in."""

    name: str
    folds: tuple[Fold, ...]
    blocks: str = "model.layers"


def _llama(name: str, mlp_norm: str = "post_attention_layernorm", unit_offset: bool = False) -> Family:
    """Norm, attention, norm, gated MLP: act(gate(x)) · up(x), so that `up` reaches `down` channel by channel."""
    return Family(
        name,
        (
            Fold(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm", unit_offset),
            Fold(("self_attn.o_proj",), "self_attn.v_proj"),
            Fold(("mlp.gate_proj", "mlp.up_proj"), mlp_norm, unit_offset),
            Fold(("mlp.down_proj",), "mlp.up_proj"),
        ),
    )


_PHI = Family(
    "phi",
    (
        # attention and MLP run side by side on the output of one norm
        Fold(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1"), "input_layernorm"),
        Fold(("self_attn.dense",), "self_attn.v_proj"),
        Fold(("mlp.fc2",), None),  # a GELU stands between fc1 and fc2
    ),
)
_PHI3 = Family(
    "phi3",
    (
        Fold(("self_attn.qkv_proj",), "input_layernorm"),
        Fold(("self_attn.o_proj",), "self_attn.qkv_proj", parts=3),
        Fold(("mlp.gate_up_proj",), "post_attention_layernorm"),
        Fold(("mlp.down_proj",), "mlp.gate_up_proj", parts=2),
    ),
)
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(_llama(name) for name in ("llama", "mistral", "qwen2", "qwen3")),
        _llama("gemma", unit_offset=True),
        *(_llama(name, "pre_feedforward_layernorm", unit_offset=True) for name in ("gemma2", "gemma3_text")),
        _PHI,
        _PHI3,
    )
}
"""By the `model_type` of transformers' configurations."""


def family_of(config_model_type: str) -> Family | None:
    """The family of a `model_type`; None for one not known here, whose scales then cannot be folded."""
    return FAMILIES.get(config_model_type)


def applicable(fold: Fold, block: nn.Module) -> bool:
    """Whether `into` has one output for each input of the linears.

    Grouped-query attention has not: a value channel feeds several inputs of the output projection.
    """
    if fold.into is None:
        return False
    into, linears = _modules(fold, block)
    height = len(cast(Tensor, into.weight))
    return all(height == fold.parts * linear.in_features for linear in linears)


@torch.no_grad()
def fold_scale(block: nn.Module, fold: Fold, scale: Tensor) -> None:
    """Multiply the input columns of the fold's linears by `scale` [in] and divide `into` by it, in place.

    The block's output stays the same but for rounding to the weights' dtype. Errors: QlabError, with nothing changed,
    where the fold is not applicable or `scale` is not positive and finite.
    """
    if not applicable(fold, block):
        raise QlabError(f"no scale of {', '.join(fold.linears)} can go into {fold.into}: leave this fold out")
    into, linears = _modules(fold, block)
    n = linears[0].in_features
    if scale.shape != (n,) or not ((scale > 0) & scale.isfinite()).all():
        raise QlabError(f"a scale for {fold.linears[0]} must be {n} positive, finite numbers: got {list(scale.shape)}")
    # in single precision at least: 16-bit weights are rounded once, when the product is stored
    s = scale.to(torch.promote_types(scale.dtype, torch.float32))
    for linear in linears:
        linear.weight.copy_(linear.weight * s)
    _divide(into, s, fold)


def _divide(into: nn.Module, s: Tensor, fold: Fold) -> None:
    """Divide a norm's or linear's outputs by s: the last len(s) of its weight's rows, and of its bias if it has one."""
    for name, parameter in into.named_parameters():
        rows = parameter[-len(s) :]
        wide = rows.to(torch.promote_types(rows.dtype, s.dtype))
        divisor = s if rows.ndim == 1 else s[:, None]
        if fold.unit_offset and name == "weight":  # (1 + weight) / s = 1 + new weight
            rows.copy_((1 + wide) / divisor - 1)
        else:
            rows.copy_(wide / divisor)


def _modules(fold: Fold, block: nn.Module) -> tuple[nn.Module, list[nn.Linear]]:
    """`into` and the linears of a fold with an `into`; QlabError where this block lacks one."""
    try:
        into, *linears = (block.get_submodule(name) for name in (str(fold.into), *fold.linears))
    except AttributeError as error:
        raise QlabError(f"{type(block).__name__} is not built as its family: {error}; quantize it unscaled") from error
    if not all(isinstance(linear, nn.Linear) for linear in linears):
        raise QlabError(f"{', '.join(fold.linears)}: no float linears (any more): scale them before quantizing")
    return into, cast(list[nn.Linear], linears)
