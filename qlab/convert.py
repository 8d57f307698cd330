"""Hugging Face → GGUF: names, keys, tokenizer, and every tensor in the type that a mix gives it, one at a time."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from torch import Tensor
from tqdm.auto import tqdm

from qlab.blocks import BlockStream
from qlab.calibration import Calibration
from qlab.errors import QlabError
from qlab.files.huggingface import quantization_of
from qlab.files.imatrix import ImportanceMatrix
from qlab.files.stored import StoredTensors
from qlab.ggml import GridType, block_type, compiled
from qlab.ggml.architectures import NameMap, architecture_of, keys, rope_factors, to_gguf
from qlab.ggml.tokenizer import tokenizer_keys
from qlab.methods import quantize
from qlab.models import load, load_config, model_folder, open_tokenizer
from qlab.nn import QLinear
from qlab.qtensor import check_finite
from qlab.recipes.llama_cpp import Choice, Mix, file_type

Source = tuple[tuple[int, ...], Callable[[], Tensor]]
"""Shape of a tensor, and what reads it."""


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: files, and the type of every tensor with the one it stands in for."""

    paths: tuple[Path, ...]
    choices: Mapping[str, Choice] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    nbytes: int = 0

    @property
    def types(self) -> dict[str, int]:
        """How many tensors have each type, the commonest first."""
        return dict(Counter(choice.type for choice in self.choices.values()).most_common())

    @property
    def fallbacks(self) -> dict[str, int]:
        """How many tensors got another type because blocks do not divide their rows: "Q4_K → Q5_0"."""
        return dict(Counter(f"{c.instead_of} → {c.type}" for c in self.choices.values() if c.instead_of))

    @property
    def bits_per_weight(self) -> float:
        """True bits over all tensors."""
        numbers = {name: prod(shape) for name, shape in self.shapes.items()}
        bits = sum(n * block_type(self.choices[name].type).bits_per_weight for name, n in numbers.items())
        return bits / sum(numbers.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "files": [str(path) for path in self.paths], "size_bytes": self.nbytes,
            "bits_per_weight": self.bits_per_weight, "types": self.types, "fallbacks": self.fallbacks,
        }  # fmt: skip


