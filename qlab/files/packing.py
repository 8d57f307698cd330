"""A model's weights as small as their file stores them: each matrix packed for the CPU kernels as it is read."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from qlab.files.stored import Tensors, cast_stored, check_shape, return_freed_memory
from qlab.nn import FloatLinear, QEmbedding, QLinear
from qlab.packed import Packed
from qlab.qtensor import QTensor
from qlab.tiles import Tiled


class PackedTensors(Tensors, Protocol):
    """Tensors of a file, of which matrices can be had packed."""

    def packed(self, module: str) -> Packed | QTensor | None:
        """The weight of a module, its codes where the kernels are missing, None where they have none for it."""


def put_packed(
    model: PreTrainedModel, tensors: PackedTensors, dtype: torch.dtype, inputs: str, codes: bool = False
) -> None:
    """Packed layers in place of the float linears and the embedding of a model, where the kernels read what is stored.

    inputs: how linears beside quantized weights round theirs (`QLinear`). A tied head shares the embedding's matrix.
    codes: `tensors` gives codes, of which linears alone are made.
    """
    return_freed_memory()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    table: Packed | None = None
    tied = False
    if not codes and isinstance(embedding, nn.Embedding):
        names = [_name_of(model, embedding)]
        if isinstance(head, nn.Linear) and head.weight is embedding.weight:
            names.append(_name_of(model, head))
        stored = [name for name in names if f"{name}.weight" in tensors]
        tied = len(names) == 2 and len(stored) == 1  # where a file holds both, they are not tied
        found = _checked(tensors, stored[0], embedding) if stored else None
        table = found if isinstance(found, Packed) else None
    for name, module in list(model.named_modules()):
        if module is embedding and table is not None:
            model.set_submodule(name, QEmbedding(table, dtype, float(getattr(module, "embed_scale", 1.0))))
        elif isinstance(module, nn.Linear):
            W = table if tied and module is head else _checked(tensors, name, module)
            if W is not None:
                bias = None
                if module.bias is not None:
                    bias = cast_stored(tensors, f"{name}.bias", tensors[f"{name}.bias"], module.bias.shape, dtype)
                model.set_submodule(name, linear_of(W, bias, inputs))


def linear_of(W: Packed | QTensor, bias: torch.Tensor | None, inputs: str) -> QLinear | FloatLinear:
    """The layer of a packed matrix."""
    return QLinear(W, bias, inputs=inputs) if isinstance(W, QTensor | Tiled) else FloatLinear(W, bias)


def _checked(tensors: PackedTensors, name: str, module: nn.Linear | nn.Embedding) -> Packed | QTensor | None:
    found = tensors.packed(name)
    if found is not None:
        check_shape(tensors, f"{name}.weight", torch.Size(found.shape), module.weight.shape)
        return_freed_memory()  # or what each matrix is read through stays with the process
    return found


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
