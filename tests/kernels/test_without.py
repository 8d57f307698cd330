"""Without the compiled kernels: every module imports, torch does the work, and it is said once."""

import json
import os
import subprocess
import sys

import pytest
import torch
from ggml.tiny import byte_level
from transformers import AutoConfig, AutoModelForCausalLM

from qlab.convert import to_gguf_file
from qlab.evaluate import evaluate
from qlab.models import load, open_lazily
from qlab.recipes import Recipe
from qlab.streamed import Conversion

MISSING = "the compiled kernels are not here (QLAB_NO_KERNELS is set)"
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "vocab_size": 384, "max_position_embeddings": 512, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A .gguf file in Q8_0 and a GPTQ folder."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL), dtype=torch.float32)
    model.save_pretrained(folder / "float")
    byte_level().save_pretrained(folder / "float")
    to_gguf_file(str(folder / "float"), folder / "model.gguf", "Q8_0", progress=False)
    source, _ = open_lazily(folder / "float")
    Conversion(source, Recipe.of("int4-g32-asym", "rtn"), "gptq_v2").run(folder / "gptq", progress=False)
    return str(folder / "model.gguf"), str(folder / "gptq")


@pytest.fixture(scope="module")
def told(root, models):
    run = subprocess.run(
        [sys.executable, root / "tests" / "data" / "without_kernels.py", *models],
        env={**os.environ, "QLAB_NO_KERNELS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_importing_everything_says_it_once(told):
    (said,) = told["imported"]
    assert said.startswith(f"qlab: {MISSING}: torch does their work") and "Install a C++ compiler" in said
    assert told["offered"] == [False, {}, [], [], []]
    assert told["packed and back"]


def test_what_needs_the_kernels_says_so(told):
    assert len(told["refused"]) == 5 and all(MISSING in said for said in told["refused"])
    tile, ceiling, *_ = told["refused"]
    assert "int4-g32-asym has no CPU kernel" in tile and "read ceiling needs" in ceiling


@pytest.mark.parametrize("which, inputs", [(0, "float"), (0, "int8"), (0, "llama.cpp"), (1, "float"), (1, "int8")])
def test_a_packed_load_keeps_codes_and_says_so(told, models, which, inputs):
    name = models[which]
    (said,), paths, generated, perplexity = told[name][inputs]
    assert f"{name} is not packed" in said and MISSING in said
    assert ("inputs in floating point" in said) == (inputs == "int8")
    assert paths.startswith("7 linears by torch") and "cpu" not in paths and generated == "torch"
    # the very codes that the kernels' packed model has, and its inputs
    asked = {"float": "float", "int8": "float", "llama.cpp": "llama.cpp"}[inputs]
    model = load(name, packed=True, activations=asked).model
    wanted = evaluate(model, torch.arange(3, 35) % 384, window=16).perplexity
    # float32 sums in another order; where inputs are rounded, one of them may fall to the next code, 1/127 away
    assert perplexity == pytest.approx(wanted, rel=1e-3 if inputs == "llama.cpp" else 1e-5)
