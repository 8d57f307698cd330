"""GPUs by their datasheets, and what bytes and operations alone allow: no kernel can be faster than these.

Times count the weights, the inputs and the outputs once each, and two operations for each weight and token; nothing
else (launches, scales' arithmetic, caches that miss) is in them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A card. bandwidth: bytes/s of its memory; flops: dense float16 products summed in float32, operations/s.

    l2: bytes of its second-level cache; processors: streaming multiprocessors.
    """

    name: str
    bandwidth: float
    flops: float
    l2: float
    processors: int
    source: str

    @property
    def balance(self) -> float:
        """Operations it can do in the time that a byte takes to arrive."""
        return self.flops / self.bandwidth


GPUS = (
    GPU("RTX 4090", 1.008e12, 165.2e12, 72e6, 128, "NVIDIA Ada GPU architecture whitepaper, appendix A"),
    GPU("A100 80 GB", 2.039e12, 312e12, 40e6, 108, "NVIDIA A100 datasheet, SXM"),
    GPU("H100", 3.35e12, 989e12, 50e6, 132, "NVIDIA H100 datasheet, SXM"),
    GPU("H200", 4.8e12, 989e12, 50e6, 132, "NVIDIA H200 datasheet, SXM"),
)
HALF = 2.0  # bytes of a float16


def bytes_per_weight(bits: float, group: int, zero: bool = False) -> float:
    """Bytes that a weight costs: its code, and its share of a 16-bit scale and of a 16-bit zero."""
    return bits / 8 + HALF * (2 if zero else 1) / group


def seconds(gpu: GPU, M: int, N: int, K: int, weight: float) -> tuple[float, float]:
    """The least time of X [M, K] · Wᵀ [K, N]: for its bytes and for its operations. weight: bytes of a weight."""
    moved = N * K * weight + HALF * M * (K + N)
    return moved / gpu.bandwidth, 2 * M * N * K / gpu.flops


def gain(gpu: GPU, M: int, N: int, K: int, weight: float) -> float:
    """How many times faster than float16 weights it can be at most, M tokens at once."""
    return max(seconds(gpu, M, N, K, HALF)) / max(seconds(gpu, M, N, K, weight))


def tokens_per_pass(gpu: GPU, tokens_per_second: float, model_bytes: float) -> float:
    """Sequences that must share each pass through the weights for so many tokens a second, at the very least."""
    return tokens_per_second * model_bytes / gpu.bandwidth


def hit_rate(M: int, N: int, K: int, BM: int, BN: int, weight: float) -> float:
    """The share of a product's reads that the L2 cache can answer, if what was read once stays there.

    Tiles of BM tokens by BN rows: W is read once for each row of tiles, X once for each column.
    """
    W, X = N * K * weight, HALF * M * K
    asked = W * -(-M // BM) + X * -(-N // BN)
    return 1 - (W + X) / asked
