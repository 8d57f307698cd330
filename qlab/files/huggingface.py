"""Quantized Hugging Face folders, opened strictly: every tensor of the files has its place, every place its tensor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from qlab.errors import QlabError
from qlab.files.packing import put_packed
from qlab.files.stored import (
    AGAIN,
    StoredTensors,
    cast_stored,
    fill,
    ignored,
    persistent_buffers,
    return_freed_memory,
    skeleton,
)
from qlab.layouts import Layout, SpecOf, layout_of
from qlab.nn import QLinear, pack

METHODS = ("gptq", "awq", "compressed-tensors")


def quantization_of(config: Any) -> Mapping[str, Any] | None:
    """The `quantization_config` of a transformers config if its method is one that qlab opens, else None."""
    found = getattr(config, "quantization_config", None)
    return found if isinstance(found, dict) and found.get("quant_method") in METHODS else None


def open_quantized(
    folder: Path, config: Any, dtype: torch.dtype = torch.float32, packed: str | None = None
) -> PreTrainedModel:
    """The model of a folder whose config has a `quantization_config`, its quantized linears as QLinears.

    packed: how their inputs are rounded (`QLinear`); they, the embedding and every float linear are then packed for the
    CPU kernels one by one as they are read. Everything else is cast to `dtype`.

    Safetensors only, no code from the folder. QlabError, naming folder and tensor:
    an unknown method or layout, tensors missing, without a place, or of the wrong shape or dtype.
    """
    quantization = quantization_of(config)
    if quantization is None:
        raise QlabError(f"{folder}: config.json has no quantization_config of {', '.join(METHODS)}: use qlab.load")
    layout, spec_of = _described(folder, quantization)
    model = skeleton(folder, config, dtype)
    stored = StoredTensors(folder)
    with _once(folder):
        for name, linear in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
            if f"{name}.{layout.codes_key}" in stored:
                spec = spec_of(name)
                if spec is None:
                    raise QlabError(f"{folder}: {name} is quantized, but its config.json excludes it; {AGAIN}")
                model.set_submodule(name, _qlinear(stored, layout, name, linear, spec, dtype, packed))
                if packed is not None:
                    return_freed_memory()  # or what each linear is unpacked through stays with the process
    if not any(isinstance(m, QLinear) for m in model.modules()):
        raise QlabError(f"{folder}: config.json says {layout.name}, but no linear is stored so; {AGAIN}")
    if packed is not None:
        put_packed(model, stored, dtype, packed)
    fill(model, stored, dtype)
    if extra := [name for name in stored.left() if not ignored(name, model)]:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise QlabError(
            f"{stored.file_of[extra[0]]} holds {extra[0]}{more}, for which {type(model).__name__} in {layout.name} "
            "has no place; copy config.json and weights from one model"
        )
    return model


def open_floats(folder: Path, config: Any, dtype: torch.dtype, packed: str) -> PreTrainedModel | None:
    """The model of a float folder, its matrices packed for the CPU kernels in the bits of its files.

    None where the files name their tensors otherwise than the model does, which transformers then translates, or hold
    some that it has no place for. Errors: those of `open_quantized`.
    """
    model, stored = skeleton(folder, config, dtype), StoredTensors(folder)
    ties: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        ties.setdefault(id(parameter), []).append(name)
    places = {name for names in ties.values() for name in names} | {name for name, _ in persistent_buffers(model)}
    extra = [name for name in stored.left() if name not in places and not ignored(name, model)]
    if extra or not all(any(name in stored for name in names) for names in ties.values()):
        return None
    put_packed(model, stored, dtype, packed)
    fill(model, stored, dtype)
    return model


def _described(folder: Path, quantization: Mapping[str, Any]) -> tuple[Layout, SpecOf]:
    """The layout that a folder's `quantization_config` names, and what it says of each linear."""
    try:
        layout = layout_of(quantization)
        return layout, layout.specs(quantization)
    except QlabError as error:
        raise QlabError(f"{folder / 'config.json'}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise QlabError(f"{folder / 'config.json'}: damaged quantization_config ({what}); {AGAIN}") from error


@contextmanager
def _once(folder: Path) -> Iterator[None]:
    """Give each warning that arises in the body once, with the folder's name, however many layers cause it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        warnings.warn(f"{folder}: {text}", stacklevel=4)


def _qlinear(
    stored: StoredTensors, layout: Layout, name: str, linear: nn.Linear, spec: Any, dtype: torch.dtype,
    packed: str | None,
) -> QLinear:  # fmt: skip
    """The QLinear in place of `linear`. AutoGPTQ stores a bias, of zeros, even where the model has none."""
    tensors = stored.under(name)
    bias = tensors.pop("bias", None)
    try:
        Q = layout.unpack(tensors, (linear.out_features, linear.in_features), spec)
    except QlabError as error:
        raise QlabError(f"{stored.file_of[f'{name}.{layout.codes_key}']}: {name}: {error}") from error
    if bias is None and linear.bias is not None:
        raise QlabError(f"incomplete checkpoint: {stored.folder} lacks {name}.bias; {AGAIN}")
    if bias is not None:
        bias = cast_stored(stored, f"{name}.bias", bias, torch.Size([linear.out_features]), dtype)
    made = QLinear(Q, bias)
    if packed is not None:
        pack(made, packed)
    return made
