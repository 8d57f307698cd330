"""Calibration: the windows of text whose activations tell a method which errors matter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.texts import load_text, tokens


@dataclass(frozen=True, eq=False)
class Calibration:
    """Token ids [samples, seqlen] and where they come from; the evaluation text must be another one."""

    ids: Tensor
    source: str = "given token ids"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or 0 in self.ids.shape or self.ids.is_floating_point():
            raise QlabError(f"calibration ids have shape {tuple(self.ids.shape)}: give token ids [samples, seqlen]")

    @property
    def title(self) -> str:
        """How much of what."""
        samples, seqlen = self.ids.shape
        return f"{samples} × {seqlen} tokens of {self.source}" + ("" if self.seed is None else f", seed {self.seed}")


def calibration(
    tokenizer: Any, text: str | Path = "shakespeare", *, samples: int = 32, seqlen: int = 512, seed: int = 0
) -> Calibration:
    """`samples` windows of `seqlen` tokens, drawn without overlap from a built-in text or a file, by `seed`.

    QlabError where the text is shorter than one window, or holds fewer windows than asked for.
    """
    if samples < 1 or seqlen < 1:
        raise QlabError(f"calibration with {samples} samples of {seqlen} tokens: both must be 1 or more")
    loaded = load_text(text)
    ids = tokens(tokenizer, loaded.text)
    windows = len(ids) // seqlen
    if windows < 1:
        raise QlabError(f"calibration text {loaded.name} has {len(ids)} tokens, a window {seqlen}: lower --seqlen")
    if windows < samples:
        raise QlabError(f"calibration text {loaded.name} holds {windows} windows of {seqlen} tokens, not {samples}: "
                        f"ask for {windows}, shorten the windows, or give a longer text")  # fmt: skip
    chosen = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))[:samples].sort().values
    return Calibration(ids[: windows * seqlen].reshape(windows, seqlen)[chosen], loaded.name, seed)
