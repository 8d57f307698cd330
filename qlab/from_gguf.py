"""A GGUF file as a float model: transformers dequantizes it, we put right what it leaves half done.

transformers rebuilds a generic byte-level pre-tokenizer, and marks the model as quantized, which forbids saving it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from qlab.errors import QlabError
from qlab.files.gguf import GGUFFile, open_gguf


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


def config_from_gguf(path: Path) -> Any:
    """The transformers config that a GGUF file describes, without its weights."""
    with quiet(), _unreadable(path, open_gguf(path)):
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    return _plain(config)


def model_from_gguf(path: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer of a GGUF file, dequantized to `dtype`, the tokenizer splitting text as llama.cpp does."""
    header = open_gguf(path)
    # The bar of the dequantization obeys no switch.
    with quiet(), redirect_stderr(StringIO()), _unreadable(path, header):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        clean = _rebuilt(model)
    return clean, split_like_llama_cpp(tokenizer, header.metadata.get("tokenizer.ggml.pre", "default"))


def split_like_llama_cpp(tokenizer: Any, pre: str) -> Any:
    """Give `tokenizer` the pre-tokenizer that `tokenizer.ggml.pre` names; warn when we do not know that name."""
    if pre == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = smollm_pre_tokenizer()
    elif pre not in ("default", "gpt-2"):
        warnings.warn(f"pre-tokenizer {pre!r}: token ids may differ from llama.cpp's", stacklevel=3)
    return tokenizer


def smollm_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Every digit on its own, then GPT-2's byte-level pattern (llama.cpp: LLAMA_VOCAB_PRE_TYPE_SMOLLM)."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _rebuilt(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that no longer believes it is quantized."""
    return type(model).from_pretrained(
        None, config=_plain(model.config), state_dict=model.state_dict(), dtype=model.dtype
    )


def _plain(config: Any) -> Any:
    fields = config.to_dict()
    fields.pop("quantization_config", None)
    return type(config).from_dict(fields)


@contextmanager
def _unreadable(path: Path, header: GGUFFile) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, NotImplementedError, RuntimeError) as error:
        architecture = header.metadata.get("general.architecture", "unnamed")
        types = ", ".join(sorted({info.type for info in header.tensors.values()}))
        what = f"architecture {architecture}, tensor types {types or 'none'}"
        reason = str(error).strip().split("\n")[0]
        remedy = "use the model's Hugging Face folder instead"
        raise QlabError(f"transformers cannot read this GGUF: {path} ({what}): {reason}; {remedy}") from error
