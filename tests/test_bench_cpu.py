"""The ceilings of the CPU benchmark."""

import pytest

from qlab import bench_cpu


def test_the_read_speed_beside_kernels_is_their_median():
    rows = [
        {"gbps": 8.0, "fraction_of_read": 0.8},
        {"gbps": 6.0, "fraction_of_read": 0.5},
        {"gbps": 9.0, "fraction_of_read": 0.9},
        {"gbps": 1.0, "fraction_of_read": None},  # several tokens: nothing was read beside
    ]
    assert bench_cpu.read_beside(rows) == pytest.approx(10)


def test_arithmetic_alone_is_a_speed():
    assert bench_cpu.compute_ceiling(rounds=2) > 0
