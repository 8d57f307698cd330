"""The run: results first held against float64; then, in CUDA graphs and over more weights than a cache holds, our
kernels take turns with cuBLAS in float16 and with the peers that can be imported, beside ceilings of the same run.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..device import INTERPRETED, OLDEST
from . import cases, measure, report
from .timing import ceilings


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="bench gpu", description="The Triton kernels beside what this GPU can do.")
    found.add_argument("--json", action="store_true", help="print one JSON object, and the table on stderr")
    found.add_argument("--out", type=Path, help="write the JSON object to this file, or under the GPU's name here")
    found.add_argument("--model", help="a folder: its tokens per second too, packed against float16")
    every, few = ", ".join(cases.TYPES), ", ".join(cases.OTHERS)
    found.add_argument("--types", type=_list(cases.kind_of), help=f"by default {every}, and in a few sizes {few}")
    found.add_argument("--shapes", type=_list(_shape), default=cases.SHAPES, help="4096x14336,… (OUTxIN)")
    found.add_argument("--batches", type=_list(_positive), default=cases.BATCHES, help="1,16,64,…")
    found.add_argument("--rounds", type=_positive, default=3 if INTERPRETED else 21, help="timings per row")
    found.add_argument("--minutes", type=float, default=7.5, help="stop measuring then; peers have an eighth each")
    found.add_argument("--tune", action="store_true", help="find the fastest tiles first: much longer")
    return found


def no_gpu() -> str | None:
    """Why nothing can be measured here."""
    if INTERPRETED:
        return None
    if not torch.cuda.is_available():
        return f"there is no CUDA GPU here (torch {torch.__version__})"
    if torch.version.cuda is None:
        return "this PyTorch is built for another maker's GPUs"
    if torch.cuda.get_device_capability() < OLDEST:
        return f"{torch.cuda.get_device_name()} is older than Ampere, which the kernels need"
    return None


Opener = Callable[[str, torch.device], Any]
"""A model's folder → (model, what packs one of its linears): `model.opened`, or one that knows quantized folders."""


def main(arguments: Sequence[str] | None = None, opener: Opener | None = None) -> int:
    """Measure and tell; the exit code is 0, 1 where a result is wrong, 2 where there is nothing to measure on."""
    asked = parser().parse_args(arguments)
    if (reason := no_gpu()) is not None:
        return report.show_recorded(reason, asked.json)
    device = torch.device("cpu" if INTERPRETED else "cuda")
    found, log = _start(asked, device, arguments), measure.Log(asked.minutes)
    report.tell(report.heading(found))
    for kinds, shapes, batches in _plan(asked):
        for row in measure.rows(kinds, shapes, batches, device, found["ceilings"], log, asked.rounds, asked.tune):
            found["rows"].append(measure.plain(row))
            report.tell(report.line(found["rows"][-1]))
    if asked.model:
        _models(asked, device, found, log, opener)
    found |= {"correctness": log.correctness, "notes": log.notes, "failures": log.failures}
    for text in report.remarks(found):
        report.tell(text)
    if asked.out:
        report.tell(f"written: {report.save(found, asked.out, device)}")
    if asked.json:
        print(json.dumps(found, indent=1))
    return 1 if log.failures else 0


def _start(asked: argparse.Namespace, device: torch.device, arguments: Sequence[str] | None) -> dict[str, Any]:
    """The object that a run fills."""
    command = "python scripts/bench_gpu.py " + shlex.join(arguments or ())
    mode = "interpreter" if INTERPRETED else "cuda graphs"
    return {
        "kind": report.KIND, "mode": mode, "made": report.made(command.strip(), device), "tuned": asked.tune,
        "rotated_bytes": cases.ROTATE, "rounds": asked.rounds, "ceilings": ceilings(device, asked.rounds),
        "rows": [], "models": [], "correctness": [], "notes": [], "failures": [],
    }  # fmt: skip


def _plan(asked: argparse.Namespace) -> list[tuple[list[cases.Kind], Any, Any]]:
    """What is measured: types, shapes, batches, and again."""
    kinds = asked.types or [cases.kind_of(name) for name in cases.TYPES]
    plan = [(kinds, asked.shapes, asked.batches)]
    if asked.types is None and not INTERPRETED:
        others = [cases.kind_of(name) for name in cases.OTHERS]
        plan.append((others, (cases.OTHER_SHAPE,), cases.OTHER_BATCHES))
    return plan


def _models(
    asked: argparse.Namespace, device: torch.device, found: dict[str, Any], log: measure.Log, opener: Opener | None
) -> None:
    from . import model

    try:
        held, pack = (opener or model.opened)(asked.model, device)
        for row in model.speeds(held, pack, asked.model, device, log):
            found["models"].append({"model": asked.model} | row)
            report.tell(report.model_line(row))
    except Exception as error:  # the rows measured before are kept
        log.failures.append(f"{asked.model}: {type(error).__name__}: {error}")


def _list(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",") if part]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error

    return parse


def _shape(text: str) -> tuple[int, int]:
    out, _, columns = text.lower().partition("x")
    return _positive(out), _positive(columns)


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ValueError(f"{text!r} is no positive number; shapes are written OUTxIN")
    return int(text)
