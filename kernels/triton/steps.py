"""Marlin's ideas one by one: seven kernels that multiply the same, each with one idea more; for a lesson's counts.

Every step computes out [M, N] = X · Wᵀ for 4-bit symmetric weights with one scale for each group of 128 columns, and
takes the same arguments; what differs is how codes are stored, unpacked, copied and divided among programs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import device
from .shipped import Shipped, pointers
from .unpack import level
from .weights import pack_codes

GROUP = 128
H = 64  # columns of a part; four make a block of 256


@triton.jit
def naive(w, k, rows, K):
    """One byte for each weight, as numpy would keep codes; converted by the machine's instruction for integers."""
    codes = tl.load(w + rows[:, None] * K + k[None, :])
    return (codes.to(tl.int32) - 8).to(tl.float16)


@triton.jit
def step(x, w, scale, out, M, N, K, STORED: tl.constexpr, FUSED: tl.constexpr, MAGIC: tl.constexpr, FIRST: tl.constexpr,
         SWAP: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
         GROUP: tl.constexpr, H: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """One kernel, an idea a constant. STORED: "half" (W itself), "byte" or "word"; FIRST: evict_first."""
    om = tl.program_id(0) * BM + tl.arange(0, BM)
    on = tl.program_id(1) * BN + tl.arange(0, BN)
    oh = tl.arange(0, H)
    POLICY: tl.constexpr = "evict_first" if FIRST else ""
    V: tl.constexpr = 4 if STORED == "word" else 1
    blocks = K // (V * H)
    share = blocks // SPLIT
    first = tl.program_id(2) * share
    acc = tl.full((BN, BM) if SWAP else (BM, BN), 0, tl.float32)
    for block in tl.range(first, first + share, num_stages=STAGES):
        if STORED == "word":
            at = w + (block * N + on[:, None]) * H + oh[None, :]
            words = tl.load(at, eviction_policy=POLICY)
        for part in tl.static_range(V):
            k = (block * V + part) * H + oh
            X = tl.load(x + om[:, None] * K + k[None, :], mask=om[:, None] < M, other=0.0)
            if STORED == "half":
                W = tl.load(w + on[:, None] * K + k[None, :])
            elif STORED == "byte":
                W = naive(w, k, on, K)
            elif MAGIC:
                W = level((words,), w, 4, part, tl.float16, 8, None, ASM)
            else:
                W = (((words >> (8 * (part % 2) + 4 * (part // 2))) & 0xF).to(tl.int32) - 8).to(tl.float16)
            if FUSED:
                W *= tl.load(scale + ((block * V + part) * H // GROUP) * N + on)[:, None]
            acc = tl.dot(W, X.trans(), acc) if SWAP else tl.dot(X, W.trans(), acc)
    if SWAP:
        acc = acc.trans()
    at = out + om[:, None] * N + on[None, :]
    if SPLIT > 1:
        tl.atomic_add(at, acc, mask=om[:, None] < M, sem="relaxed")
    else:
        tl.store(at, acc.to(out.dtype.element_ty), mask=om[:, None] < M)


@triton.jit
def unfused_weights(w, scale, out, N, K, GROUP: tl.constexpr, BN: tl.constexpr, H: tl.constexpr):
    """The first step's other half: W written out in float16, to be read again."""
    k = tl.program_id(0) * H + tl.arange(0, H)
    on = tl.program_id(1) * BN + tl.arange(0, BN)
    W = naive(w, k, on, K) * tl.load(scale + (tl.program_id(0) * H // GROUP) * N + on)[:, None]
    tl.store(out + on[:, None] * K + k[None, :], W)


@dataclass(frozen=True)
class Step:
    """A step of the ladder: its name, the idea in a sentence, and the constants it sets."""

    name: str
    idea: str
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def stored(self) -> str:
        """How W lies in memory."""
        return str(self.constants["STORED"])


PLAIN = {"STORED": "half", "FUSED": False, "MAGIC": False, "FIRST": False, "SWAP": False, "SPLIT": 1, "STAGES": 1,
         "BM": 16, "BN": 128}  # fmt: skip


def _ladder() -> tuple[Step, ...]:
    ideas = [
        ("unfused", "write W out in 16 bits, then multiply: W crosses the memory bus three times", {}),
        ("fused", "unpack where it is multiplied: codes cross once, a byte each", {"STORED": "byte", "FUSED": True}),
        ("packed", "four codes in a word: one load serves four tiles, and 16 bytes travel at once", {"STORED": "word"}),
        ("magic", "make floats of bits: lop3 and a fused multiply for two weights, no conversion", {"MAGIC": True}),
        ("pipelined", "copy ahead while multiplying; weights leave the cache first", {"STAGES": 4, "FIRST": True}),
        ("split", "divide the columns too, so that every processor has work", {"SPLIT": 4}),
        ("swapped", "multiply W·Xᵀ: the wide tensor core instruction wants 64 rows, and W has them", {"SWAP": True}),
    ]  # fmt: skip
    constants, found = dict(PLAIN), []
    for name, idea, changed in ideas:
        constants = constants | changed
        found.append(Step(name, idea, dict(constants)))
    return tuple(found)


LADDER = _ladder()


def store(codes: Tensor, step: Step) -> Tensor:
    """Codes [N, K] uint8 as the step keeps them."""
    if step.stored == "word":
        return pack_codes(codes, 4, H)
    return codes


def run(step_: Step, X: Tensor, stored: Tensor, scale: Tensor) -> Tensor:
    """X [M, K] float16 · Wᵀ → [M, N]; stored from `store`, scale [K / 128, N]. K: multiple of 1024, N: of 128."""
    device.check(X)
    (M, K), N, made = X.shape, scale.shape[1], step_.constants
    if step_.name == "unfused":
        W = torch.empty(N, K, dtype=torch.float16, device=X.device)
        unfused_weights[K // H, N // made["BN"]](stored, scale, W, N, K, GROUP=GROUP, BN=made["BN"], H=H)
        stored = W
    kind = torch.float32 if made["SPLIT"] > 1 else torch.float16
    out = torch.zeros(M, N, dtype=kind, device=X.device)
    step[triton.cdiv(M, made["BM"]), N // made["BN"], made["SPLIT"]](
        X, stored, scale, out, M, N, K, GROUP=GROUP, H=H, ASM=not device.INTERPRETED, **made, num_warps=4,
        num_stages=made["STAGES"], **device.OPTIONS,
    )  # fmt: skip
    return out.to(torch.float16)


def compilable(step_: Step) -> Shipped:
    """The step for `compiled.compile_kernel`."""
    kind = {"half": "fp16", "byte": "u8", "word": "i16"}[step_.stored]
    out = "fp32" if step_.constants["SPLIT"] > 1 else "fp16"
    types = pointers(x="fp16", w=kind, scale="fp16", out=out) | dict.fromkeys(("M", "N", "K"), "i32")
    constants = step_.constants | {"GROUP": GROUP, "H": H, "ASM": True}
    return Shipped(step, types, constants, 4, step_.constants["STAGES"], "fp16")
