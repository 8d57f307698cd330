"""Configs from GGUF's keys: what is missing, hostile or of a kind that is not read is named."""

import pytest
import torch

from qlab.errors import QlabError
from qlab.ggml.configs import config_of, with_rope_factors

KEYS = {
    "general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 64, "llama.context_length": 128,
    "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
SHAPES = {"token_embd.weight": (32, 64), "blk.0.attn_q.weight": (64, 64)}


def test_llama_cpps_defaults_stand_where_a_key_is_missing():
    config = config_of(KEYS, SHAPES)
    assert (config.num_key_value_heads, config.head_dim, config.rope_parameters["rope_theta"]) == (4, 16, 10000.0)
    assert config.tie_word_embeddings and config.vocab_size == 32 and not config.attention_bias
    assert not config_of(KEYS, SHAPES | {"output.weight": (32, 64)}).tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "dragon"}, "its architecture is dragon: qlab reads llama, qwen2"),
        ({"llama.embedding_length": None}, "lacks the key llama.embedding_length"),
        ({"llama.block_count": 2**31}, "block_count is 2147483648: no model is built so"),
        ({"llama.block_count": 7}, "block_count is 7, it has the tensors of 1 blocks"),
        ({"llama.attention.head_count": 0}, "head_count is 0: no model is built so"),
        ({"llama.attention.head_count_kv": torch.tensor([2, 4])}, "differs from layer to layer"),
        ({"llama.rope.scaling.type": "longrope"}, "rope scaling is 'longrope'"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    keys = {key: value for key, value in (KEYS | change).items() if value is not None}
    with pytest.raises(QlabError, match=message):
        config_of(keys, SHAPES)


def test_a_file_without_an_embedding_is_no_model():
    with pytest.raises(QlabError, match=r"no token_embd.weight"):
        config_of(KEYS, {"blk.0.attn_q.weight": (64, 64)})


def test_factors_that_are_not_llama_3_1s_are_refused():
    with pytest.raises(QlabError, match="not Llama 3.1's scaling"):
        with_rope_factors(config_of(KEYS, SHAPES), torch.linspace(1, 8, 8))
