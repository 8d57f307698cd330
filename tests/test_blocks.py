"""Blocks: the stream gives every block exactly what the whole model would have given it."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, PhiConfig, Qwen3Config

from qlab import blocks as blocks_module
from qlab.blocks import BlockStream, decoder_blocks
from qlab.errors import QlabError

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2),
    "mistral, sliding": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8),
    "gemma": GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8),
    "phi": PhiConfig(**SIZES),
}
IDS = torch.randint(0, 64, (3, 12), generator=torch.Generator().manual_seed(1))


def tiny(config: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval().double()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_inputs_equal_those_of_the_whole_model(config: object) -> None:
    model = tiny(config)
    stream = BlockStream(model, IDS)
    with torch.no_grad():
        states = [model(input_ids=row[None], output_hidden_states=True).hidden_states for row in IDS]
    for i in range(3):
        for row, hidden in enumerate(torch.cat(stream.hidden)):
            assert torch.allclose(hidden, states[row][i][0], rtol=0, atol=1e-12)
        stream.advance(i)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_statistics_equal_those_of_the_whole_model(config: object) -> None:
    model = tiny(config)
    _, blocks = decoder_blocks(model)
    names = [n for n, m in blocks[1].named_modules() if isinstance(m, nn.Linear)]
    seen: dict[str, list] = {n: [] for n in names}
    for n in names:
        blocks[1].get_submodule(n).register_forward_pre_hook(lambda _, a, n=n: seen[n].append(a[0]))
    with torch.no_grad():
        for row in IDS:
            model(input_ids=row[None])
    kept = {n: torch.cat([X.reshape(-1, X.shape[-1]) for X in parts]) for n, parts in seen.items()}
    stream = BlockStream(model, IDS)
    stream.advance(0)
    for name, stats in stream.observe(1, names).items():
        assert stats.tokens == IDS.numel()
        assert torch.allclose(stats.gram, kept[name].T @ kept[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_batches_change_nothing(config: object, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BlockStream(tiny(config), IDS)
    monkeypatch.setattr(blocks_module, "BATCH_TOKENS", 24)  # two samples, then the one left over
    parts = BlockStream(tiny(config), IDS)
    assert [len(h) for h in parts.hidden] == [2, 1] and len(whole.hidden) == 1
    for i in range(2):
        whole.advance(i)
        parts.advance(i)
    assert torch.allclose(torch.cat(parts.hidden), torch.cat(whole.hidden), rtol=0, atol=1e-12)


def test_linears_fed_by_one_tensor_share_statistics() -> None:
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"]
    q, k, o, gate, up = BlockStream(tiny(CONFIGS["llama"]), IDS).observe(0, names).values()
    assert q is k and gate is up and len({id(s) for s in (q, o, gate)}) == 3


def test_the_float_path_measures_what_the_changed_blocks_took_away() -> None:
    model = tiny(CONFIGS["llama"])
    stream = BlockStream(model, IDS, float_path=True)
    assert (stream.observe(0, ["self_attn.q_proj"], cross=True)["self_attn.q_proj"].cross == 0).all()
    stream.blocks[0].mlp.down_proj.weight.data.mul_(0.5)
    stream.advance(0)
    stats = stream.observe(1, ["self_attn.q_proj"], cross=True)["self_attn.q_proj"]
    assert stats.cross.abs().max() > 0


def test_the_model_is_left_as_it_was() -> None:
    model = tiny(CONFIGS["llama"])
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        BlockStream(model, IDS).observe(0, ["self_attn.q_proj"])
        assert torch.equal(model(input_ids=IDS).logits, before)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_nan_in_the_activations_names_the_layer() -> None:
    model = tiny(CONFIGS["llama"])
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    stream = BlockStream(model, IDS)
    stream.advance(0)
    with pytest.raises(QlabError, match=r"the input of model\.layers\.1\.self_attn\.q_proj holds NaN"):
        stream.observe(1, ["self_attn.q_proj"])


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(QlabError, match="no list of blocks"):
        decoder_blocks(nn.Sequential(nn.Linear(2, 2)))
