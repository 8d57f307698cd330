"""The Triton kernels' machine code, counted: a table, and data/benchmarks/triton.json with --record. Needs no GPU.

For the newest Triton that qlab takes, the one installed, and for the oldest, which is put into the user's cache folder
once. A count depends on nothing but the sources and the compiler, so a test can hold it exactly.

python scripts/compile_triton.py              the installed Triton, every shipped kernel: a minute or two
python scripts/compile_triton.py --record     both Tritons, every shipped kernel, and the record is written
python scripts/compile_triton.py --every      every kind of weights in every tile, 850 a target: what spills (an hour)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "data" / "benchmarks" / "triton.json"
COUNTED = ("HMMA", "HGMMA", "IMMA", "IGMMA", "LDGSTS", "LDG", "LDSM", "LDS", "STS", "LOP3", "PRMT", "SHF", "HFMA2",
           "HADD2", "HMUL2", "FFMA", "I2F", "I2FP", "F2FP")  # fmt: skip


def oldest() -> str:
    """The oldest version that the extra `gpu` takes, from pyproject.toml."""
    found = re.search(r"triton>=([0-9.]+),", (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise SystemExit("pyproject.toml names no triton>=…")
    return f"{found[1]}.0"


def installed(version: str) -> Path:
    """A folder with that Triton alone, in the user's cache; it appears whole or not at all."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("QLAB_CACHE") or cache / "qlab") / "triton" / version
    if not folder.exists():
        part = folder.with_name(f"{version}.{os.getpid()}.part")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(part), f"triton=={version}"], check=True)
        part.rename(folder)
    return folder


def compiled(names: Sequence[str] = (), version: str | None = None) -> dict[str, Any]:
    """What a process of its own says of the shipped kernels named, or of all; by the installed Triton or another."""
    told = None if "--every" in names else subprocess.PIPE
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if version:
        environment["PYTHONPATH"] = os.pathsep.join([str(installed(version)), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "qlab.kernels.triton.compiled", *names]
    run = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=told, text=True)
    if run.returncode:
        said = (run.stderr or "")[-2000:]
        raise RuntimeError(f"the kernels do not compile with triton {version or 'installed'}: {said}")
    return dict(json.loads(run.stdout))


def summary(census: dict[str, Any]) -> dict[str, int]:
    """What is recorded of a census: registers, shared memory, spills, and the instructions of COUNTED."""
    counts = dict.fromkeys(COUNTED, 0)
    for instruction, number in census["instructions"].items():
        head = instruction.partition(".")[0]
        if head in counts:
            counts[head] += number
    loads = {name: n for name, n in census["instructions"].items() if name.startswith(("LDGSTS.", "LDG."))}
    wide = sum(number for name, number in loads.items() if ".128" in name)
    found = {"registers": census["registers"], "shared": census["shared"], "spilled": census["local"], "128-bit": wide}
    return found | {name: number for name, number in counts.items() if number}


def summaries(told: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """{kernel: {capability: summary}}."""
    return {name: {sm: summary(census) for sm, census in targets.items()} for name, targets in told["kernels"].items()}


def table(found: dict[str, dict[str, dict[str, int]]]) -> str:
    """One line a kernel and target."""
    lines = []
    for name, targets in found.items():
        for sm, counts in targets.items():
            lines.append(f"{name:22} {sm}  " + "  ".join(f"{key} {number}" for key, number in counts.items()))
    return "\n".join(lines)


def main() -> None:
    """Compile, print, and record if asked."""
    parser = argparse.ArgumentParser(description="Counts of the Triton kernels' machine code")
    parser.add_argument("--record", action="store_true", help="write data/benchmarks/triton.json, for both Tritons")
    parser.add_argument("--every", action="store_true", help="every kind of weights in every tile: show what spills")
    parser.add_argument("--oldest", action="store_true", help="by the oldest Triton that the extra `gpu` takes")
    parser.add_argument("kernels", nargs="*", help="shipped kernels by name; all by default")
    asked = parser.parse_args()
    if asked.record and (asked.kernels or asked.oldest or asked.every):
        parser.error("--record is of every shipped kernel and both Tritons: ask for nothing else")
    told = compiled(["--every"] if asked.every else asked.kernels, oldest() if asked.oldest else None)
    found = summaries(told)
    if asked.every:
        spilled = {name: {sm: n for sm, n in targets.items() if n["spilled"]} for name, targets in found.items()}
        spilled = {name: targets for name, targets in spilled.items() if targets}
        print(f"triton {told['triton']}: {len(found)} kernels, {len(spilled)} spill\n{table(spilled)}")
        return
    print(f"triton {told['triton']}\n{table(found)}")
    if asked.record:
        old = compiled(version=oldest())
        print(f"triton {old['triton']}\n{table(summaries(old))}")
        made = {"command": "python scripts/compile_triton.py --record", "date": date.today().isoformat()}
        record = {"made": made, "triton": {told["triton"]: found, old["triton"]: summaries(old)}}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
