"""Opening models, and every way in which one can be broken."""

import json
import socket
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qlab.errors import QlabError
from qlab.from_gguf import quiet
from qlab.models import load, load_config


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny whole checkpoint, as save_pretrained writes it."""
    config = LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=4, head_dim=4,
    )  # fmt: skip
    with quiet():
        LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
        vocabulary = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, unk_token="?"))
        PreTrainedTokenizerFast(tokenizer_object=vocabulary).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_opens_frozen_in_eval_mode(folder, capfd):
    loaded = load(folder)
    assert loaded.name == str(folder)
    assert not loaded.model.training and loaded.model.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer("a")["input_ids"] == [0]
    assert capfd.readouterr() == ("", "")


def test_dtype_is_the_one_asked_for(folder):
    assert load(str(folder), dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_the_reference_opens_by_name():
    loaded = load("reference")
    assert loaded.model.dtype == torch.float32 and loaded.name == "reference"
    assert load_config("reference").hidden_size == loaded.model.config.hidden_size == 576


def test_config_from_folder_or_file(folder):
    assert load_config(folder).hidden_size == load_config(folder / "config.json").hidden_size == 8


def edit_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def drop_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def name_shard(folder: Path) -> None:
    index = {"weight_map": {"x": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json; give a folder"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), r"cannot read the config: .*config.json"),
    "foreign code": (lambda f: edit_config(f, model_type="dragon"), r"dragon.*runs no code from folders"),
    "a classifier": (
        lambda f: edit_config(f, architectures=["LlamaForSequenceClassification"]),
        "not a causal language model: .* holds LlamaForSequenceClassification",
    ),
    "an encoder": (
        lambda f: (f / "config.json").write_text(BertConfig(architectures=["BertForMaskedLM"]).to_json_string()),
        "not a causal language model: .* holds BertForMaskedLM",
    ),
    "weights cut off": (lambda f: cut(f / "model.safetensors"), r"damaged weights: .*model.safetensors: .*again"),
    "shard missing": (name_shard, r"damaged weights: .*model-00002-of-00002.safetensors"),
    "bad index": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "damaged index: "),
    "tensor missing": (drop_tensor, r"incomplete checkpoint: .* lacks model.norm.weight;"),
    "pickled": (pickled, "pickled weights are not opened.*convert it to safetensors"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights in .*needs model.safetensors"),
    "only a GGUF": (
        lambda f: (f / "model.safetensors").rename(f / "m.gguf"),
        r"to open its GGUF give the file: .*m.gguf",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "transformers cannot load .*: .*check its files"),
    "wrong width": (
        lambda f: edit_config(f, intermediate_size=24),
        r"disagree: .*: model\.layers\.0\.mlp\.down_proj\.weight is \(8, 16\) where .* \(8, 24\)",
    ),
}


@pytest.mark.parametrize(("break_it", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_one_clear_line(folder, break_it, message):
    break_it(folder)
    with pytest.raises(QlabError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("opener", [load, load_config])
def test_missing_folder(opener, tmp_path):
    with pytest.raises(QlabError, match=r"model does not exist: .*nowhere; give a Hugging Face folder"):
        opener(tmp_path / "nowhere")


@pytest.mark.parametrize("opener", [load, load_config])
def test_hub_without_network_says_what_to_do(opener, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(QlabError, match=r"no-one/no-model: .*local folder.*reference, reference-768") as error:
        opener("no-one/no-model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opener", [load, load_config])
def test_a_silent_hub_is_given_up_soon(opener, monkeypatch):
    monkeypatch.setattr("qlab.models.HUB_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(QlabError, match=r"no-one/no-model: http://127.* does not answer; check the spelling"):
            opener("no-one/no-model")
    assert time.monotonic() - started < constants.HF_HUB_ETAG_TIMEOUT  # the hub's own client waits that long, six times


def test_a_misspelt_built_in_name_lists_the_built_ins(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(QlabError, match="refrence: .*built-in model .reference, reference-768"):
        load("refrence")
