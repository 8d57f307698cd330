"""Ceilings by datasheet: the limits that follow from bytes and operations."""

import pytest

from qlab import gpus

WEIGHT = gpus.bytes_per_weight(4, 128)
BY = {gpu.name: gpu for gpu in gpus.GPUS}


def test_bytes_of_a_weight():
    assert WEIGHT == 0.515625
    assert gpus.bytes_per_weight(4, 128, zero=True) == 0.53125


@pytest.mark.parametrize("gpu", gpus.GPUS, ids=lambda gpu: gpu.name)
def test_the_gain_goes_from_the_bytes_to_one(gpu):
    gains = [gpus.gain(gpu, M, 8192, 8192, WEIGHT) for M in (1, 16, 64, 256, 1024)]
    assert gains[0] == pytest.approx(2 / WEIGHT, rel=2e-3)  # inputs and outputs: 4 bytes for 8192 weights
    assert gains == sorted(gains, reverse=True) and gains[-1] == 1


def test_both_ceilings_meet_at_the_turning_point():
    gpu = BY["H100"]
    moving, multiplying = gpus.seconds(gpu, 100, 10**6, 10**6, 2 * 100 / gpu.balance)
    assert moving == pytest.approx(multiplying, rel=1e-3)


def test_one_sequence_is_one_token_a_pass():
    gpu = BY["H200"]
    assert gpus.tokens_per_pass(gpu, gpu.bandwidth / 64e9, 64e9) == pytest.approx(1)


def test_hits_are_what_is_read_again():
    """Counted tile by tile."""
    M, N, K, BM, BN = 64, 512, 256, 16, 128
    seen, asked, hit = set(), 0.0, 0.0
    for m in range(0, M, BM):
        for n in range(0, N, BN):
            for name, at, size in (("X", m, BM * K * 2.0), ("W", n, BN * K * WEIGHT)):
                asked, hit = asked + size, hit + size * ((name, at) in seen)
                seen.add((name, at))
    assert gpus.hit_rate(M, N, K, BM, BN, WEIGHT) == pytest.approx(hit / asked)
