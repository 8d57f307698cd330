"""Records: tables of measurements too long for a lesson, kept as JSON with how, when and on what they were made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qlab.errors import QlabError

_HERE = Path(__file__).resolve()
FOLDERS = (_HERE.parent / "data" / "records", _HERE.parents[1] / "data" / "records")
"""Where records may lie: inside an installed package, or in a checkout, which is where new ones are written."""


def load_record(name: str) -> dict[str, Any]:
    """The record data/records/<name>.json: its measurements, and under "made" its command, date and hardware."""
    files = {file.stem: file for folder in FOLDERS for file in sorted(folder.glob("*.json"))}
    if name not in files:
        raise QlabError(f"no record {name!r} in data/records: use one of {', '.join(files) or 'none'}")
    return json.loads(files[name].read_text())


def save_record(name: str, record: dict[str, Any]) -> Path:
    """Write the record, replacing the old one in one step; lists of numbers stay on one line."""
    folder = FOLDERS[-1]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    aside = file.with_suffix(".part")
    aside.write_text(_layout(record) + "\n")
    aside.replace(file)
    return file


def provenance(command: str) -> dict[str, Any]:
    """How a record came about: command, date, hardware, versions and the commit it was made at."""
    return {
        "command": command,
        "date": date.today().isoformat(),
        "hardware": f"{_cpu()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("torch", "transformers")},
        "commit": _commit(),
    }


def made(record: dict[str, Any]) -> str:
    """One line for a lesson: when and on what the record was made, and the command that makes it again."""
    made = record["made"]
    return f"recorded {made['date']} on {made['hardware']}, torch {made['versions']['torch']}: {made['command']}"


def _cpu() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """The commit of the working tree, marked when files differ from it."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=_HERE.parent, capture_output=True, text=True,
    )  # fmt: skip
    return git.stdout.strip() or "unknown"


def _layout(value: Any, indent: int = 0) -> str:
    """JSON with one key per line, and lists without dictionaries in them on one line."""
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        rows = [f"{pad}{json.dumps(k)}: {_layout(v, indent + 1)}" for k, v in value.items()]
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        rows = [pad + _layout(v, indent + 1) for v in value]
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n" + ",\n".join(rows) + f"\n{' ' * indent}{right}"
