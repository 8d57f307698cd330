"""Makes data/records/kernel_steps.json, lesson 15: machine instructions of the ladder and of single ideas.

Nothing runs and no GPU is needed: kernels are compiled for compute capabilities 8.0 and 9.0 and their code is counted.
Counts of the loop are of one pass, beside the weights that a thread handles in it. TRITON_INTERPRET must not be set.

python scripts/make_record_kernel_steps.py [--only NAME]     two minutes on one core; NAME prints one row as JSON
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import triton
from qlab.kernels.triton import compiled, steps
from qlab.kernels.triton.shipped import Shipped, pointers
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qlab.records import provenance, save_record

NAME = "kernel_steps"
CAPABILITIES = (80, 90)
THREADS = 128
COUNTED = ("I2F", "LOP3", "SHF", "PRMT", "HFMA2", "HMUL2", "HMMA", "HGMMA", "LDG", "LDGSTS", "LDS", "LDSM", "STS",
           "RED", "REDG", "ATOMG", "STG")  # fmt: skip
LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)([^;]*);", re.MULTILINE)
LADDER = {step.name: step for step in steps.LADDER}


@dataclass(frozen=True)
class Variant:
    """A kernel of the ladder with constants changed; aligned: what W's address is promised to be a multiple of."""

    base: str
    changed: dict[str, Any] = field(default_factory=dict)
    aligned: int = 16


VARIANTS = {name: Variant(name) for name in LADDER} | {
    "asynchronous": Variant("magic", {"STAGES": 4}),
    "asynchronous, narrow": Variant("magic", {"STAGES": 4}, aligned=4),
    "evict first": Variant("magic", {"FIRST": True}),
}
WRITING = "unfused, writing"
"""The other kernel of the first step, which writes the weights out."""
TECHNIQUES = {
    "fused dequantization": ("unfused", "fused"),
    "the magic number": ("packed", "magic"),
    "asynchronous copies": ("magic", "asynchronous"),
    "past the L1 cache": ("asynchronous, narrow", "asynchronous"),
    "weights leave the L2 first": ("magic", "evict first"),
    "the same, copied ahead": ("asynchronous", "pipelined"),
}
"""Kernels before and after, of which nothing else differs."""
NAMES = [WRITING, *VARIANTS]


def compile_with(made: Shipped, capability: int, aligned: int = 16) -> Any:
    """Triton's compiled kernel, as `compiled.compile_kernel` makes it but for what W's address is a multiple of."""
    kernel, signature = made.kernel, dict(made.types) | dict.fromkeys(made.constants, "constexpr")
    promised = dict.fromkeys(made.types, 16) | {"w": aligned}
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", n]] for name, n in promised.items()}
    source = ASTSource(kernel, signature, dict(made.constants), attributes)
    options = {"num_warps": THREADS // 32, "num_stages": made.stages, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def loop(code: str) -> Counter[str]:
    """Instructions of the loop that multiplies: from the target of the backward branch with a tensor core between."""
    lines = [(int(at, 16), name, rest) for at, name, rest in LINE.findall(code)]
    for end, name, rest in lines:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name != "BRA" or target is None or int(target[1], 16) >= end:
            continue
        body = Counter(name for at, name, _ in lines if int(target[1], 16) <= at <= end)
        if any(name.startswith(("HMMA", "HGMMA")) for name in body):
            return body
    raise RuntimeError("no loop with a tensor core instruction in it")


def count(body: Counter[str], name: str, *modifiers: str) -> int:
    """Instructions of a name that carry all the modifiers."""
    return sum(n for text, n in body.items() if text.split(".")[0] == name and set(modifiers) <= set(text.split(".")))


def row(name: str, capability: int) -> dict[str, Any]:
    """What the compiler made of a variant: its loop by instruction, and the whole kernel's registers and spills."""
    if name == WRITING:
        return writing(capability)
    variant = VARIANTS[name]
    base = LADDER[variant.base]
    constants = base.constants | variant.changed
    made = compile_with(steps.compilable(steps.Step(name, base.idea, constants)), capability, variant.aligned)
    code = compiled.sass(made)
    parts = 4 if constants["STORED"] == "word" else 1
    return facts(name, capability, made, loop(code), constants["BN"] * steps.H * parts // THREADS)


def writing(capability: int) -> dict[str, Any]:
    """The kernel that writes W out in float16: it has no loop, so the whole of it is counted."""
    types = pointers(w="u8", scale="fp16", out="fp16") | {"N": "i32", "K": "i32"}
    constants = {"GROUP": steps.GROUP, "BN": steps.PLAIN["BN"], "H": steps.H}
    made = compile_with(Shipped(steps.unfused_weights, types, constants, THREADS // 32), capability)
    body = Counter(name for _, name, _ in LINE.findall(compiled.sass(made)))
    return facts(WRITING, capability, made, body, constants["BN"] * steps.H // THREADS)


def facts(name: str, capability: int, made: Any, body: Counter[str], weights: int) -> dict[str, Any]:
    """A row. weights: those that a thread has in the instructions counted; hinted and copies: in PTX, all of it."""
    census = compiled.census(made)
    ptx = made.asm["ptx"]
    return {
        "name": name, "capability": capability, "weights": weights, "total": sum(body.values()),
        "loop": {key: n for key in COUNTED if (n := count(body, key))}, "bypass": count(body, "LDGSTS", "BYPASS"),
        "first": count(body, "LDG", "EF"), "hinted": ptx.count("L2::cache_hint"),
        "copies": ptx.count("cp.async.cg") + ptx.count("cp.async.ca"),
        "sums": sum(census.count(key) for key in ("RED", "REDG", "ATOMG")),
        "registers": census.registers, "spills": census.spills, "shared": census.shared,
    }  # fmt: skip


def main() -> None:
    """Compile every variant and write the record, or print the rows of one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=NAMES, help="print this one's rows instead of writing the record")
    options = parser.parse_args()
    names = [options.only] if options.only else NAMES
    rows = [row(name, capability) for name in names for capability in CAPABILITIES]
    if options.only:
        print(json.dumps(rows))
        return
    made = provenance("python scripts/make_record_kernel_steps.py")
    made["versions"]["triton"] = version("triton")
    about = "compiled, not run: instructions of one pass of the loop; tiles of 16 tokens × 128 rows, 128 threads"
    techniques = {name: list(pair) for name, pair in TECHNIQUES.items()}
    save_record(NAME, {"made": made, "about": about, "techniques": techniques, "rows": rows})


if __name__ == "__main__":
    main()
