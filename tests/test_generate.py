"""Text from packed models: the C++ block is torch's, a long prompt is its tokens one by one, a stream is its text."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ggml.tiny import LLAMA3, byte_level, sentencepiece
from qlab.kernels import cpu
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from qlab.cli import app
from qlab.convert import to_gguf_file
from qlab.errors import QlabError
from qlab.generate import Generation as Told
from qlab.generate import PackedDecoder, TorchDecoder, _written, decoder, generate, why_not_packed
from qlab.models import load, open_lazily
from qlab.nn import FloatLinear, QEmbedding, QLinear
from qlab.recipes import Recipe
from qlab.streamed import Conversion

SMALL = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "vocab_size": 384, "max_position_embeddings": 512, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama, rope of 3.1": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "llama, one kv head": (
        "llama",
        {"hidden_size": 96, "num_key_value_heads": 1, "num_attention_heads": 6, "head_dim": 32},
    ),
    "mistral": ("mistral", {"tie_word_embeddings": False, "sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A packed random model of a family, through a GGUF file in Q8_0; norms and biases random too."""
    made = {}

    def of(family, **more):
        key = (family, *more.items())
        if key not in made:
            kind, own = FAMILIES[family]
            folder = tmp_path_factory.mktemp("model")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                config = AutoConfig.for_model(kind, **SMALL | own | more)
                float_ = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
                for name, p in float_.named_parameters():
                    if p.ndim == 1:
                        p.data.add_(torch.randn_like(p), alpha=0.2)
                    elif "embed" not in name:
                        p.data.mul_(5)  # the usual 0.02 would leave attention without a say
            float_.save_pretrained(folder)
            byte_level().save_pretrained(folder)
            to_gguf_file(str(folder), folder / "model.gguf", "Q8_0", progress=False)
            made[key] = load(folder / "model.gguf", packed=True, activations="int8")
        return made[key]

    return of


