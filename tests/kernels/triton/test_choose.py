"""The table, the split, what the device has room for, and the cache of measured choices."""

import json

import pytest
import torch
from qlab.kernels import triton as kernels
from qlab.kernels.triton import autotune, choose, device
from qlab.kernels.triton.weights import Kind
from triton_cases import case, inputs


@pytest.mark.parametrize("capability", [80, 89, 90])
def test_the_table_covers_every_number_of_rows(capability):
    for M in (1, 8, 9, 16, 17, 64, 65, 100, 1024):
        config = choose.choose(M, capability)
        assert config.kernel != "dense" and (config.BM >= M or config.kernel == "gemm")
    assert choose.choose(1025, capability) == choose.choose(8192, capability) == choose.DENSE


def test_sums_are_scaled_where_that_is_cheaper():
    late = {(M, group): choose.choose(M, 90, Kind(4, group)).late for M in (16, 32, 64) for group in (0, 16, 32, 64)}
    assert late == {(M, group): M < 64 and (group == 0 or group >= 2 * M) for M, group in late}


def test_the_split_fills_the_device():
    for N, K in ((4096, 4096), (4096, 14336), (14336, 4096), (8192, 28672)):
        tiles, blocks = N // 128, K // 256
        split = choose.choose_split(tiles, blocks, 132)
        # nearly two programs a processor; one more wave of them would cost more than the last few idle places
        assert tiles * split >= 1.6 * 132 or split in (16, blocks), (N, K, split)
    assert choose.choose_split(1000, 16, 132) <= 2
    assert choose.choose_split(1, 3, 132) <= 3


def test_stages_give_way_to_a_small_device(monkeypatch):
    weights, config = case(4, 128, 1024, 128).weights, choose.choose(100, 80)
    monkeypatch.setattr(device, "capability", lambda _: 80)
    for room, stages, BM in ((device.SHARED[80], 3, 128), (101376, 2, 128), (65536, 2, 64)):  # 8.0, 8.6 and 8.9, 7.5
        monkeypatch.setattr(device, "shared_limit", lambda _, room=room: room)
        fitting = device.fit(config, weights, torch.device("cpu"))
        assert (fitting.stages, fitting.BM) == (stages, BM)
        assert device.shared_memory(fitting, weights, 80) <= room
    monkeypatch.setattr(device, "shared_limit", lambda _: 101376)
    # a configuration that was asked for by name is taken as it is, or not at all
    with pytest.raises(ValueError, match="gemm with tiles of 128 × 64 takes up to .* the device has 101376"):
        kernels.multiply(inputs(1, 1024), weights, kernel=config)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("capability", [80, 90])
def test_every_width_fits_a_small_device(bits, capability, monkeypatch):
    monkeypatch.setattr(device, "shared_limit", lambda _: 101376)
    weights = case(bits, 128, 256, 128).weights
    for M in (1, 8, 16, 64, 100, 2000):
        config = device.fit(choose.choose(M, capability, weights.kind), weights, torch.device("cpu"))
        assert device.fits(config, weights, torch.device("cpu"))


def test_no_gpu_and_an_old_gpu(monkeypatch):
    monkeypatch.setattr(device, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="the tensors are on cpu: move them to a CUDA GPU"):
        kernels.multiply(inputs(1, 64), case(4, 8, 64, 32).weights)

    class Old:
        dtype, device = torch.float16, torch.device("cuda")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(RuntimeError, match=r"Tesla T4 has compute capability 7.5: the kernels need 8.0"):
        device.check(Old())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QLAB_CACHE", str(tmp_path))
    return tmp_path


def fake_measure(config):
    return 1.0 if config.split == 4 else 2.0


def tuned(asked):
    weights, X = case(4, 64, 2048, 128).weights, inputs(1, 2048)
    return autotune.fastest(X, weights, asked.append, lambda call: (call(), fake_measure(asked[-1]))[1])


def test_the_fastest_is_measured_once(cache):
    asked = []
    config = tuned(asked)
    assert config.split == 4 and len(asked) > 10
    again = []
    assert tuned(again) == config and again == []
    assert not list(cache.rglob("*.part"))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"1": {"colour": 3}}', '{"1": 5}'])
def test_a_damaged_cache_is_measured_anew(cache, damage):
    tuned([])
    (file,) = cache.rglob("*.json")
    file.write_text(damage)
    asked = []
    tuned(asked)
    assert asked and json.loads(file.read_text())


def test_a_cache_of_other_values_is_measured_anew(cache):
    tuned([])
    (file,) = cache.rglob("*.json")
    known = json.loads(file.read_text())
    file.write_text(json.dumps({key: value | {"BM": 12} for key, value in known.items()}))
    asked = []
    assert tuned(asked).BM != 12 and asked


def test_a_captured_graph_has_counters_of_its_own(monkeypatch):
    class Stream:
        cuda_stream = 7

    capturing = []
    monkeypatch.setattr(device, "INTERPRETED", False)
    monkeypatch.setattr(device, "_COUNTERS", {})
    monkeypatch.setattr(device, "_FOR_GRAPHS", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(capturing))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream)
    cpu = torch.device("cpu")
    capturing.append(1)
    assert device.counters(cpu, 40).tolist() == [0] * 40  # no stock yet
    capturing.clear()
    eager = device.counters(cpu, 40)
    assert device.counters(cpu, 30) is eager
    capturing.append(1)
    places = [eager.data_ptr(), *(device.counters(cpu, 40).data_ptr() for _ in range(3))]
    assert len({*places}) == 4 and places[2] - places[1] == places[3] - places[2] == 160
    assert len(device.counters(cpu, 1 << 18)) == 1 << 18  # more than is left


REFUSED = [({"kernel": "fast"}, "no kernel 'fast'"), ({"BM": 12}, "BM is 12: give a power of two from 8"),
           ({"stages": 0}, "stages is 0"), ({"split": 1.5}, "split is 1.5: give a whole number")]  # fmt: skip


@pytest.mark.parametrize("asked, message", REFUSED)
def test_a_configuration_that_cannot_be(asked, message):
    with pytest.raises(ValueError, match=message):
        kernels.Config(**({"kernel": "gemm"} | asked))
