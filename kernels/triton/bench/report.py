"""What a run leaves: one JSON object, a table to read, and the newest recorded one where there is no GPU."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

KIND = "gpu kernels"
ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "data" / "benchmarks"
REMEDY = "run it on a machine with an NVIDIA GPU (Ampere or newer): python scripts/bench_gpu.py --out data/benchmarks"
_COLUMNS = "{:<16}{:>6} {:>12} {:<7}{:>9}{:>9}{:>7}{:>6}{:>8}{:>7}  {:<11}{:<11}{:<11}{:<11}"
TITLES = ("type", "batch", "out x in", "kernel", "p10 us", "us", "GB/s", "bw", "TFLOP/s", "limit", "cuBLAS", "tinygemm",
          "gemlite", "marlin")  # fmt: skip


def made(command: str, device: torch.device) -> dict[str, Any]:
    """Command, date, hardware, versions and commit."""
    found = {name: _version(name) for name in ("torch", "triton", "gemlite", "vllm", "transformers")}
    return {
        "command": command,
        "date": date.today().isoformat(),
        "hardware": hardware(device),
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda, "driver": _driver(device)}
        | {name: number for name, number in found.items() if number},
        "commit": _commit(),
    }


def hardware(device: torch.device) -> str:
    """The GPU's name, capability, processors and memory; or that there was none."""
    if device.type == "cpu":
        return f"no GPU: Triton's interpreter on {platform.machine()}"
    about = torch.cuda.get_device_properties(device)
    memory = f"{about.total_memory / 1e9:.0f} GB"
    return f"{about.name}, {about.major}.{about.minor}, {about.multi_processor_count} processors, {memory}"


def file_name(device: torch.device) -> str:
    """nvidia-h100-80gb-hbm3-2026-11-26.json."""
    name = "interpreter" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{date.today().isoformat()}.json"


def save(found: Mapping[str, Any], out: Path, device: torch.device) -> Path:
    """Write to a file, or into a folder under the device's name, whole or not at all."""
    file = out / file_name(device) if out.is_dir() else out
    aside = file.with_name(f"{file.name}.part")
    aside.write_text(json.dumps(found, indent=1) + "\n")
    aside.replace(file)
    return file


def recorded(folder: Path = FOLDER) -> list[tuple[Path, dict[str, Any]]]:
    """Recorded runs on GPUs, newest first."""
    opened = [(file, json.loads(file.read_text())) for file in folder.glob("*.json")]
    ours = [(file, found) for file, found in opened if found.get("kind") == KIND and found["mode"] != "interpreter"]
    return sorted(ours, key=lambda pair: (pair[1]["made"]["date"], pair[0].name), reverse=True)


def label(found: Mapping[str, Any]) -> str:
    """When and on what a run was recorded."""
    made = found["made"]
    return f"recorded {made['date']} on {made['hardware']}, torch {made['versions']['torch']}"


def show_recorded(reason: str, as_json: bool) -> int:
    """The newest recorded run, labelled as one, and why none is made here; exit code 2 where there is none."""
    kept = recorded()
    if not kept:
        tell(f"{reason}, and no run is recorded in data/benchmarks: {REMEDY}")
        return 2
    file, found = kept[0]
    told = f"{reason}; {label(found)} ({file.name})"
    print(json.dumps({"recorded": told} | found, indent=1) if as_json else f"{told}\n{table(found)}")
    return 0


def heading(found: Mapping[str, Any]) -> str:
    """What stands above the rows."""
    copy, rate = found["ceilings"]["copy_gbps"]["median"], found["ceilings"]["matmul_tflops"]["median"]
    what = found["made"]["hardware"]
    note = "; interpreter: the numbers say nothing about speed" if found["mode"] == "interpreter" else ""
    return (f"{what}: copies {copy:.4g} GB/s, float16 products {rate:.4g} TFLOP/s{note}\n"
            "bw: share of the copy's bandwidth; limit: share of what bytes and operations allow; ratios median/p10: "
            f"above 1 ours is faster\n{_COLUMNS.format(*TITLES).rstrip()}")  # fmt: skip


def line(row: Mapping[str, Any]) -> str:
    """One row as text."""
    ratios = [_ratio(row, f"vs_{name}") for name in ("cublas", "tinygemm", "gemlite", "marlin")]
    return _COLUMNS.format(
        row["type"], row["m"], f"{row['n']}x{row['k']}", row["kernel"], f"{row['p10_us']:.1f}",
        f"{row['median_us']:.1f}", f"{row['gbps']:.0f}", f"{row['fraction_of_bandwidth']:.2f}", f"{row['tflops']:.1f}",
        f"{row['fraction_of_limit']:.2f}", *ratios,
    ).rstrip()  # fmt: skip


def model_line(row: Mapping[str, Any]) -> str:
    """One row of a whole model as text."""
    return (f"{row['measure']:<8} batch {row['m']:>3}: {row['tokens_per_second']:>9.1f} tokens/s, float16 "
            f"{row['fp16_tokens_per_second']:.1f}, ratio {row['vs_fp16']:.2f}/{row['vs_fp16_p10']:.2f}, "
            f"{'CUDA graph' if row['graph'] else 'launched one by one'}")  # fmt: skip


def table(found: Mapping[str, Any]) -> str:
    """A run as text: rows, models, remarks."""
    lines = [heading(found), *map(line, found["rows"]), *map(model_line, found["models"])]
    return "\n".join([*lines, *remarks(found)])


def remarks(found: Mapping[str, Any]) -> Sequence[str]:
    """The worst error, notes and failures."""
    checked = found["correctness"]
    worst = max((row["error"] for row in checked), default=float("nan"))
    told = [f"{len(checked)} results held against float64: wrong by {worst:.2g} of the largest value at most"]
    return [*told, *(f"note: {note}" for note in found["notes"]), *(f"FAILED {text}" for text in found["failures"])]


def _ratio(row: Mapping[str, Any], name: str) -> str:
    return "" if row.get(name) is None else f"{row[name]:.2f}/{row[f'{name}_p10']:.2f}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "unknown"
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _commit() -> str:
    return _run("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _driver(device: torch.device) -> str:
    return "none" if device.type == "cpu" else _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def tell(text: str) -> None:
    """A line for the reader who waits; stdout belongs to the answer."""
    print(text, file=sys.stderr, flush=True)
