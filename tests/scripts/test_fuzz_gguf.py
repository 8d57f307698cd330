"""The fuzzer itself: a short run of it, and that it does not let a crash pass."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/fuzz_gguf.py"


@pytest.fixture
def fuzzer():
    spec = importlib.util.spec_from_file_location("fuzz_gguf", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutated_files_are_read_or_refused(fuzzer, tmp_path):
    found = fuzzer.fuzz(1500, seed=1, keep=tmp_path)
    assert 0 < found["refused"] < 1500 and found["megabytes"] < fuzzer.MEGABYTES


def test_a_crash_is_kept_and_told(fuzzer, tmp_path, monkeypatch):
    calls = []

    def crash(path):
        calls.append(path)
        if len(calls) > 10:
            raise KeyError("boom")

    monkeypatch.setattr(fuzzer, "use", crash)
    with pytest.raises(AssertionError, match=r"fuzz-1-\d+.*KeyError: 'boom'"):
        fuzzer.fuzz(100, seed=1, keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
