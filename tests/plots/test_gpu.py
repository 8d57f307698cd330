"""The figures of the GPU kernels: the limit is the roofline's, measured rows stand where they were measured."""

import pytest

from qlab.plots import gpu, gpu_bandwidth, gpu_ratios

ROWS = [
    {"type": "int4-g128-sym", "n": n, "k": 4096, "m": m, "vs_cublas": r, "fraction_of_limit": r / 4}
    for n, m, r in ((4096, 16, 2.5), (4096, 1, 3.0), (8192, 1, 3.2))
]
BITS, SHAPE = 4.125, (8192, 28672)


def test_the_limit_is_that_of_bytes_and_then_of_operations():
    # one token: only weights count, 16 / 4.125 bits; the activations of 2 · 36864 bytes are a part in a thousand
    assert gpu.limit(1, SHAPE, BITS, gpu.H200) == pytest.approx(16 / BITS, rel=2e-3)
    assert gpu.limit(1, SHAPE, BITS, gpu.H200) < 16 / BITS
    assert gpu.limit(1024, SHAPE, BITS, gpu.H200) == 1
    # where operations bound the quantized product but bytes still the other: (bytes / bandwidth) · rate / operations
    n, k = SHAPE
    expected = (2 * n * k + 2 * 128 * (n + k)) / gpu.H200.gbps / 1e9 * gpu.H200.tflops * 1e12 / (2 * 128 * n * k)
    assert gpu.limit(128, SHAPE, BITS, gpu.H200) == pytest.approx(expected)


def test_rows_stand_beside_the_limit_in_the_order_of_batches():
    curve, small, large = gpu_ratios(ROWS).data
    assert curve.y[0] == pytest.approx(16 / BITS, rel=5e-3) and curve.y[-1] == 1
    assert list(curve.y) == sorted(curve.y, reverse=True)
    assert (list(small.x), list(small.y)) == ([1, 16], [3.0, 2.5]) and list(large.y) == [3.2]
    assert small.marker.symbol != large.marker.symbol and small.line.dash != large.line.dash


def test_without_rows_the_limit_stands_alone():
    (curve,) = gpu_ratios().data
    assert "H200" in curve.name and len(curve.x) == len(gpu.BATCHES)


def test_the_device_of_a_run_is_what_it_measured():
    ceilings = {"copy_gbps": {"median": 2500.0}, "matmul_tflops": {"median": 600.0}}
    device = gpu.Device.of({"made": {"hardware": "NVIDIA H100, 9.0, 132 processors"}, "ceilings": ceilings})
    assert device == gpu.Device("NVIDIA H100", 2500.0, 600.0)


def test_bars_are_shares_of_the_limit():
    (bars,) = gpu_bandwidth(ROWS).data
    assert list(bars.x) == [0.625, 0.75, 0.8] and bars.y[0] == "int4-g128-sym, 4096 × 4096"
