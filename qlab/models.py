"""Opening models: the built-in ones, Hugging Face folders and hub ids, GGUF files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import constants, get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # httpx's or httpx2's: that of the client which this version uses
    LocalEntryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from qlab.cache import cache_dir
from qlab.errors import QlabError
from qlab.files.gguf import open_gguf
from qlab.files.huggingface import open_floats, open_quantized, quantization_of
from qlab.files.lazy import LazyModel
from qlab.from_gguf import config_from_gguf, model_from_gguf, quiet, stored_in
from qlab.gpu import check_load, warn_of
from qlab.kernels import cpu
from qlab.nn import INPUTS, QLinear, pack_on_gpu
from qlab.reference import BUILDERS, reference_folder

__all__ = ["LoadedModel", "cache_dir", "load", "load_config", "open_lazily"]

# Never pickle: weights come from safetensors only.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
_OFFLINE = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, HTTPError, OSError)

HUB_SECONDS = 3.0
"""How long to wait for a sign of the hub; its own client tries for 23 seconds and more before it gives up."""


ACTIVATIONS = INPUTS


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in eval mode with frozen weights, its tokenizer, and the name it was opened by.

    cost: bytes, true bits per weight and "stored_as" of a file whose numbers the model holds as floats; else empty.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    cost: Mapping[str, Any] = field(default_factory=dict)


def load(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    activations: str = "float",
    packed: bool = False,
) -> LoadedModel:
    """Open "reference", "reference-768", a Hugging Face folder, a hub id or a .gguf file.

    Weights are floats of `dtype`; linears stored as GPTQ, AWQ or compressed-tensors stay quantized (QLinear).
    packed: those, a .gguf file's and float matrices stay as small as they are stored; the CPU kernels multiply them.
    On a CUDA device what is quantized stays so, and Triton's kernels multiply it, with inputs of `dtype`, which is then
    float16 or bfloat16, and activations "float".
    activations: "llama.cpp" rounds the inputs of a .gguf file's linears as that program does (8-bit blocks beside
    quantized weights), for numbers that can be held against its own; "int8" those of packed linears, which is
    fastest; "float" judges the weights alone.
    Without kernels, which a warning tells, packed weights are codes that torch dequantizes, and int8 is float.
    Errors: QlabError naming what is missing or unreadable and what to do about it.
    """
    name = str(name_or_path)
    if activations not in ACTIVATIONS:
        raise QlabError(f"activations {activations!r}: choose one of {', '.join(ACTIVATIONS)}")
    if activations == "llama.cpp" and not name.endswith(".gguf"):
        raise QlabError(f"{name} is no .gguf file: how llama.cpp rounds activations depends on its types; use float")
    if activations == "int8" and not packed:
        raise QlabError("activations int8 are those of the CPU kernels: load with packed=True")
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        check_load(dtype, activations, packed)
    inputs = "float" if activations == "int8" and not cpu.available else activations
    model, tokenizer = _open(name, dtype, inputs, packed, on_gpu)
    if packed and not on_gpu and not cpu.available and any(isinstance(m, QLinear) for m in model.modules()):
        rounded = "" if inputs == activations else ", inputs in floating point"
        warnings.warn(f"{name} is not packed, torch multiplies its codes{rounded}: {cpu.missing}", RuntimeWarning, 2)
    frozen = torch.nn.Module.to(model.eval().requires_grad_(False), device)
    if packed and on_gpu:
        warn_of(name, pack_on_gpu(frozen, device, dtype))
    cost = stored_in(open_gguf(name)) | {"activations": inputs} if name.endswith(".gguf") else {}
    return LoadedModel(frozen, tokenizer, name, cost)


def open_lazily(
    name_or_path: str | Path, *, dtype: torch.dtype | None = torch.float32, device: str = "cpu"
) -> tuple[LazyModel, Any]:
    """The model of a float folder (or built-in, or hub id) with no parameter in memory yet, and its tokenizer.

    dtype: what it computes in; None: what its tensors are stored in.

    Errors: QlabError as `load`; GGUF files and folders that are quantized already.
    """
    name = str(name_or_path)
    folder = model_folder(name)
    config = _config(folder)
    _check_causal(config, folder)
    if getattr(config, "quantization_config", None):
        raise QlabError(f"{folder} is quantized already: give the float model it was made from")
    if not any(folder.glob("*.safetensors")):
        raise _no_weights(folder)
    with quiet():
        return LazyModel(folder, config, dtype, device), open_tokenizer(folder)


def load_config(name_or_path: str | Path) -> Any:
    """The transformers config of anything `load` opens, or of a bare config.json, without its weights."""
    name = str(name_or_path)
    if name in BUILDERS:
        config = _config(reference_folder(name))
        config.name_or_path = name  # not the cache folder: this is what a reader of tables knows it by
        return config
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return config_from_gguf(path)
    if path.is_file():
        return _config(path)
    if _is_local(name):
        return _config(_existing(path))
    return _config(Path(_from_hub(name, partial(hf_hub_download, name, "config.json"))))


def _open(name: str, dtype: torch.dtype, activations: str, packed: bool, codes: bool) -> tuple[PreTrainedModel, Any]:
    """codes: what is packed stays QTensors."""
    if name.endswith(".gguf"):
        return model_from_gguf(Path(name).expanduser(), dtype, activations, packed, codes)
    return _open_folder(model_folder(name), dtype, activations if packed and not codes else None)


def model_folder(name: str) -> Path:
    """The folder of a built-in model, a local one, or one of the hub."""
    if name in BUILDERS:
        return reference_folder(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        raise QlabError(f"{path} holds blocks of its own: give the Hugging Face folder of the float model")
    if _is_local(name):
        return _existing(path)
    return Path(_from_hub(name, partial(snapshot_download, name, allow_patterns=_HUB_FILES)))


def _is_local(name: str) -> bool:
    """Whether a name can only be, or already is, a path: a hub id has one slash at most and names no file."""
    names_a_file = name.endswith((".json", ".safetensors", ".bin"))
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or names_a_file


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise QlabError(f"model {what}: {folder}; give a Hugging Face folder, a .gguf file or a hub id")
    return folder


def _from_hub(name: str, download: Callable[..., str]) -> str:
    """The path of what `download` fetches, or of its cached copy when the hub is out of reach."""
    online = _hub_answers()
    try:
        with quiet():
            return str(download(local_files_only=not online))
    except _OFFLINE as error:
        silent = not online and isinstance(error, LocalEntryNotFoundError)
        reason = f"{constants.ENDPOINT} does not answer" if silent else _first_line(error)
        known = ", ".join(BUILDERS)
        raise QlabError(
            f"no such model here, and the hub cannot give it: {name}: {reason}; check the spelling and the network,"
            f" or use a local folder, a .gguf file or a built-in model ({known})"
        ) from error


def _hub_answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except (HTTPError, OSError):
        return False
    return True


def _open_folder(folder: Path, dtype: torch.dtype, packed: str | None) -> tuple[PreTrainedModel, Any]:
    config = _config(folder)
    _check_causal(config, folder)
    _check_weights(folder)
    if quantization_of(config):
        with quiet():
            return open_quantized(folder, config, dtype, packed), open_tokenizer(folder)
    if packed is not None and cpu.available:
        with quiet():
            opened = open_floats(folder, config, dtype, packed)
        if opened is not None:
            return opened, open_tokenizer(folder)
    try:
        with quiet():
            # Mismatched sizes are let through here to be named by _check_complete.
            loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
        raise QlabError(f"transformers cannot load {folder}: {_first_line(error)}; check its files") from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    _check_complete(info, folder)
    return model, open_tokenizer(folder)


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder."""
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
        raise QlabError(f"transformers cannot load {folder}: {_first_line(error)}; check its files") from error


