"""What the compiler made of a kernel: registers, spills, shared memory and machine instructions. Needs no GPU.

`triton.compile` takes a target by name and brings its own ptxas and cuobjdump, so a machine without a driver compiles
for any of NVIDIA's. `python -m qlab.kernels.triton.compiled` prints the census of every shipped kernel as JSON.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import shipped

INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)", re.MULTILINE)
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Census:
    """One kernel for one target. instructions: how often each stands in the machine code, its modifiers kept."""

    registers: int
    local: int
    shared: int
    instructions: dict[str, int]

    def count(self, name: str, *modifiers: str) -> int:
        """Instructions of that name that carry all the modifiers: count("LDG", "128")."""
        split = ((text.split("."), number) for text, number in self.instructions.items())
        return sum(number for (head, *rest), number in split if head == name and set(modifiers) <= set(rest))

    @property
    def spills(self) -> int:
        """Loads and stores of registers that did not fit."""
        return self.count("LDL") + self.count("STL")


def compile_kernel(
    kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], capability: int, warps: int = 4,
    stages: int = 3, odd: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """Triton's compiled kernel for a compute capability (80, 90).

    types: of the arguments that are no constants ("*fp16", "i32"). What is not named in `odd` counts as divisible
    by 16, as a launch finds it of aligned tensors and of the usual sizes.
    """
    if not isinstance(kernel, triton.runtime.JITFunction):
        raise RuntimeError("TRITON_INTERPRET was set when the kernels were imported: nothing can be compiled here")
    signature = dict(types) | dict.fromkeys(constants, "constexpr")
    places = {name: (kernel.arg_names.index(name),) for name in types}
    attributes = {places[name]: [["tt.divisibility", 16]] for name in types if name not in odd}
    source = ASTSource(kernel, signature, dict(constants), attributes)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def census(compiled: Any) -> Census:
    """Counts from the machine code of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        code = _cuobjdump(path, "-sass", "--dump-resource-usage")
    found = USAGE.search(code)
    if found is None:
        raise RuntimeError("cuobjdump told no resource usage")
    registers, stack, _, local = map(int, found.groups())
    instructions = dict(sorted(Counter(INSTRUCTION.findall(code)).items()))
    return Census(registers, stack + local, int(compiled.metadata.shared), instructions)


def sass(compiled: Any) -> str:
    """The machine code, as cuobjdump prints it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        return _cuobjdump(path, "-sass")


@functools.cache
def _tool() -> str:
    import triton.backends.nvidia

    return str(Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump")


def _cuobjdump(path: Path, *options: str) -> str:
    return subprocess.run([_tool(), *options, path], capture_output=True, text=True, check=True).stdout


def compile_shipped(made: shipped.Shipped, capability: int) -> Census:
    """Census of a shipped kernel."""
    return census(compile_kernel(made.kernel, made.types, made.constants, capability, made.warps, made.stages))


def main() -> None:
    """Census of the shipped kernels named, or of all, for each capability: JSON on standard output.

    "--every": of `shipped.every`, and the names on standard error as they pass.
    """
    every = sys.argv[1:] == ["--every"]
    made_for = shipped.every if every else shipped.kernels
    known = {capability: made_for(capability) for capability in shipped.CAPABILITIES}
    found: dict[str, dict[str, Any]] = {}
    for name in known[90] if every else sys.argv[1:] or known[90]:
        found[name] = {f"sm_{cap}": asdict(compile_shipped(made[name], cap)) for cap, made in known.items()}
        if every:
            print(f"{len(found)} of {len(known[90])}: {name}", file=sys.stderr)
    json.dump({"triton": triton.__version__, "kernels": found}, sys.stdout)


if __name__ == "__main__":
    main()
