"""A GGUF file as a float model: config and tokenizer from its keys, every tensor decoded by `qlab.ggml`.

transformers has a loader of its own; it takes ten times as long, and rebuilds another pre-tokenizer than llama.cpp's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from qlab.errors import QlabError
from qlab.files.gguf import GGUFFile, open_gguf
from qlab.files.packing import put_packed
from qlab.files.stored import fill, skeleton
from qlab.ggml import GridType, block_type, compiled
from qlab.ggml.activations import as_llama_cpp_rounds
from qlab.ggml.architectures import NameMap, from_gguf
from qlab.ggml.configs import config_of, with_rope_factors
from qlab.ggml.plain import FloatType
from qlab.ggml.tokenizer import tokenizer_of
from qlab.kernels import cpu
from qlab.nn import FloatLinear, QLinear
from qlab.packed import Packed, pack_floats, packs_floats
from qlab.qtensor import QTensor
from qlab.tiles import format_of, tile_parts

AT_ONCE = 1 << 18
"""Weights that are unpacked at once on their way into tiles: with more, what is freed stays with the process."""
ROPE_FACTORS = "rope_freqs.weight"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and notices of transformers, errors excepted, for the body only."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


class GGUFTensors:
    """The tensors of an open GGUF file under Hugging Face's names: decoded one at a time, as the model holds them.

    codes: `packed` gives quantized matrices as QTensors, and nothing else.
    """

    describes = "keys"

    def __init__(self, file: GGUFFile, config: Any, codes: bool = False):
        self.folder, self._file, self._config = file.path, file, config
        self.codes = codes or not cpu.available
        self._rename, self._asked = NameMap(config), {ROPE_FACTORS}

    def __contains__(self, name: str) -> bool:
        return self._rename.get(name) in self._file.tensors

    def __getitem__(self, name: str) -> Tensor:
        stored = self._rename(name)
        self._asked.add(stored)
        return from_gguf(name, decoded(self._file, stored), self._config)

    def packed(self, module: str) -> Packed | QTensor | None:
        """The weight of a module for the CPU kernels, read a few rows at a time; None where they have none for it.

        Without the kernels its codes, for torch.
        """
        name = f"{module}.weight"
        stored = self._rename.get(name)
        info = self._file.tensors.get(stored or "")
        if stored is None or info is None or len(info.shape) != 2:
            return None
        kind, data = block_type(info.type), self._file.data(stored)
        order = from_gguf(name, torch.arange(len(data))[:, None], self._config)[:, 0]
        step = max(16, AT_ONCE // info.shape[1] // 16 * 16)

        def parts() -> Iterator[Tensor]:
            self._asked.add(stored)
            for rows in order.split(step):
                yield torch.from_numpy(data[rows.numpy()])
                self._file.forget(stored)  # or a large tensor would be in memory twice

        if isinstance(kind, GridType):
            if self.codes:
                self._asked.add(stored)
                return kind.unpack(torch.from_numpy(data[order.numpy()]))
            try:
                format_of(kind.unpack(torch.from_numpy(data[:1].copy())))
            except QlabError:
                return None
            return tile_parts((kind.unpack(part) for part in parts()), len(data))
        if isinstance(kind, FloatType) and not self.codes and packs_floats(info.shape, kind.dtype):
            return pack_floats((part.view(kind.dtype) for part in parts()), info.shape)
        return None

    def left(self) -> list[str]:
        """Tensors of the file that nobody asked for."""
        return sorted(self._file.tensors.keys() - self._asked)


def decoded(file: GGUFFile, name: str) -> Tensor:
    """One tensor of a file in float32."""
    info = file.tensors[name]
    return compiled.decode(block_type(info.type), file.data(name)).reshape(info.shape)


def config_from_gguf(path: Path) -> Any:
    """The transformers config that a GGUF file describes, without its weights."""
    file = open_gguf(path)
    with _named(file):
        return _config(file)


def model_from_gguf(
    path: Path,
    dtype: torch.dtype = torch.float32,
    activations: str = "float",
    packed: bool = False,
    codes: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer of a GGUF file, dequantized to `dtype`, the tokenizer splitting text as llama.cpp does.

    activations: "float" leaves the inputs of linears as they are, "llama.cpp" rounds them as its kernels do, "int8"
    those of packed ones. packed: weights of types that the CPU kernels know stay as small as in the file (QLinear,
    QEmbedding); codes: as QTensors, linears alone. Errors: QlabError naming the file and what in it cannot be read.
    """
    file = open_gguf(path)
    with _named(file):
        config, tokenizer = _config(file), tokenizer_of(file.metadata)
    tensors = GGUFTensors(file, config, codes)
    with quiet(), _named(file):
        model = skeleton(path, config, dtype)
        if packed:
            put_packed(model, tensors, dtype, activations, tensors.codes)
        fill(model, tensors, dtype)
    if extra := tensors.left():
        raise QlabError(f"{path}: {extra[0]} ({len(extra)} in all) has no place in {type(model).__name__}: it is not "
                        "built as its family; use the model's Hugging Face folder")  # fmt: skip
    model.generation_config = _generation(file, config)
    if activations == "llama.cpp":
        round_inputs(model, file)
    return model, tokenizer


def round_inputs(model: PreTrainedModel, file: GGUFFile) -> None:
    """Round every linear's input as llama.cpp does for the type that its weight has in the file."""
    rename = NameMap(model.config)
    for name, module in model.named_modules():
        reference = isinstance(module, QLinear) and isinstance(module.weight_, QTensor)
        if reference or isinstance(module, nn.Linear | FloatLinear):
            stored = file.tensors.get(rename(f"{name}.weight")) or file.tensors["token_embd.weight"]  # a tied head
            module.register_forward_pre_hook(partial(_rounded, stored.type))


def _rounded(weight_type: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (as_llama_cpp_rounds(inputs[0], weight_type), *inputs[1:])


def stored_in(file: GGUFFile) -> dict[str, Any]:
    """What a file costs: its bytes, true bits per weight over all tensors, and how many of them have which type."""
    counts = Counter(info.type for info in file.tensors.values())
    told = ", ".join(f"{n} tensors {name}" for name, n in counts.most_common())
    return {"bits_per_weight": file.bits_per_weight, "stored_as": told, "size_bytes": file.nbytes}


def _config(file: GGUFFile) -> Any:
    config = config_of(file.metadata, {name: info.shape for name, info in file.tensors.items()})
    if ROPE_FACTORS in file.tensors:
        config = with_rope_factors(config, decoded(file, ROPE_FACTORS).flatten())
    config.name_or_path = str(file.metadata.get("general.name") or file.path.stem)
    return config


def _generation(file: GGUFFile, config: Any) -> GenerationConfig:
    """Where generation stops: at the end of the text, and at the end of a turn where that is another token."""
    found = GenerationConfig.from_model_config(config)
    turn = file.metadata.get("tokenizer.ggml.eot_token_id")
    if turn is not None and found.eos_token_id is not None and int(turn) != found.eos_token_id:
        found.eos_token_id = [found.eos_token_id, int(turn)]
    return found


@contextmanager
def _named(file: GGUFFile) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it, where it is not said yet."""
    try:
        yield
    except (QlabError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        if isinstance(error, QlabError) and str(file.path) in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise QlabError(f"cannot read this GGUF file: {file.path}: {reason}; use the Hugging Face folder") from error