def to_gguf_file(
    model: str,
    out: str | Path,
    type_: str = "Q4_K_M",
    *,
    imatrix: ImportanceMatrix | Callable[[], ImportanceMatrix] | None = None,
    overrides: Mapping[str, str] | None = None,
    pre: str | None = None,
    split_max_size: int = 0,
    progress: bool = True,
) -> Converted:
    """Write `model` (anything `load` opens but a GGUF) as a GGUF file that llama.cpp runs.

    type_: a file type of llama-quantize. imatrix: an importance matrix, or what computes it once all else has been
    found in order. overrides: regular expression → tensor type, first match wins. pre: the
    pre-tokenizer's name where it cannot be found. split_max_size: bytes of one file, 0 for no limit. Memory is one
    tensor. Errors (QlabError) come before anything is written: unknown architecture or tokenizer, types that do not
    exist, an output that does. The file appears whole or not at all.
    """
    out = Path(out).expanduser()
    folder, config = model_folder(model), load_config(model)
    config = getattr(config, "text_config", config)
    mix = _mix(config, type_, imatrix is not None, overrides or {})
    sources = _sources(model, folder, config)
    choices = {name: mix.choose(name, shape) for name, (shape, _) in sources.items()}
    tokenizer = dict(tokenizer_keys(folder, open_tokenizer(folder), config.vocab_size, pre))
    if out.suffix != ".gguf":
        raise QlabError(f"{out}: a GGUF file is named NAME.gguf")
    if out.exists():
        raise QlabError(f"{out} exists: remove it, or give another name")
    imatrix = imatrix() if callable(imatrix) else imatrix
    scratch = out.with_name(f".{out.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        writer = GGUFWriter(scratch / out.name, architecture_of(config).name, split_max_size=split_max_size)
        _add_keys(writer, config, mix, tokenizer, imatrix)
        _write(writer, sources, choices, imatrix, progress)
        paths = []
        for part in sorted(scratch.iterdir()):
            paths.append(part.replace(out.with_name(part.name)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shapes = {name: shape for name, (shape, _) in sources.items()}
    return Converted(tuple(paths), choices, shapes, sum(path.stat().st_size for path in paths))


def _mix(config: Any, type_: str, imatrix: bool, overrides: Mapping[str, str]) -> Mix:
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Mix(
        type_, config.num_hidden_layers, config.num_attention_heads, kv_heads, bool(config.tie_word_embeddings),
        imatrix=imatrix, overrides=overrides,
    )  # fmt: skip


def _sources(model: str, folder: Path, config: Any) -> dict[str, Source]:
    """Every tensor of the file by its name there, in the order of llama.cpp's own converter: as they are stored."""
    rename = NameMap(config)
    found: dict[str, Source] = {}
    if (factors := rope_factors(config)) is not None:
        found["rope_freqs.weight"] = (tuple(factors.shape), partial(_given, factors))
    for name, shape, read in _tensors(model, folder, config):
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        found[rename(name)] = (shape, partial(_ordered, name, read, config))
    if "token_embd.weight" not in found:
        raise QlabError(f"{folder} has no embedding: it is not a whole model")
    order = ("token_embd.", "rope_freqs.", "blk.", "output_norm.", "output.")

    def place(name: str) -> tuple[int, int]:
        layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
        return next((i for i, start in enumerate(order) if name.startswith(start)), len(order)), layer

    return {name: found[name] for name in sorted(found, key=place)}


def _given(W: Tensor) -> Tensor:
    return W


def _ordered(name: str, read: Callable[[], Tensor], config: Any) -> Tensor:
    return to_gguf(name, read(), config)


def _tensors(model: str, folder: Path, config: Any) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """Name, shape and reader of every tensor; linears that are quantized already are decoded one by one."""
    if quantization_of(load_config(model)) is None:
        stored = StoredTensors(folder)
        for name in stored.file_of:
            if "rotary_emb" not in name:
                yield name, stored.shape_of(name), partial(stored.__getitem__, name)
        return
    whole = load(model).model
    for name, module in whole.named_modules():
        if isinstance(module, QLinear):
            yield f"{name}.weight", tuple(module.qtensor.shape), module.qtensor.dequantize
            if module.bias is not None:
                yield f"{name}.bias", tuple(module.bias.shape), partial(_given, module.bias)
    for name, parameter in whole.named_parameters():
        if not isinstance(whole.get_submodule(name.rpartition(".")[0]), QLinear):
            yield name, tuple(parameter.shape), partial(_given, parameter.detach())


def _add_keys(
    writer: GGUFWriter, config: Any, mix: Mix, tokenizer: Mapping[str, Any], imatrix: ImportanceMatrix | None
) -> None:
    writer.add_type("model")
    writer.add_name(str(getattr(config, "name_or_path", "") or config.model_type))
    writer.add_file_type(file_type(mix.file_type).number)
    writer.add_quantization_version(2)
    adders: dict[str, Callable[..., None]] = {
        "u32": writer.add_uint32,
        "f32": writer.add_float32,
        "str": writer.add_string,
        "bool": writer.add_bool,
    }
    for name, kind, value in keys(config):
        adders[kind](name, value)
    for name, value in tokenizer.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            adders["bool" if isinstance(value, bool) else "u32" if isinstance(value, int) else "str"](name, value)
    if imatrix is not None:
        writer.add_string("quantize.imatrix.file", str(imatrix.path or "computed"))
        writer.add_string("quantize.imatrix.dataset", ", ".join(imatrix.datasets))
        writer.add_uint32("quantize.imatrix.entries_count", len(imatrix.sums))
        writer.add_uint32("quantize.imatrix.chunks_count", imatrix.chunks)


def _write(
    writer: GGUFWriter,
    sources: Mapping[str, Source],
    choices: Mapping[str, Choice],
    imatrix: ImportanceMatrix | None,
    progress: bool,
) -> None:
    for name, (shape, _) in sources.items():
        kind = block_type(choices[name].type)
        stored = (*shape[:-1], shape[-1] // kind.weights * kind.nbytes)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), prod(stored), GGMLQuantizationType[kind.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    bar = tqdm(sources.items(), desc="convert", unit="tensor", disable=None if progress else True, leave=False)
    for name, (shape, read) in bar:
        W = read().float()
        if tuple(W.shape) != shape:
            raise QlabError(f"{name} is {tuple(W.shape)} where {shape} was announced: copy the model again")
        writer.write_tensor_data(encoded(W, choices[name].type, name, imatrix).numpy())
    writer.close()


def encoded(W: Tensor, type_: str, name: str = "weight", imatrix: ImportanceMatrix | None = None) -> Tensor:
    """The bytes of a tensor [..., row] in a type, by llama.cpp's own search: uint8 [..., bytes of a row]."""
    kind = block_type(type_)
    matrix = W.reshape(-1, W.shape[-1])
    if not isinstance(kind, GridType):
        check_finite(matrix, name)
        return kind.encode_plain(W)
    stats = imatrix.stats(name, W.shape[-1]) if imatrix else None
    importance = stats.mean_sq.float() if stats is not None and stats.tokens else None
    found = compiled.encode(kind, matrix, importance)
    if found is None:
        found = kind.pack(quantize(matrix, kind.spec, "ggml", stats=stats, name=name))
    return found.reshape(*W.shape[:-1], -1)


@torch.no_grad()
def importance(model: str, calibration: Calibration, progress: bool = True) -> ImportanceMatrix:
    """The importance matrix of a float model: mean x² at the input of every linear of its blocks."""
    loaded = load(model)
    config = getattr(loaded.model.config, "text_config", loaded.model.config)
    rename = NameMap(config)
    stream = BlockStream(loaded.model, calibration.ids)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for index, block in enumerate(
        tqdm(stream.blocks, desc="imatrix", unit="block", disable=None if progress else True)
    ):
        linears = [n for n, m in block.named_modules() if isinstance(m, torch.nn.Linear | QLinear)]
        for name, stats in stream.observe(index, linears, gram=False).items():
            target = rename(f"{stream.name(index)}.{name}.weight")
            sums[target], counts[target] = stats.sq_sum.float(), stats.tokens
        stream.advance(index)
    samples, window = calibration.ids.shape
    return ImportanceMatrix(sums, counts, (calibration.title,), samples, window)
