"""QLinear on the GPU kernels, which run on CPU tensors here, in Triton's interpreter; and why there are none."""

import warnings
from dataclasses import replace

import pytest
import torch
from ggml.tiny import byte_level
from interpreted import interpreter, interpreting  # noqa: F401 (a fixture)
from qtensors import made, size
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from qlab import gpu
from qlab.convert import to_gguf_file
from qlab.errors import QlabError
from qlab.from_gguf import model_from_gguf
from qlab.generate import generate
from qlab.gpu import TritonWeights, pack_for_gpu, warn_of, why_not_on
from qlab.methods import quantize
from qlab.models import LoadedModel, load
from qlab.nn import QLinear, pack_on_gpu, packed_bytes, paths, stored_as
from qlab.spec import QuantSpec

with interpreting():
    triton = gpu.kernels()


@pytest.fixture
def everywhere(monkeypatch):
    """As if the CPU were a GPU, which in the interpreter it is."""
    monkeypatch.setattr("qlab.nn.why_not_on", lambda device: None)


SPECS = (
    "int4-g128-sym", "int4-g64-asym", "int3-row-sym", "int8-g32-asym", "int2-g64-asym", "int1-g32-sym",
    "int4-tensor-sym", "nf4-g64", "nf4-g64-dq", "q4_0", "q4_1", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "q3_k",
    "q2_k", "iq4_nl", "mxfp4", "tq2_0",
)  # fmt: skip
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "vocab_size": 384, "max_position_embeddings": 128, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
W = 0.05 * torch.randn(48, 256, generator=torch.Generator().manual_seed(0))


def inputs(tokens, columns=256):
    return torch.randn(tokens, columns, generator=torch.Generator().manual_seed(1)).half()


@pytest.mark.parametrize("spec", SPECS)
def test_the_packed_weights_are_the_tensor_s(spec):
    Q = quantize(W, spec)
    found = pack_for_gpu(Q).dequantize().double()
    # scale, zero, and the weight itself are rounded to float16: three times half a unit, of terms as large as |size|
    assert ((found - Q.dequantize(torch.float64)).abs() <= 3 * 2**-11 * size(Q) + 2**-24).all()


@pytest.mark.parametrize("spec", ["int4-g64-sym", "int4-g64-asym", "int3-row-sym", "int8-g32-asym"])
@pytest.mark.parametrize("order", [False, True])
def test_what_was_packed_comes_back(spec, order):
    Q = made(spec, 16, 128, order=order and "row" not in spec)
    back = pack_for_gpu(Q).qtensor()
    assert torch.equal(back.codes, Q.codes) and torch.equal(back.dequantize(), Q.dequantize())
    assert back.bits_stored == Q.bits_stored and back.spec == Q.spec


def test_rounded_scales_do_not_come_back():
    with pytest.raises(QlabError, match=r"scales of q4_k were rounded to torch.float16"):
        pack_for_gpu(quantize(W, "q4_k")).qtensor()
    with pytest.raises(QlabError, match=r"scales of int4-tensor-sym were laid out by rows"):
        pack_for_gpu(quantize(W, "int4-tensor-sym")).qtensor()


def test_a_packed_layer_that_was_moved_to_the_cpu_says_what_to_do(monkeypatch):
    layer = QLinear(pack_for_gpu(quantize(W, "int4-g64-sym"))).to("cpu")
    monkeypatch.setattr(triton.device, "INTERPRETED", False)
    with pytest.raises(QlabError, match="packed for a GPU, its input is on the CPU: move model and input to the GPU"):
        layer(inputs(1))


REFUSED = [
    ("int4-g8-sym", "group 8 with K = 256"),
    ("int4-g96-sym", "groups of 96 do not divide rows of 256"),
    ("e4m3-g32-sym", "256 levels of e4m3 are neither evenly spaced nor 16"),
]


@pytest.mark.parametrize(("spec", "reason"), REFUSED)
def test_what_has_no_kernel_says_why(spec, reason):
    with pytest.raises(QlabError, match=reason):
        pack_for_gpu(quantize(W, spec))


