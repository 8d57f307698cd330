"""Compile `kernels/cpu/checks`, which drives the CPU kernels without Python, and print the program's path.

python scripts/build_checks.py [address,undefined | thread]     half a minute, once for the same sources and compiler

Under build/checks: a folder for every compiler, set of flags and state of the sources. The file of an instruction set
gets the flags that CMakeLists.txt gives it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU = ROOT / "kernels" / "cpu"
BUILT = ROOT / "build" / "checks"
PARTS = ("checks/main.cpp", "decoder.cpp", "isa.cpp", "pool.cpp", "tile.cpp")
BLOCKS = ("checks/blocks.cpp", "encode_scalar.cpp", "decode_blocks.cpp")
"""The parts of the other program, which encodes and decodes blocks of GGUF."""
LEAVES = {
    "x86_64": ("matmul_scalar.cpp", "matmul_avx2.cpp", "matmul_avx512.cpp"),
    "aarch64": ("matmul_scalar.cpp", "matmul_neon.cpp"),
}
# -w: warnings are shown where the module is built
COMMON = ["-std=c++20", "-w", "-Wno-psabi", "-ffp-contract=off", "-pthread"]
RELEASE = ["-O3", "-DNDEBUG"]
# _GLIBCXX_SANITIZE_VECTOR: what lies between a std::vector's size and its capacity is out of bounds too
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-D_GLIBCXX_SANITIZE_VECTOR=1"]


def compiler(machine: str = "") -> str | None:
    """The C++ compiler: $CXX, else g++ or clang++; g++ under the name of another `machine`; None if there is none."""
    if machine not in ("", platform.machine()):
        return shutil.which(f"{machine}-linux-gnu-g++")
    names = (os.environ.get("CXX") or "g++", "g++", "clang++")
    return next((path for name in names if (path := shutil.which(name))), None)


def version(cxx: str) -> str:
    """What a compiler calls itself: "g++ (Debian 12.2.0-14) 12.2.0"."""
    return subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def flags(sanitizer: str = "") -> list[str]:
    """For every file; "" is how the module is built."""
    return [*COMMON, *([*SANITIZED, f"-fsanitize={sanitizer}"] if sanitizer else RELEASE)]


def leaf_flags(source: str, cxx: str = "") -> list[str]:
    """What CMakeLists.txt adds for the file of one instruction set, and for those of blocks."""
    if source in BLOCKS[1:]:
        return ["-fno-math-errno", *([] if "clang" in version(cxx) else ["-fno-ivopts"])]
    found = re.search(rf'\({source} PROPERTIES\s+COMPILE_OPTIONS\s+"([^"]*)"', (CPU / "CMakeLists.txt").read_text())
    return found[1].split(";") if found else []


def build(sanitizer: str = "", machine: str = "", sources: Sequence[str] = ()) -> Path:
    """The program, compiled unless it is there; for another `machine` with all that it needs in one file.

    sources: BLOCKS for the program that encodes and decodes them.
    """
    cxx = compiler(machine)
    if cxx is None:
        raise SystemExit("no C++ compiler found: install g++ or name one in CXX")
    static = [] if machine in ("", platform.machine()) else ["-static"]
    sources = sources or [*PARTS, *LEAVES.get(machine or platform.machine(), ("matmul_scalar.cpp",))]
    named = {source: [*flags(sanitizer), *leaf_flags(source, cxx)] for source in sources}
    digest = hashlib.sha256(repr((version(cxx), named)).encode())
    headers = [path for path in (*CPU.glob("*.h"), *CPU.glob("checks/*.h")) if path.name != "bind.h"]  # Python's
    for path in sorted([*headers, *(CPU / source for source in sources)]):
        digest.update(path.read_bytes())
    program = BUILT / digest.hexdigest()[:16] / "checks"
    if program.exists():
        return program
    folder = program.parent.with_suffix(f".{os.getpid()}")
    folder.mkdir(parents=True)

    def compiled(source: str) -> str:
        target = folder / f"{Path(source).stem}.o"
        subprocess.run([cxx, *named[source], "-c", str(CPU / source), "-o", str(target)], check=True, stdout=sys.stderr)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        objects = list(workers.map(compiled, sources))
    link = [cxx, *flags(sanitizer), *static, *objects, "-o", str(folder / "checks")]
    subprocess.run(link, check=True, stdout=sys.stderr)
    for built in objects:
        Path(built).unlink()
    if program.exists():  # another process was faster
        shutil.rmtree(folder)
    else:
        folder.rename(program.parent)
    return program


if __name__ == "__main__":
    print(shlex.quote(str(build(*sys.argv[1:2]))))
