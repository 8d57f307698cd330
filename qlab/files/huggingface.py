"""Quantized Hugging Face folders, opened strictly: every tensor of the files has its place, every place its tensor."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from qlab.errors import QlabError
from qlab.files.shards import shard_files
from qlab.layouts import Layout, SpecOf, layout_of
from qlab.nn import QLinear

METHODS = ("gptq", "awq", "compressed-tensors")
AGAIN = "copy or download it again"
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")  # old checkpoints hold what is computed today


def quantization_of(config: Any) -> Mapping[str, Any] | None:
    """The `quantization_config` of a transformers config if its method is one that qlab opens, else None."""
    found = getattr(config, "quantization_config", None)
    return found if isinstance(found, dict) and found.get("quant_method") in METHODS else None


def open_quantized(folder: Path, config: Any, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a folder whose config has a `quantization_config`, its quantized linears as QLinears.

    Everything else is cast to `dtype`. Safetensors only, no code from the folder. QlabError, naming folder and tensor:
    an unknown method or layout, tensors missing, without a place, or of the wrong shape or dtype.
    """
    quantization = quantization_of(config)
    if quantization is None:
        raise QlabError(f"{folder}: config.json has no quantization_config of {', '.join(METHODS)}: use qlab.load")
    layout, spec_of = _described(folder, quantization)
    model = _skeleton(folder, config, dtype)
    with _Tensors(folder) as stored:
        with _once(folder):
            for name, linear in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
                if f"{name}.{layout.codes_key}" in stored:
                    spec = spec_of(name)
                    if spec is None:
                        raise QlabError(f"{folder}: {name} is quantized, but its config.json excludes it; {AGAIN}")
                    model.set_submodule(name, _qlinear(stored, layout, name, linear, spec, dtype))
        if not any(isinstance(m, QLinear) for m in model.modules()):
            raise QlabError(f"{folder}: config.json says {layout.name}, but no linear is stored so; {AGAIN}")
        _fill(model, stored, dtype)
        if extra := [name for name in stored.left() if not _ignored(name, model)]:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise QlabError(
                f"{stored.file_of[extra[0]]} holds {extra[0]}{more}, for which {type(model).__name__} in {layout.name} "
                "has no place; copy config.json and weights from one model"
            )
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


class _Tensors:
    """The tensors of a folder by name, and which of them nobody asked for yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file_of: dict[str, Path] = {}
        self._asked: set[str] = set()
        self._open = ExitStack()
        self._handles: dict[Path, Any] = {}

    def __enter__(self) -> _Tensors:
        for path in shard_files(self.folder):
            handle = self._handles[path] = self._open.enter_context(safe_open(path, framework="pt"))
            for name in handle.keys():  # noqa: SIM118 (a handle is no dict)
                if name in self.file_of:
                    raise QlabError(f"{name} stands in {self.file_of[name]} and in {path}: remove the stray file")
                self.file_of[name] = path
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def __getitem__(self, name: str) -> Tensor:
        self._asked.add(name)
        tensor: Tensor = self._handles[self.file_of[name]].get_tensor(name)
        return tensor

    def under(self, module: str) -> dict[str, Tensor]:
        """The tensors of one module, by what follows its name."""
        prefix = f"{module}."
        return {name.removeprefix(prefix): self[name] for name in self.file_of if name.startswith(prefix)}

    def left(self) -> list[str]:
        """Names of tensors that nobody asked for."""
        return sorted(self.file_of.keys() - self._asked)


def _skeleton(folder: Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model with parameters that have no memory yet, and buffers as it computes them."""
    try:
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
        model.tie_weights()  # the context above broke the ties
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise QlabError(f"transformers cannot build the model of {folder}: {reason}; check its config.json") from error
    return model


def _qlinear(stored: _Tensors, layout: Layout, name: str, linear: nn.Linear, spec: Any, dtype: torch.dtype) -> QLinear:
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
        bias = _cast(stored, f"{name}.bias", bias, torch.Size([linear.out_features]), dtype)
    return QLinear(Q, bias)


def _fill(model: PreTrainedModel, stored: _Tensors, dtype: torch.dtype) -> None:
    """Give every parameter without memory, and every buffer that is stored, what the files hold."""
    names: dict[int, list[str]] = {}  # tied parameters are one, under several names
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            names.setdefault(id(parameter), []).append(name)
    places = dict(model.named_parameters(remove_duplicate=False))
    missing = [tied[0] for tied in names.values() if not any(name in stored for name in tied)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise QlabError(f"incomplete checkpoint: {stored.folder} lacks {missing[0]}{more}; {AGAIN}")
    for tied in names.values():
        shape = places[tied[0]].shape
        first = next(name for name in tied if name in stored)
        shared = nn.Parameter(_cast(stored, first, stored[first], shape, dtype), requires_grad=False)
        for name in tied:  # where the file holds each of them, they are not tied
            if name in stored and name != first:
                own = _cast(stored, name, stored[name], shape, dtype)
                if not torch.equal(own, shared):
                    _set(model, name, nn.Parameter(own, requires_grad=False))
                    continue
            _set(model, name, shared)
    for name, buffer in _persistent_buffers(model):
        if name not in stored:
            raise QlabError(f"incomplete checkpoint: {stored.folder} lacks {name}; {AGAIN}")
        buffer.copy_(_cast(stored, name, stored[name], buffer.shape, buffer.dtype))


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    kept = model.state_dict(keep_vars=True).keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, parameter)


def _cast(stored: _Tensors, name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, or QlabError if its shape is another or it holds codes where numbers are expected."""
    if tensor.shape != shape:
        shapes = f"{name} is {tuple(tensor.shape)} where its config.json says {tuple(shape)}"
        raise QlabError(f"checkpoint and config disagree: {stored.folder}: {shapes}; copy both from one model")
    if tensor.is_floating_point() != dtype.is_floating_point:
        raise QlabError(f"{stored.file_of[name]}: {name} holds {tensor.dtype}, the model {dtype}; {AGAIN}")
    return tensor.to(dtype)


def _ignored(name: str, model: PreTrainedModel) -> bool:
    """Whether a tensor without a place is known to be of no use."""
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    return bool(_COMPUTED.search(name)) or any(re.search(pattern, name) for pattern in patterns)