def test_scales_that_float16_cannot_hold_are_refused():
    Q = quantize(W * 1e-6, "int4-g64-sym-fp32")
    with pytest.raises(QlabError, match="a scale is below the numbers of float16"):
        pack_for_gpu(Q)
    assert pack_for_gpu(Q, torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(QlabError, match="not finite in torch.float16"):
        pack_for_gpu(quantize(W * 1e8, "int4-g64-sym-fp32"))
    with pytest.raises(QlabError, match="inputs are float32"):
        pack_for_gpu(Q, torch.float32)


@pytest.mark.parametrize("spec", ["int4-g128-sym", "int4-g32-asym", "nf4-g64"])
@pytest.mark.parametrize("tokens", [1, 5])
def test_the_layer_multiplies_by_w_hat(spec, tokens, everywhere):
    layer = QLinear(quantize(W, spec), bias=torch.arange(48.0))
    assert layer.pack_on_gpu(torch.device("cpu"), torch.float16) is None
    assert layer.path == "triton"
    X = inputs(tokens)
    wanted = X.double() @ layer.W_hat(torch.float64).T + torch.arange(48.0)
    terms = X.double().abs() @ layer.W_hat(torch.float64).abs().T
    got = layer(X[None])
    assert got.shape == (1, tokens, 48) and got.dtype == torch.float16
    # weights and the sum are rounded to half a unit each, then the sum with the bias
    assert ((got[0] - wanted).abs() <= 2**-11 * (terms + 2 * wanted.abs() + 48)).all()


def test_a_model_is_packed_and_says_so(everywhere):
    model = nn.Sequential(QLinear(quantize(W, "int4-g128-sym")), QLinear(quantize(W[:, :48], "int4-g8-sym")))
    before = packed_bytes(model), stored_as(model)
    left = pack_on_gpu(model, torch.device("cpu"), torch.float16)
    assert list(left) == ["1"] and "has no GPU kernel" in left["1"]
    assert paths(model) == "1 linears by triton, 1 by torch"
    assert (packed_bytes(model), stored_as(model)) == before


def test_inputs_of_another_dtype_are_refused(everywhere):
    layer = QLinear(quantize(W, "int4-g128-sym"))
    layer.pack_on_gpu(torch.device("cpu"), torch.float16)
    with pytest.raises(QlabError, match=r"packed for torch.float16 inputs on cpu, the input is torch.float32"):
        layer(inputs(1).float())


def test_the_operator_is_a_good_citizen():
    for spec in ("int4-g64-asym", "nf4-g64"):
        W_ = pack_for_gpu(quantize(W, spec)).weights
        parts = (W_.codes, W_.params, W_.codebook, W_.order, W_.table)
        args = (inputs(3), *parts, W_.bits, W_.shape[1], W_.group, W_.has_zero, True)
        torch.library.opcheck(torch.ops.qlab.multiply_gpu, args, test_utils=("test_schema", "test_faketensor"))


def test_the_compiler_sees_one_graph(everywhere, monkeypatch):
    """Its shares are added without counters, which would outlive the call; the numbers are the same."""
    seen, real = [], triton.multiply

    def multiply(X, weights, deterministic):
        seen.append(deterministic)
        return real(X, weights, deterministic=deterministic)

    monkeypatch.setattr(triton, "multiply", multiply)
    model = nn.Sequential(QLinear(quantize(W, "int4-g128-sym")), nn.SiLU(), nn.Linear(48, 8).half())
    pack_on_gpu(model, torch.device("cpu"), torch.float16)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(inputs(2)), model(inputs(2)))
    assert seen == [True, False]


