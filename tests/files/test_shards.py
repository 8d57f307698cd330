"""Merging part files: bytes and order, alignment, limits, and damage."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qlab.errors import QlabError
from qlab.files.shards import entries, merge_shards, shard_files

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.int64, torch.uint8]


def tensor(dtype: torch.dtype, n: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 100, (n,), generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 9)), min_size=1, max_size=8), st.integers(1, 200))
def test_every_tensor_arrives_aligned_within_the_limit(tmp_path_factory, tensors, limit) -> None:
    folder = tmp_path_factory.mktemp("merge")
    wanted = {f"t{i}": tensor(dtype, n, i) for i, (dtype, n) in enumerate(tensors)}
    parts = []
    for i, (name, t) in enumerate(wanted.items()):
        parts.append(folder / f"part{i}")
        save_file({name: t}, parts[-1])
    files = merge_shards(parts, folder, limit, provenance='{"a": 1}')
    found = {name: t for file in files for name, t in load_file(file).items()}
    assert found.keys() == wanted.keys()
    assert all(found[k].dtype == t.dtype and torch.equal(found[k], t) for k, t in wanted.items())
    for file in files:
        held = entries(file)
        assert len(held) == 1 or sum(e.size for e in held) <= limit
        (length,) = struct.unpack("<Q", file.read_bytes()[:8])
        assert length % 8 == 0
        assert json.loads(file.read_bytes()[8 : 8 + length])["__metadata__"] == {
            "format": "pt", "qlab_provenance": '{"a": 1}',
        }  # fmt: skip
        assert all(e.start % wanted[e.name].element_size() == 0 for e in held)
    assert (folder / "model.safetensors.index.json").exists() == (len(files) > 1)
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in merge_shards(parts, folder, limit, provenance='{"a": 1}')] == before


def test_large_tensors_are_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlab.files.shards.CHUNK", 7)
    save_file({"x": tensor(torch.int32, 100, 0)}, tmp_path / "part")
    (file,) = merge_shards([tmp_path / "part"], tmp_path)
    assert torch.equal(load_file(file)["x"], tensor(torch.int32, 100, 0))


def test_damaged_and_doubled_parts_are_named(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4)}, tmp_path / "a")
    save_file({"x": torch.ones(4)}, tmp_path / "b")
    with pytest.raises(QlabError, match="x stands in .*a and in .*b: remove one part"):
        merge_shards([tmp_path / "a", tmp_path / "b"], tmp_path)
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-3])
    with pytest.raises(QlabError, match="b ends before byte"):
        merge_shards([tmp_path / "b"], tmp_path)
    (tmp_path / "b").write_bytes(b"12345678{")
    with pytest.raises(QlabError, match="b is no safetensors file: .* write it again"):
        merge_shards([tmp_path / "b"], tmp_path)
    with pytest.raises(QlabError, match="the parts are empty"):
        merge_shards([], tmp_path)


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(QlabError, match="no safetensors file and neither"):
        shard_files(tmp_path)
    (tmp_path / "gptq_model-4bit.safetensors").touch()
    assert shard_files(tmp_path) == [tmp_path / "gptq_model-4bit.safetensors"]
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(QlabError, match="2 safetensors files and neither"):
        shard_files(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert shard_files(tmp_path) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(QlabError, match="damaged index: .*copy or download it again"):
        shard_files(tmp_path)
