"""Memory estimates against published parameter counts and hand arithmetic."""

import json

import pytest
from transformers import (
    BertConfig,
    DeepseekV3Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    Qwen2Config,
    T5Config,
)

from qlab.errors import QlabError
from qlab.memory import RUNTIME_BYTES, estimate, kv_bytes, weights_bytes
from qlab.recipes import Recipe, Rule
from qlab.spec import QuantSpec

LLAMA_2_7B = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
LLAMA_3_1_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
LLAMA_2_13B = LlamaConfig(
    vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
)
QWEN2_5_32B = Qwen2Config(
    vocab_size=152064,
    hidden_size=5120,
    intermediate_size=27648,
    num_hidden_layers=64,
    num_attention_heads=40,
    num_key_value_heads=8,
)
TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize(
    ("config", "params", "kib_per_token", "awq_gb"),
    [
        (LLAMA_2_7B, 6_738_415_616, 512, 3.9),
        (LLAMA_3_1_8B, 8_030_261_248, 128, 5.7),
        (LLAMA_2_13B, 13_015_864_320, 800, 7.2),
        (QWEN2_5_32B, 32_763_876_352, 256, 19.3),
    ],
)
def test_published_models(config, params, kib_per_token, awq_gb):
    """Parameter counts of the model cards; AWQ sizes with 16-bit embeddings, to the digit they are quoted with."""
    result = estimate(config, "int4-g128-awq", context=4096)
    assert result.params == params
    assert result.kv_bytes_per_token == kib_per_token * 1024
    assert round(result.weights_bytes / 1e9, 1) == awq_gb


def test_4k_tokens_of_kv_cache_for_7b():
    assert estimate(LLAMA_2_7B).kv_bytes == 4096 * 512 * 1024 == kv_bytes(32, 32, 128, 4096)


def test_the_briefs_7b_sizes():
    """About 14 GB in 16 bits, 3.5 GB at a bare 4 bits."""
    assert weights_bytes(7e9, 16) == 14e9
    assert weights_bytes(7e9, 4) == 3.5e9


def test_parts_by_hand():
    """2 layers of q, k, v, o (32×32) and gate, up, down (32×64); embeddings and head 96×32; 5 norms of 32."""
    result = estimate(LlamaConfig(**TINY), "int4-g32-asym", context=10, batch=3, kv_bits=8)
    assert result.linear_params == 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert result.embedding_params == 2 * 96 * 32
    assert result.other_params == 5 * 32
    # each group of 32: 32 codes of 4 bits, an fp16 scale and a 4-bit zero
    assert result.linear_bytes == result.linear_params * (4 + 20 / 32) / 8
    assert result.kv_bytes == 2 * 2 * 32 * 10 * 3
    assert result.total_bytes == result.weights_bytes + result.kv_bytes + RUNTIME_BYTES


def test_ragged_groups_cost_what_the_spec_says():
    """576 is not a multiple of 128: five groups a row, not four and a half."""
    config = LlamaConfig(**TINY | {"hidden_size": 576, "intermediate_size": 576, "num_attention_heads": 9})
    result = estimate(config, "int4-g128-asym")
    assert result.linear_bytes * 8 / result.linear_params == 4 + 5 * 20 / 576
    assert QuantSpec.parse("int4-g128-asym").bits_per_weight((576, 576)) == 4 + 5 * 20 / 576


def test_tied_embeddings_count_once():
    tied = estimate(LlamaConfig(**TINY, tie_word_embeddings=True))
    assert tied.embedding_params == 96 * 32


def test_without_a_spec_every_weight_has_16_bits():
    result = estimate(LlamaConfig(**TINY))
    assert result.bits_per_weight == 16
    assert result.weights_bytes == 2 * result.params


def test_explicit_head_dim():
    config = LlamaConfig(**TINY, head_dim=16, num_key_value_heads=2)
    assert estimate(config).kv_bytes_per_token == 2 * 2 * 2 * 16 * 2


