"""Makes data/records/bit_widths.json: the reference at every width from 1 to 8 bits, with float and with 8-bit inputs,
and four recipes of two widths that cost the same.

Every linear is rounded to the nearest (`int3-g64-asym` and its like; 64 divides every row here), nothing is calibrated.

python scripts/make_record_bit_widths.py [--windows 4]     ten minutes on two cores
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

import qlab
from qlab.evaluate import evaluate_many
from qlab.recipes import Recipe
from qlab.records import provenance, save_record

NAME = "bit_widths"
TEXT, WINDOW = "britannica", 512
WIDTHS = range(1, 9)
AT_ONCE = 4  # quantized models in memory
INPUTS = {"float": None, "int8": "int8-token-sym"}
SPLITS = {
    "attention 8, MLP 3": ("*self_attn*", 8, 3),
    "down_proj 8, others 3": ("*down_proj", 8, 3),
    "attention 5, MLP 4": ("*self_attn*", 5, 4),
    "attention 2, MLP 5": ("*self_attn*", 2, 5),
}
"""A quarter of the weights at the first width, the rest at the second: 4.25 bits to a code in every recipe."""


def spec(bits: int) -> str:
    """The spec of a width."""
    return f"int{bits}-g64-asym"


def split(name: str) -> Recipe:
    """A recipe of two widths."""
    pattern, few, rest = SPLITS[name]
    rules = [
        {"match": "lm_head", "skip": "output head kept in 16 bits"},
        {"match": pattern, "weight": spec(few)},
        {"match": "*", "weight": spec(rest)},
    ]
    return Recipe.from_dict({"version": 1, "name": name, "rules": rules})


def cells() -> dict[str, tuple[Recipe, dict[str, Any]]]:
    """Recipe and facts of every row, by name."""
    found: dict[str, tuple[Recipe, dict[str, Any]]] = {}
    for inputs, kind in INPUTS.items():
        for bits in WIDTHS:
            found[f"{bits} bits, {inputs}"] = Recipe.of(spec(bits), input=kind), {"bits": bits, "inputs": inputs}
    return found | {name: (split(name), {"inputs": "float"}) for name in SPLITS}


def rows(loaded: Any, ids: torch.Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of the record; the float model runs once for all of them."""
    made = {name: qlab.quantized_copy(loaded.model, cells()[name][0], progress=False) for name in names}
    models = {name: model for name, (model, _) in made.items()}
    found = evaluate_many(models, ids, reference=loaded.model, window=WINDOW, progress=False)
    keys = ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "kl_se", "top1_agreement")
    lines = []
    for name, result in found.items():
        measured = {key: getattr(result, key) for key in keys} | {"bits_per_weight": made[name][1].bits_per_weight}
        lines.append({"name": name, **cells()[name][1]} | {key: float(f"{v:.4g}") for key, v in measured.items()})
    return lines


def main() -> None:
    """Measure a few cells at a time and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=4, help=f"windows of {WINDOW} tokens")
    windows = parser.parse_args().windows
    loaded = qlab.load("reference")
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, windows * WINDOW)
    names, found = list(cells()), []
    for first in range(0, len(names), AT_ONCE):
        found += rows(loaded, ids, names[first : first + AT_ONCE])
        print(found[-AT_ONCE:], file=sys.stderr, flush=True)
    made = provenance(f"python scripts/make_record_bit_widths.py --windows {windows}")
    about = "every linear rounded to the nearest in groups of 64; embeddings, norms and the head stay"
    text = {"name": TEXT, "tokens": windows * WINDOW, "window": WINDOW, "scored_per_window": WINDOW - 1}
    save_record(NAME, {"made": made, "about": about, "text": text, "rows": found})


if __name__ == "__main__":
    main()
