"""Saving a quantized model as a Hugging Face folder that other tools open, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from qlab.errors import QlabError
from qlab.files.shards import MAX_SHARD_BYTES, cannot_write, merge_shards
from qlab.layouts import Layout, get_layout
from qlab.nn import QLinear
from qlab.spec import QuantSpec

PART_BYTES = 256 * 2**20
CARRIED = ("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
           "merges.txt", "*.jinja", "chat_template.json")  # fmt: skip


def save_quantized(
    model: nn.Module,
    tokenizer: Any,
    folder: str | Path,
    layout_name: str,
    provenance: Mapping[str, Any] | None = None,
    *,
    source: Path | None = None,
    act_order: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a model with QLinears to a new `folder` in a layout (gptq, gptq_v2, awq, compressed-tensors).

    What is not quantized keeps its numbers exactly, in 16 bits where they fit. source: the folder the model came from,
    whose tokenizer and generation files are copied as they are. act_order: as GPTQ was run, for the configuration.
    Errors: QlabError, with nothing left under `folder`, for layers that the layout cannot hold, an existing folder, a
    full disk.
    """
    layout: Layout = get_layout(layout_name)
    specs = check_model(model, layout)
    skipped = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    act_order = act_order or ("desc" if _scattered(model) else "none")
    config = with_provenance(layout.config(specs, skipped, act_order), provenance)
    with new_folder(Path(folder)) as partial:
        parts = _parts(stored_tensors(model, layout), partial / "parts")
        merge_shards(parts, partial, max_shard_bytes, json.dumps(provenance) if provenance else None)
        shutil.rmtree(partial / "parts")
        side_files(source, model, tokenizer, partial, config, untied=head_name(model) in specs)
    return Path(folder)


def check_model(model: nn.Module, layout: Layout) -> dict[str, QuantSpec]:
    """The spec of every QLinear by name; QlabError if there is none, or one that `layout` cannot hold."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, QLinear)}
    if not linears:
        raise QlabError("nothing is quantized here: run quantize_ first, or save the model with save_pretrained")
    for name, linear in linears.items():
        Q = linear.qtensor
        layout.check(tuple(Q.shape), Q.spec, name, Q.group_index is not None)
        if linear.input_spec is not None:
            raise QlabError(f"{name} quantizes its input ({linear.input_spec}): {layout.name} stores weights only; "
                            "leave `input` out of the recipe")  # fmt: skip
    return {name: linear.qtensor.spec for name, linear in linears.items()}


def stored_tensors(
    model: nn.Module, layout: Layout, under: str = "", without: str | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors to store, QLinears packed one at a time; tied parameters once, under their first name.

    under, without: only names that begin with the one, and not with the other ("model.layers.3.", "model.layers.").
    """

    def wanted(name: str) -> bool:
        return name.startswith(under) and (without is None or not name.startswith(without))

    for name, module in model.named_modules():
        if isinstance(module, QLinear) and wanted(f"{name}."):
            for key, tensor in layout.pack(module.qtensor).items():
                yield f"{name}.{key}", tensor
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) == name and wanted(name):
            yield name, narrowed(tensor.detach()).contiguous()


def side_files(
    source: Path | None,
    model: Any,
    tokenizer: Any,
    folder: Path,
    quantization_config: Mapping[str, Any],
    untied: bool = False,
) -> None:
    """Everything of a folder but the weights: config.json with `quantization_config`, tokenizer, generation settings.

    With a `source` folder its files are copied and its config.json is completed; else model and tokenizer write theirs.
    untied: the head has codes of its own. GPTQ's readers also look into quantize_config.json, which says the same.
    """
    try:
        if source is None:
            tokenizer.save_pretrained(folder)
            if getattr(model, "generation_config", None) is not None:
                model.generation_config.save_pretrained(folder)
            config = _config(model)
        else:
            for path in sorted({path for pattern in CARRIED for path in source.glob(pattern) if path.is_file()}):
                shutil.copyfile(path, folder / path.name)
            config = json.loads((source / "config.json").read_text())
        config["quantization_config"] = dict(quantization_config)
        if untied:
            config["tie_word_embeddings"] = False
        _write_json(folder / "config.json", config)
        if quantization_config["quant_method"] == "gptq":
            _write_json(folder / "quantize_config.json", quantization_config)
    except OSError as error:
        raise cannot_write(folder, error) from error


def head_name(model: Any) -> str | None:
    """The name of the output head."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def provenance_of(
    recipe: str, calibration: str | None = None, tokens: int | None = None, seed: int | None = None,
    commit: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """How a model came about, as plain values: the recipe (YAML), the calibration, and the versions that did it."""
    versions = {name: version(name) for name in ("qlab", "torch", "transformers")}
    facts = {"recipe": recipe, "calibration": calibration, "tokens": tokens, "seed": seed, "commit": commit}
    return {key: value for key, value in facts.items() if value is not None} | {"versions": versions}


def with_provenance(config: Mapping[str, Any], provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """A `quantization_config` that says in `meta` who wrote it, and how; readers ignore what they do not know there."""
    meta = {**config.get("meta", {}), "quantizer": [f"qlab:{version('qlab')}"]}
    return {**config, "meta": meta | ({"qlab": dict(provenance)} if provenance else {})}


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, renamed to it at the end; after an error nothing is left of either."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise QlabError(f"{folder} exists and is not empty: choose another output folder, or remove it")
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = error if isinstance(error, OSError) else OSError(str(error))
        raise cannot_write(folder, reason) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _parts(tensors: Iterable[tuple[str, Tensor]], folder: Path) -> Sequence[Path]:
    """Part files of about 256 MiB, so that no second model is held in memory."""
    folder.mkdir()
    paths: list[Path] = []
    held: dict[str, Tensor] = {}

    def flush() -> None:
        paths.append(folder / f"{len(paths):05d}.safetensors")
        save_file(held, paths[-1])
        held.clear()

    for name, tensor in tensors:
        held[name] = tensor
        if sum(t.nbytes for t in held.values()) >= PART_BYTES:
            flush()
    if held:
        flush()
    return paths


def narrowed(tensor: Tensor) -> Tensor:
    """A float32 tensor in the 16-bit dtype that holds each of its numbers exactly, if there is one."""
    if tensor.dtype == torch.float32:
        for dtype in (torch.bfloat16, torch.float16):
            if torch.equal(tensor.to(dtype).float(), tensor):
                return tensor.to(dtype)
    return tensor


def _scattered(model: nn.Module) -> bool:
    return any(isinstance(m, QLinear) and m.qtensor.group_index is not None for m in model.modules())


def _config(model: Any) -> dict[str, Any]:
    """The model's own config.json; its dtype is that in which the embedding is stored."""
    config: dict[str, Any] = json.loads(model.config.to_json_string())
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(narrowed(model.get_input_embeddings().weight.detach()).dtype).removeprefix("torch.")
    return config


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
