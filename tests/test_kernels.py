"""The compiled leaf: what it computes against numpy, and what it refuses."""

import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qlab.kernels import cpu

PAGE = 4096  # below this read_sum does not share the work


def word_sum(array: np.ndarray) -> int:
    """The sum that read_sum promises, in Python's unbounded integers."""
    whole = array.size // 8 * 8
    words = array[:whole].copy().view(np.uint64)
    return (sum(map(int, words)) + sum(map(int, array[whole:]))) % 2**64


@given(arrays(np.uint8, st.integers(1, 300)), st.integers(1, 4))
def test_small_arrays(array: np.ndarray, threads: int):
    assert cpu.read_sum(array, threads) == word_sum(array)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("extra", [0, 1, 8, 31])
def test_spans_cover_every_byte_once(threads: int, extra: int):
    array = np.random.default_rng(0).integers(256, size=5 * PAGE + extra, dtype=np.uint8)
    assert cpu.read_sum(array, threads) == word_sum(array)


def test_the_sum_wraps():
    assert cpu.read_sum(np.full(16, 255, dtype=np.uint8)) == 2**64 - 2


def test_unaligned_and_read_only_buffers():
    array = np.arange(2 * PAGE, dtype=np.uint8)
    array.flags.writeable = False
    assert cpu.read_sum(array[3:], 2) == word_sum(array[3:])


def test_torch_tensors_are_read_in_place():
    assert cpu.read_sum(torch.arange(100, dtype=torch.uint8)) == word_sum(np.arange(100, dtype=np.uint8))


@pytest.mark.parametrize(
    ("array", "threads", "message"),
    [(np.ones(0, np.uint8), 1, "array is empty"), (np.ones(9, np.uint8), 0, "threads is 0")],
)
def test_values_that_are_refused(array: np.ndarray, threads: int, message: str):
    with pytest.raises(ValueError, match=message):
        cpu.read_sum(array, threads)


REFUSED = [np.ones(8, np.float32), np.ones(8, np.uint8)[::2], np.ones((2, 4), np.uint8), "text"]


@pytest.mark.parametrize("array", REFUSED)
def test_types_and_layouts_that_are_refused(array: object):
    with pytest.raises(TypeError, match="dtype=uint8"):
        cpu.read_sum(array)


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="asks the x86 Linux kernel")
def test_features_are_those_the_kernel_reports():
    names = {"sse4.2": "sse4_2", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}  # spelled differently there
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    asked = ["sse4.2", "avx2", "fma", "f16c"]
    asked += ["avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi", "avx512bf16"]
    assert cpu.features() == [name for name in asked if names.get(name, name) in flags]