def ids_of(n, seed=0):
    return torch.randint(3, 340, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_block_is_torchs(model, family):
    """One layer, so that no difference is multiplied by a second one's rounding.

    The two differ where float32 sums are ordered otherwise: an input near the middle between two codes is then rounded
    to the other, which moves it by a step, 1/127 of the largest of its block, where rounding moves every input by up
    to half of that. So both stay within what rounding the inputs does at all, and most logits agree to float32.
    """
    loaded = model(family)
    assert why_not_packed(loaded.model) is None and isinstance(decoder(loaded.model, 8), PackedDecoder)
    exact = load(loaded.name, packed=True, activations="float")
    close = 0
    for seed in range(5):
        ids = ids_of(40, seed)
        ours = PackedDecoder(loaded.model, 40).read(ids)
        torchs = TorchDecoder(loaded.model).read(ids)
        unrounded = TorchDecoder(exact.model).read(ids)
        error, rounding = (ours - torchs).norm(), (torchs - unrounded).norm()
        assert 0 < rounding < 0.1 * unrounded.norm()
        assert error <= rounding
        close += bool(error <= 1e-5 * torchs.norm())
    assert close >= 2  # without a flipped code nothing but the order of sums differs


@pytest.mark.parametrize("stored", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("tied", [True, False])
def test_floats_run_in_the_block_and_nothing_is_rounded(model, stored, tied, tmp_path):
    folder = Path(model("qwen2", tie_word_embeddings=tied).name).parent
    to_gguf_file(str(folder), tmp_path / "model.gguf", stored, progress=False)
    loaded = load(tmp_path / "model.gguf", packed=True)
    kinds = {m.weight_.format for m in loaded.model.modules() if isinstance(m, FloatLinear)}
    assert kinds == {{"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[stored]}
    assert why_not_packed(loaded.model) is None
    ids, exact = ids_of(40), load(tmp_path / "model.gguf")
    wanted = TorchDecoder(exact.model).read(ids)
    for found in (PackedDecoder(loaded.model, 40), TorchDecoder(loaded.model)):
        assert (found.read(ids) - wanted).norm() <= 1e-5 * wanted.norm()
    rounded = load(tmp_path / "model.gguf", packed=True, activations="llama.cpp")
    assert why_not_packed(rounded.model) == "llama.cpp rounds the inputs of float weights too"
    assert isinstance(decoder(rounded.model, 40), TorchDecoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_float_folder_runs_in_the_block_too(model, dtype, tmp_path):
    folder = Path(model("qwen3").name).parent
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    loaded, ids = load(tmp_path, packed=True, activations="int8"), ids_of(40)
    assert why_not_packed(loaded.model) is None and not any(isinstance(m, nn.Linear) for m in loaded.model.modules())
    wanted = TorchDecoder(load(tmp_path).model).read(ids)
    assert (PackedDecoder(loaded.model, 40).read(ids) - wanted).norm() <= 1e-5 * wanted.norm()


def renamed(folder, copy, rename):
    """A copy of a model's folder whose tensors have other names."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.gguf"))
    file = copy / "model.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    return copy


def test_a_tied_matrix_is_found_under_either_name(model, tmp_path):
    folder = Path(model("llama").name).parent
    head = renamed(folder, tmp_path / "head", lambda name: name.replace("model.embed_tokens", "lm_head"))
    loaded, ids = load(head, packed=True, activations="int8"), ids_of(9)
    assert why_not_packed(loaded.model) is None
    wanted = TorchDecoder(load(folder).model).read(ids)
    assert (PackedDecoder(loaded.model, 9).read(ids) - wanted).norm() <= 1e-5 * wanted.norm()


def test_a_folder_whose_tensors_have_other_names_is_left_to_transformers(model, tmp_path):
    folder = Path(model("llama").name).parent
    old = renamed(folder, tmp_path / "old", lambda name: name.removeprefix("model."))
    loaded = load(old, packed=True, activations="int8")
    assert why_not_packed(loaded.model) == "its embedding is not packed"
    ids = ids_of(9)
    wanted = TorchDecoder(load(folder).model).read(ids)
    # mapped from another place in another file: torch's sums may take another order
    assert (TorchDecoder(loaded.model).read(ids) - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "awq", "compressed-tensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_folder_runs_in_the_block_with_its_float_embedding(model, layout, dtype, tmp_path):
    folder = Path(model("llama", hidden_size=128, head_dim=32, intermediate_size=128).name).parent
    spec = "int4-g32-sym" if layout == "gptq" else "int4-g32-asym"
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path / "float")
    byte_level().save_pretrained(tmp_path / "float")
    source, _ = open_lazily(tmp_path / "float")
    Conversion(source, Recipe.of(spec, "rtn"), layout).run(tmp_path / "quantized", progress=False)
    loaded = load(tmp_path / "quantized", packed=True, activations="int8")
    assert why_not_packed(loaded.model) is None
    embedding = loaded.model.get_input_embeddings()
    assert isinstance(embedding, QEmbedding) and embedding.weight_ is loaded.model.get_output_embeddings().weight_
    ids = ids_of(40)
    ours, torchs = PackedDecoder(loaded.model, 40).read(ids), TorchDecoder(loaded.model).read(ids)
    unrounded = TorchDecoder(load(tmp_path / "quantized").model).read(ids)
    rounding = (torchs - unrounded).norm()
    assert 0 < rounding < 0.1 * unrounded.norm() and (ours - torchs).norm() <= rounding


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("isa", cpu.isas())
def test_token_by_token_is_all_at_once(model, family, isa):
    """To the bit: a token's sums do not depend on the tokens beside it. Of 300 tokens 256 go first."""
    loaded, ids = model(family, num_hidden_layers=2), ids_of(300)

    def logits(*parts):
        steps, found = PackedDecoder(loaded.model, 310)._model, torch.empty(384)
        for part in parts:
            steps.read(part, found, 2, isa)
        return found

    at_once = logits(ids)
    for cut in (1, 17, 256, 299):
        assert torch.equal(logits(ids[:cut], ids[cut:]), at_once)
    assert torch.equal(logits(*ids.split(1)), at_once)


def test_threads_do_not_change_a_bit(model):
    loaded, ids, threads = model("qwen2", num_hidden_layers=2), ids_of(70), torch.get_num_threads()
    try:
        found = []
        for n in (1, 2, 3, 5):
            torch.set_num_threads(n)
            found.append(PackedDecoder(loaded.model, 70).read(ids))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(logits, found[0]) for logits in found)


def test_the_decoder_refuses(model):
    steps = PackedDecoder(model("llama").model, 8)._model
    logits = torch.empty(384)
    with pytest.raises(ValueError, match="ids must be one row of at least one token"):
        steps.read(torch.empty(0, dtype=torch.int64), logits)
    with pytest.raises(IndexError, match="ids holds 384: the vocabulary has 384"):
        steps.read(torch.tensor([384]), logits)
    with pytest.raises(IndexError, match="ids holds -1"):
        steps.read(torch.tensor([-1]), logits)
    with pytest.raises(IndexError, match="9 tokens do not fit: the cache has room for 8"):
        steps.read(torch.arange(9), logits)
    with pytest.raises(ValueError, match="logits is"):
        steps.read(torch.arange(2), torch.empty(383))
    with pytest.raises(ValueError, match="threads is 0"):
        steps.read(torch.arange(2), logits, 0)
    with pytest.raises(TypeError, match="ids: "):
        steps.read(torch.arange(2).int(), logits)
    assert steps.past == 0  # what was refused was not read
    steps.read(torch.arange(5), logits)
    first = logits.clone()
    with pytest.raises(IndexError, match="past is 6: the cache holds 5"):
        steps.rewind(6)
    steps.rewind(2)
    steps.read(torch.arange(2, 5), logits)
    assert steps.past == 5 and torch.equal(logits, first)


@pytest.mark.parametrize(
    "prompt, more, message",
    [
        ("", {}, "the prompt is empty"),
        ("a", {"temperature": -0.1}, "temperature is -0.1"),
        ("a", {"temperature": float("nan")}, "temperature is nan"),
        ("a", {"temperature": float("inf")}, "temperature is inf"),
        ("a\udcff", {}, "the prompt is not text: surrogates not allowed at its character 1"),
        ("a", {"tokens": 0}, "tokens is 0: at least 1"),
        (600 * "1 ", {}, r"the prompt has \d+ tokens, the model reads 512 at most"),
    ],
)
def test_what_cannot_be_written_is_refused(model, prompt, more, message):
    with pytest.raises(QlabError, match=message):
        generate(model("llama"), prompt, **more)


def test_text_comes_as_it_is_written(model):
    loaded = model("llama")
    told, pieces = generate(loaded, "the weights of a model", tokens=20)
    text = "".join(pieces)
    assert text == loaded.tokenizer.decode(told.ids) and told.ended
    assert told.path.startswith("C++ block") and told.prompt == len(
        loaded.tokenizer("the weights of a model")["input_ids"]
    )
    assert told.prompt_per_second and told.prompt_seconds > 0
    again, pieces = generate(loaded, "the weights of a model", tokens=20)
    assert "".join(pieces) == text and again.ids == told.ids
    drawn = [generate(loaded, "the", tokens=12, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    texts = ["".join(pieces) for _, pieces in drawn]
    assert texts[0] == texts[1] != texts[2]


def test_the_coldest_draw_is_the_likeliest(model):
    (_, likeliest), *drawn = [generate(model("llama"), "the", 12, t) for t in (0.0, 1e-30, 1e-45, 1e-320)]
    text = "".join(likeliest)
    assert all("".join(pieces) == text for _, pieces in drawn)


def test_the_command_needs_no_stdout(model):
    qlab, name = [sys.executable, "-m", "qlab.cli", "generate"], model("llama").name
    run = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *qlab, name, "--prompt", "a", "--tokens", "2"], capture_output=True, text=True
    )
    assert run.returncode == 0 and "tokens/s" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize("command", [["bench", "cpu"], ["generate", "nowhere.gguf", "--prompt", "a"]])
@pytest.mark.parametrize("threads, message", [("0", "give a positive number"), ("100000", "more than 1024")])
def test_a_number_of_threads_that_openmp_does_not_survive_is_refused(command, threads, message):
    with pytest.raises(QlabError, match=f"--threads {threads}: {message}"):
        app([*command, "--threads", threads], standalone_mode=False)


def test_a_model_writes_to_its_last_position(model):
    loaded = model("llama", max_position_embeddings=32)
    told, pieces = generate(loaded, "1234", tokens=10_000, temperature=5.0)
    "".join(pieces)
    assert told.prompt + len(told.ids) <= 32


class Scripted:
    """A decoder whose likeliest tokens are given."""

    def __init__(self, ids):
        self.ids = iter(ids)

    def read(self, ids):
        return torch.nn.functional.one_hot(torch.tensor(next(self.ids)), 400).float()


def written(tokenizer, ids, eos=None):
    """The pieces of text that come of those tokens."""
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=eos))
    told = Told("test", 1)
    tokens = len(ids)
    return told, list(
        _written(SimpleNamespace(tokenizer=tokenizer, model=model), Scripted(ids), told, ids_of(1), tokens, 0.0, 0)
    )


@pytest.mark.parametrize("tokenizer", [byte_level(), sentencepiece(False)], ids=["byte-level", "byte fallback"])
@pytest.mark.parametrize("text", ["é", "the 中文 of", "🙂🙂 1234 é", "a\u0301 ∑ x"])
def test_no_half_characters(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(text.split())
    told, pieces = written(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == text and told.ids == ids
    assert not any("\ufffd" in piece for piece in pieces)
    # cut within a character, the rest is told at the end, as a whole
    _, pieces = written(tokenizer, ids[:-1])
    assert "".join(pieces) == tokenizer.decode(ids[:-1])
    assert not any("\ufffd" in piece for piece in pieces[:-1])


@pytest.mark.parametrize("eos", [2, [7, 2]])
def test_the_model_ends_its_text(eos):
    tokenizer = byte_level()
    ids = tokenizer("the theme")["input_ids"]
    told, pieces = written(tokenizer, [*ids, 2, 5, 5], eos)
    assert told.ids == ids and "".join(pieces) == "the theme" and told.ended == "the model ended its text"
    told, _ = written(tokenizer, ids, eos)
    assert told.ended == "the number of tokens asked for"
    told, _ = written(tokenizer, [2], eos)
    assert told.ids == [] and told.tokens_per_second is None


OTHERS = [
    ("gemma", {}, "gemma is not of the llama family"),
    ("mistral", {"sliding_window": 16}, "its attention slides over a window"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, "slides over a window"),
    ("llama", {"hidden_act": "gelu"}, "its blocks are not built as llama's"),
    ("llama", {"head_dim": 8}, "its blocks are not built as llama's"),
    ("llama", {}, "its embedding is not packed"),
]


@pytest.mark.parametrize("kind, more, why", OTHERS, ids=[why for *_, why in OTHERS])
def test_other_models_say_why_and_write_through_torch(kind, more, why):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        float_ = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | more)).eval()
    assert why in why_not_packed(float_)
    loaded = SimpleNamespace(model=float_, tokenizer=byte_level())
    told, pieces = generate(loaded, "the theme", tokens=4)
    assert told.path == "torch" and "".join(pieces) == loaded.tokenizer.decode(told.ids)


def test_one_linear_that_is_not_packed_is_named(model):
    loaded = load(model("llama").name, packed=True, activations="int8")
    linear = loaded.model.model.layers[0].mlp.up_proj
    loaded.model.model.layers[0].mlp.up_proj = QLinear(linear.qtensor, inputs="int8")
    assert why_not_packed(loaded.model) == "model.layers.0.mlp.up_proj is not packed (1 linears in all)"
    assert isinstance(decoder(loaded.model, 4), TorchDecoder)
