"""Makes data/benchmarks/instructions.json: instructions of the CPU kernels per weight and token, counted by valgrind.

A count does not depend on what else a machine does, so a test can hold it to 3 %. valgrind knows no AVX-512: the AVX2
and the scalar kernels are counted.

python scripts/count_instructions.py     a minute
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import build_checks

RECORD = build_checks.ROOT / "data" / "benchmarks" / "instructions.json"
ROWS, COLUMNS = 256, 1024
FORMATS = {
    "q4_0": "int4", "q4_k": "super4_min", "q6_k": "super6", "q8_0": "int8", "int4-g32-asym": "int4_zero",
    "int2-g32-sym": "int2", "int3-g32-sym": "int3", "int5-g32-sym": "int5",
}  # fmt: skip
"""A spec, and the kernels' name for it."""
ISAS = {"x86_64": ("avx2", "scalar")}
TOKENS = (1, 16)


def isas() -> tuple[str, ...]:
    """The instruction sets whose kernels are counted here."""
    return ISAS.get(platform.machine(), ("scalar",))


def missing() -> str | None:
    """What this machine lacks for counting; None if nothing."""
    if build_checks.compiler() is None:
        return "no C++ compiler found: install g++ or name one in CXX"
    return None if shutil.which("valgrind") else "no valgrind found: install it (Debian: apt-get install valgrind)"


def compiler() -> str:
    """What the compiler calls itself."""
    return build_checks.version(build_checks.compiler() or "")


def major(version: str) -> tuple[str, str]:
    """Name and major version in such a line: ("g++", "12")."""
    found = re.findall(r"(\d+)\.\d+\.\d+", version)
    return version.split()[0], found[-1] if found else version


def executed(program: Path, *given: object) -> int:
    """Instructions of a whole run."""
    with tempfile.TemporaryDirectory() as folder:
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
        run = subprocess.run([*tool, program, *map(str, given)], capture_output=True, text=True, check=True)
    found = re.search(r"refs:\s+([\d,]+)", run.stderr)
    if found is None:
        raise SystemExit(f"valgrind told no count: {run.stderr[-200:]}")
    return int(found[1].replace(",", ""))


def per_weight(program: Path, spec: str, isa: str, tokens: int) -> float:
    """Instructions of one product of ROWS × COLUMNS weights per weight and token; what surrounds it taken off."""
    size = (FORMATS[spec], isa, tokens, ROWS, COLUMNS)
    once, never = (executed(program, "count", *size, runs) for runs in (1, 0))
    return (once - never) / (ROWS * COLUMNS * tokens)


def main() -> None:
    """Count everything and write the record."""
    if problem := missing():
        raise SystemExit(problem)
    program = build_checks.build()
    counts: dict[str, dict[str, Any]] = {}
    for spec in FORMATS:
        for isa in isas():
            told = {str(tokens): round(per_weight(program, spec, isa, tokens), 5) for tokens in TOKENS}
            counts.setdefault(spec, {})[isa] = told
            print(spec, isa, told, flush=True)
    flags = {isa: " ".join([*build_checks.flags(), *build_checks.leaf_flags(f"matmul_{isa}.cpp")]) for isa in isas()}
    made = {"command": "python scripts/count_instructions.py", "date": date.today().isoformat(),
            "machine": platform.machine(), "compiler": compiler(), "flags": flags}  # fmt: skip
    record = {"made": made, "rows": ROWS, "columns": COLUMNS, "instructions_per_weight_per_token": counts}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
