"""Our GGUF files in llama.cpp: its types, its bytes, its text, its perplexity. `make test-llama-cpp` (about an hour).

llama.cpp multiplies quantized weights with activations rounded to 8 bits. A difference in an activation's last bit
grows to a whole step within a few blocks, so that llama.cpp, reading a text token by token or in one batch, disagrees
with itself by as much as with us. What can be asked exactly is asked of the file's weights: decoded to float32 by
llama.cpp they must say the very text that we say.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from interop.llama import WINDOW, continued, logits, opened, perplexity, requantized

from qlab.convert import to_gguf_file
from qlab.evaluate import evaluate
from qlab.files.gguf import open_gguf
from qlab.models import load
from qlab.recipes.llama_cpp import FILE_TYPES
from qlab.texts import load_text, tokens

MODELS = ("reference", "reference-768")
PROMPTS = ("The capital of France is", "To bake bread, you need")
WINDOWS, NEW = 8, 32  # two windows are not enough: rounded activations alone move their perplexity by 1 %
TYPES = [name for name in FILE_TYPES if name not in ("F32", "Q2_K_S")]  # Q2_K_S needs an importance matrix
GUESSING = 49_152
"""The perplexity of guessing among as many tokens: TQ1_0 and TQ2_0, made for ternary models, are far beyond it."""
REPORT = os.environ.get("QLAB_LLAMA_CPP_REPORT")
"""A file that gets one line of JSON for each test, if it is named."""


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """Model → its float32 file."""
    folder = tmp_path_factory.mktemp("float")
    paths = {name: folder / f"{name}.gguf" for name in MODELS}
    for name, path in paths.items():
        to_gguf_file(name, path, "F32", progress=False)
    return paths


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TYPES)
def test_a_file_is_llama_cpps(model, name, floats, tmp_path):
    path = tmp_path / "ours.gguf"
    to_gguf_file(model, path, name, progress=False)
    same_bytes = compared(path, requantized(floats[model], tmp_path / "theirs.gguf", FILE_TYPES[name].number))
    (tmp_path / "theirs.gguf").unlink()

    loaded = load(path)
    ids = tokens(loaded.tokenizer, load_text("britannica").text, WINDOWS * WINDOW)
    judged = load(path, activations="llama.cpp", packed=True).model
    ours = evaluate(judged, ids, window=WINDOW, protocol="llama.cpp", progress=False).perplexity
    mine = [spoken(loaded, prompt) for prompt in PROMPTS]
    with opened(path) as llama:
        theirs = perplexity(llama, ids)
        quantized = [continued(llama, encoded(loaded, llama, prompt), NEW) for prompt in PROMPTS]
    decoded = requantized(path, tmp_path / "decoded.gguf", FILE_TYPES["F32"].number)
    with opened(decoded) as llama:
        texts = [continued(llama, encoded(loaded, llama, prompt), NEW) for prompt in PROMPTS]
    line = {"model": model, "type": name, "same_bytes": same_bytes, "perplexity": ours, "llama.cpp": theirs,
            "tokens_in_common": list(map(common, mine, quantized))}  # fmt: skip
    print(f"\n{json.dumps(line)}")
    if REPORT:
        with Path(REPORT).open("a") as report:
            report.write(json.dumps(line) + "\n")
    if theirs < GUESSING:
        assert ours == pytest.approx(theirs, rel=0.01)
    else:  # a model that knows nothing: rounded activations move the loss of its noise by as much
        assert math.log(ours) == pytest.approx(math.log(theirs), rel=0.01)
    assert mine == texts


def test_llama_cpp_disagrees_with_itself(tmp_path):
    """Token by token against one batch: why text from quantized weights cannot be asked to be the same."""
    path = tmp_path / "ours.gguf"
    to_gguf_file("reference-768", path, "Q4_K_M", progress=False)
    prompt = load(path).tokenizer(PROMPTS[0]).input_ids
    with opened(path) as whole, opened(path, batch=1) as single:
        ids = prompt + continued(whole, prompt, NEW)
        difference = (logits(whole, ids) - logits(single, ids))[len(prompt) - 1 :]
    print(f"\nstandard deviation of the difference of its logits: {float(difference.std()):.3f}")
    assert difference.std() > 0.05


def compared(ours: Path, theirs: Path) -> float:
    """The share of equal bytes, after the types have been found the same."""
    a, b = open_gguf(ours), open_gguf(theirs)
    assert {name: info.type for name, info in a.tensors.items()} == {n: info.type for n, info in b.tensors.items()}
    equal = sum(int((a.data(name) == b.data(name)).sum()) for name in a.tensors)
    return equal / sum(info.nbytes for info in a.tensors.values())


def encoded_prompt(loaded, prompt: str) -> list[int]:
    return loaded.tokenizer(prompt).input_ids


def encoded(loaded, llama, prompt: str) -> list[int]:
    """The token ids of a prompt, on which both agree."""
    ids = encoded_prompt(loaded, prompt)
    assert ids == llama.tokenize(prompt.encode(), add_bos=False, special=True)
    return ids


@torch.no_grad()
def spoken(loaded, prompt: str) -> list[int]:
    """Our 32 likeliest next tokens, one after the other; the end of the text does not end them."""
    ids, cache, new = encoded_prompt(loaded, prompt), None, encoded_prompt(loaded, prompt)
    for _ in range(NEW):
        out = loaded.model(torch.tensor([new]), past_key_values=cache, use_cache=True)
        cache, new = out.past_key_values, [int(out.logits[0, -1].argmax())]
        ids += new
    return ids[-NEW:]


def common(a: list[int], b: list[int]) -> int:
    """How many tokens two texts have in common before they part."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