def test_a_recipe_decides_by_layer():
    skip, rest = Rule("lm_head", skip="kept"), Rule("*", QuantSpec.parse("int4-g32-asym"))
    first = Rule("model.layers.0.*", QuantSpec.parse("int8-g32-asym"))
    result = estimate(LlamaConfig(**TINY), Recipe("mixed", (skip, first, rest)))
    eight, four = (estimate(LlamaConfig(**TINY), spec).linear_bytes for spec in ("int8-g32-asym", "int4-g32-asym"))
    assert result.spec == "mixed"
    assert result.linear_bytes == (eight + four) / 2


@pytest.mark.parametrize("tied", [False, True])
def test_a_quantized_head_stands_beside_the_embeddings(tied):
    result = estimate(
        LlamaConfig(**TINY, tie_word_embeddings=tied), Recipe("all", (Rule("*", QuantSpec.parse("int8-row-sym")),))
    )
    head = 96 * 32 * QuantSpec.parse("int8-row-sym").bits_per_weight((96, 32)) / 8
    assert result.embedding_bytes == 96 * 32 * 2 + head


def test_fused_experts_are_linears():
    config = MixtralConfig(**TINY, num_key_value_heads=4, num_local_experts=3)
    result = estimate(config, "int4-g32-asym")
    attention, experts = 2 * 4 * 32 * 32, 2 * 3 * 3 * 32 * 64
    assert result.linear_params == attention + experts
    assert any("experts" in note for note in result.notes)


def test_sliding_layers_stop_growing():
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**TINY, head_dim=8, num_key_value_heads=1, sliding_window=16, layer_types=kinds)
    per_layer = 2 * 8 * 2
    assert estimate(config, context=10).kv_bytes == 2 * per_layer * 10
    assert estimate(config, context=100).kv_bytes == per_layer * (16 + 100)


def test_layers_that_share_a_cache_store_none():
    config = LlamaConfig(**TINY)
    config.num_kv_shared_layers = 1
    assert estimate(config).kv_bytes_per_token == 2 * 32 * 2


def test_mla_caches_the_latent():
    config = DeepseekV3Config(
        **TINY, kv_lora_rank=24, qk_rope_head_dim=8, num_key_value_heads=4, n_routed_experts=8, moe_intermediate_size=16
    )
    assert estimate(config).kv_bytes_per_token == 2 * (24 + 8) * 2


def test_multimodal_config_counts_its_text_decoder():
    text = Gemma3TextConfig(**TINY, head_dim=8, num_key_value_heads=1)
    whole = Gemma3Config(text_config=text, vision_config={"num_hidden_layers": 1, "hidden_size": 16})
    assert estimate(whole).params == estimate(text).params
    assert any("text decoder" in note for note in estimate(whole).notes)


@pytest.mark.parametrize(
    ("config", "spec", "culprit"),
    [
        (T5Config(), None, "t5"),
        (MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=64), None, "mamba"),
        (GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64), "int4-g32-asym", "gpt2"),
        (LlamaConfig(**TINY), "int4-g128-asym", "group size 128"),
        (LlamaConfig(**TINY), "int4-banana", "banana"),
    ],
)
def test_bad_input_names_the_culprit(config, spec, culprit):
    with pytest.raises(QlabError, match=culprit) as error:
        estimate(config, spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"context": 0}, {"batch": -1}, {"kv_bits": 0}])
def test_sizes_must_be_positive(bad):
    with pytest.raises(QlabError, match=next(iter(bad))):
        estimate(BertConfig(), **bad)


def test_to_dict_is_json_with_the_totals():
    result = estimate(LlamaConfig(**TINY), "int4-g32-asym")
    data = json.loads(json.dumps(result.to_dict()))
    assert data["total_bytes"] == result.total_bytes
    assert data["spec"] == "int4-g32-asym"


def test_table_adds_up_to_the_total():
    result = estimate(LlamaConfig(**TINY))
    assert sum(row["size_bytes"] for row in result.table()) == result.total_bytes
    assert sum(row.get("params", 0) for row in result.table()) == result.params