def test_moving_a_model_moves_its_codes_and_keeps_their_dtypes():
    layer = QLinear(quantize(W, "int4-g64-asym"), bias=torch.ones(48)).half()
    assert layer.bias.dtype == torch.float16 and layer.weight_.codes.dtype == torch.uint8
    moved = layer.to("meta").weight_
    assert {t.device.type for t in (moved.codes, moved.scale, moved.zero)} == {"meta"}
    packed = QLinear(pack_for_gpu(quantize(W, "nf4-g64"))).to("meta")
    assert isinstance(packed.weight_, TritonWeights) and packed.weight_.device.type == "meta"


def test_without_a_gpu_the_reason_is_told(monkeypatch):
    assert why_not_on(torch.device("cpu")) == "the GPU kernels run on CUDA devices, this is cpu"
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not_on(cuda) == "there is no CUDA GPU here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "another maker" in why_not_on(cuda)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    assert why_not_on(cuda).startswith("T4 has compute capability 7.5: the GPU kernels need 8.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert why_not_on(cuda) is None
    gone = replace_available(monkeypatch)
    assert why_not_on(cuda) == gone


def replace_available(monkeypatch):
    monkeypatch.setattr(triton, "available", False)
    monkeypatch.setattr(triton, "missing", "Triton is not here: install it")
    return triton.missing


def test_a_layer_left_to_torch_warns_once_and_multiplies(monkeypatch):
    layer = QLinear(quantize(W, "int4-g8-sym"))
    monkeypatch.setattr("qlab.nn.why_not_on", lambda device: None)
    with pytest.warns(RuntimeWarning, match="int4-g8-sym has no GPU kernel"):
        layer._meet_gpu(torch.device("cpu"), torch.float16)
    assert torch.equal(layer(inputs(2)), nn.functional.linear(inputs(2), layer.W_hat(torch.float16)))
    assert torch.float16 in layer._left_to_torch  # and is not tried again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(inputs(2))


def test_spec_with_a_zero_scale_under_a_minimum_is_refused():
    Q = quantize(W, "q4_1")
    flat = replace(Q, scale=torch.zeros_like(Q.scale))
    with pytest.raises(QlabError, match="a group with a minimum has scale 0"):
        pack_for_gpu(flat)
    assert QuantSpec.parse("q4_1") == Q.spec


def test_loading_for_a_gpu_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QlabError, match="there is no CUDA GPU here: use the device cpu"):
        load("nowhere", device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(QlabError, match="multiply float16 or bfloat16, not torch.float32"):
        load("nowhere", device="cuda", packed=True)
    with pytest.raises(QlabError, match="activations int8 are those of the CPU kernels: on a GPU use float"):
        load("nowhere", device="cuda", packed=True, activations="int8", dtype=torch.float16)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random llama as a GGUF file: Q4_0 linears, float embedding and norms."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model("llama", **SMALL)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    to_gguf_file(str(folder), folder / "model.gguf", "Q4_0", progress=False)
    return folder / "model.gguf"


def test_a_model_generates_on_the_kernels(tiny, everywhere):
    model, tokenizer = model_from_gguf(tiny, torch.float16, packed=True, codes=True)
    model.eval()
    ids = torch.tensor([[5, 9, 17, 33]])
    with torch.no_grad():
        wanted = model(ids).logits
        left = pack_on_gpu(model, torch.device("cpu"), torch.float16)
        got = model(ids).logits
    assert not left and paths(model).startswith("15 linears by triton")  # the head too
    # both compute in float16, in another order: two layers of a few roundings each
    assert (got - wanted).abs().max() <= 2**-7 * wanted.abs().max()
    told, pieces = generate(LoadedModel(model, tokenizer, "tiny"), "abc", tokens=3)
    "".join(pieces)
    assert told.path == "torch" and 1 <= len(told.ids) <= 3


def test_reasons_are_told_once_each():
    with pytest.warns(RuntimeWarning) as caught:
        warn_of("model", {"a": "no kernel", "b": "no kernel", "c": "too old"})
    assert [str(w.message) for w in caught] == [
        "model: 2 linears are not packed: no kernel", "model: 1 linears are not packed: too old",
    ]  # fmt: skip
