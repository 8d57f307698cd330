"""llama.cpp as the judge: what it makes of a GGUF file, through llama-cpp-python's own functions."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not built here: `make test-llama-cpp` builds it")

WINDOW = 512
_SILENT = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p())


@contextmanager
def opened(path: Path, batch: int = WINDOW) -> Iterator[llama_cpp.Llama]:
    """The file as llama.cpp opens it, logits of every position kept. batch: tokens that it computes at once."""
    model = llama_cpp.Llama(
        str(path), n_ctx=WINDOW, n_batch=batch, n_ubatch=batch, logits_all=True, verbose=False, n_threads=1,
        n_threads_batch=1, type_k=0, type_v=0,  # the cache in float32
    )  # fmt: skip
    try:
        yield model
    finally:
        model.close()


def logits(model: llama_cpp.Llama, ids: list[int]) -> Tensor:
    """Logits [len(ids), vocabulary] of one sequence."""
    model.reset()
    model.eval(ids)
    return torch.from_numpy(np.array(model.scores[: len(ids)]))


def continued(model: llama_cpp.Llama, prompt: list[int], count: int) -> list[int]:
    """The `count` likeliest next tokens, one after the other."""
    model.reset()
    ids, new = list(prompt), list(prompt)
    for _ in range(count):
        model.eval(new)
        new = [int(model.scores[len(ids) - 1].argmax())]
        ids += new
    return ids[len(prompt) :]


def perplexity(model: llama_cpp.Llama, ids: Tensor) -> float:
    """llama-perplexity's, of the windows that `ids` holds: the second half of each is scored."""
    losses = []
    for window in ids.reshape(-1, WINDOW):
        predicted = logits(model, window.tolist())[WINDOW // 2 : -1].log_softmax(-1)
        losses.append(-predicted.gather(1, window[WINDOW // 2 + 1 :, None]).mean())
    return math.exp(torch.stack(losses).mean())


def requantized(source: Path, out: Path, file_type: int) -> Path:
    """What llama-quantize makes of a file; of a quantized one it decodes the tensors first."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = file_type, 1, True
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)) == 0
    return out