def _config(path: Path) -> Any:
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise QlabError(f"not a model folder: {path} has no config.json; give a folder written by save_pretrained")
    try:
        with quiet():
            return AutoConfig.from_pretrained(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "qlab opens the architectures that transformers itself contains, and runs no code from folders"
        raise QlabError(f"cannot read the config: {file}: {_first_line(error)}; {remedy}") from error


def _check_causal(config: Any, folder: Path) -> None:
    declared = config.architectures or []
    heads = ("CausalLM", "LMHeadModel", "ConditionalGeneration")
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not any(
        name.endswith(heads) for name in declared or ["CausalLM"]
    ):
        what = ", ".join(declared) or config.model_type
        raise QlabError(f"not a causal language model: {folder} holds {what}; give one that predicts the next token")


def _check_weights(folder: Path) -> None:
    """Every safetensors file the folder names is there and whole, down to its last byte."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _no_weights(folder)
    for file in sorted({*files, *_shards(folder)}):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise QlabError(f"damaged weights: {file}: {_first_line(error)}; copy or download it again") from error


def _shards(folder: Path) -> set[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    try:
        return {folder / name for name in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise QlabError(f"damaged index: {index}: {_first_line(error)}; copy or download it again") from error


def _no_weights(folder: Path) -> QlabError:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        remedy = "convert it to safetensors (open it once with transformers and call save_pretrained)"
        return QlabError(f"pickled weights are not opened, they can run code: {folder}; {remedy}")
    if gguf := sorted(folder.glob("*.gguf")):
        return QlabError(f"no safetensors in {folder}; to open its GGUF give the file: {gguf[0]}")
    return QlabError(f"no weights in {folder}; it needs model.safetensors")


def _check_complete(info: dict[str, Any], folder: Path) -> None:
    # transformers fills such weights with random numbers and only mentions it.
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise QlabError(f"incomplete checkpoint: {folder} lacks {missing[0]}{more}; copy or download it again")
    for name, stored, expected in sorted(info["mismatched_keys"]):
        shapes = f"{tuple(stored)} where its config.json says {tuple(expected)}"
        raise QlabError(f"checkpoint and config disagree: {folder}: {name} is {shapes}; copy both from one model")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
