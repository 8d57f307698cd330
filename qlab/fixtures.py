"""Fixtures: a few linears of the reference model with real inputs, small enough to open at once and to be committed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qlab.errors import QlabError
from qlab.stats import Stats

_HERE = Path(__file__).resolve()
FOLDERS = (_HERE.parent / "data" / "fixtures", _HERE.parents[1] / "data" / "fixtures")
"""Where fixtures may lie: inside an installed package, or in a checkout."""


@dataclass(frozen=True, eq=False)
class Fixture:
    """One linear of the reference model and what calibration saw at its input; data/README.md says how it was made.

    W [out, in]; X [64, in], the inputs for the first tokens (`ids`) of the calibration text; mean_abs, mean_sq and
    absmax [in], over all `tokens` calibration tokens; gram [in, in], their XᵀX/tokens, None where it is too large.
    """

    name: str
    linear: str
    W: Tensor
    X: Tensor
    ids: Tensor
    mean_abs: Tensor
    mean_sq: Tensor
    absmax: Tensor
    tokens: int
    gram: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.W.shape[0], self.W.shape[1]

    @property
    def stats(self) -> Stats:
        """The statistics as a calibration pass hands them to a method; `gram` is None where the fixture has none."""
        stats = Stats(self.shape[1], gram=False)
        stats.tokens = self.tokens
        stats.abs_sum, stats.sq_sum = self.mean_abs.double() * self.tokens, self.mean_sq.double() * self.tokens
        stats.gram = None if self.gram is None else self.gram.double() * self.tokens
        return stats

    def __repr__(self) -> str:
        return f"Fixture({self.name}: W {list(self.W.shape)}, X {list(self.X.shape)}, {self.tokens} tokens calibrated)"


def fixture_names() -> list[str]:
    """Every name `load_fixture` knows, such as "down_proj.11" (module and layer)."""
    return sorted(file.stem for file in folder().glob("weights/*.safetensors"))


def load_fixture(name: str) -> Fixture:
    """The fixture called `name`, everything as float32. Errors: QlabError for an unknown name or a damaged file."""
    if name not in (names := fixture_names()):
        raise QlabError(f"unknown fixture {name!r}: choose one of {', '.join(names)}")
    weights, about = _read(folder() / "weights" / f"{name}.safetensors")
    inputs, measured = _read(folder() / "inputs" / f"{about['input']}.safetensors")
    gram = unpack_symmetric(inputs.pop("gram")) if "gram" in inputs else None
    ids = inputs.pop("ids")
    floats = {key: value.float() for key, value in (weights | inputs).items()}
    return Fixture(name, about["linear"], ids=ids, tokens=int(measured["tokens"]), gram=gram, **floats)


@cache
def folder() -> Path:
    """The folder that holds the fixtures. Errors: QlabError where this installation has none."""
    for path in FOLDERS:
        if path.is_dir():
            return path
    raise QlabError(f"no fixtures in {FOLDERS[0]} or {FOLDERS[1]}: work in a checkout, or run scripts/make_fixtures.py")


def pack_symmetric(H: Tensor) -> Tensor:
    """The upper triangle of a symmetric [n, n], row by row: n(n+1)/2 numbers instead of n²."""
    return H[tuple(torch.triu_indices(*H.shape))]


def unpack_symmetric(packed: Tensor) -> Tensor:
    """The symmetric matrix whose upper triangle `pack_symmetric` stored."""
    n = int((2 * packed.numel()) ** 0.5)  # n² < n(n+1) < (n+1)²
    upper = torch.zeros(n, n, dtype=packed.dtype)
    upper[tuple(torch.triu_indices(n, n))] = packed
    return upper + upper.triu(1).T


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of one safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (not a dictionary)
            return tensors, json.loads(opened.metadata()["qlab"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise QlabError(f"damaged fixture: {file}: {error}; restore it with git, or make it again") from error
