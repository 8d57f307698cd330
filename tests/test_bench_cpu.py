"""The ceilings of the CPU benchmark."""

import pytest

from qlab import bench_cpu
from qlab.cli import app
from qlab.errors import QlabError


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


def test_odd_shapes_and_names_in_small_letters_are_measured():
    """A matrix of a few bytes has no millions of copies; torch's product, for rows by sixteens, is left out."""
    rows = list(bench_cpu.kernels(types=["q4_0"], shapes=[(1, 32), (17, 96), (32, 64)], tokens=[1], rounds=1))
    assert [row.type for row in rows] == ["Q4_0"] * 3
    assert [row.vs_torch is not None for row in rows] == [False, False, True]


def test_no_tokens_are_nothing_to_measure():
    with pytest.raises(QlabError, match="--tokens 0: give a positive number"):
        app(["bench", "cpu", "--tokens", "0"], standalone_mode=False)
