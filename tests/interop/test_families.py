"""Every family in llama.cpp: random models of two blocks, in float32, give the logits that transformers gives."""

import pytest
import torch
from ggml.tiny import FAMILIES, byte_level, folder_of, sentencepiece
from interop.llama import logits, opened
from transformers import AutoModelForCausalLM

from qlab.convert import to_gguf_file

TEXTS = ("the weights of 1234 models", "naïve façade, 你好世界 и привет! 👋🏽\n\n\ttabs  and   spaces", " leading")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_transformers(family, tmp_path):
    folder = folder_of(family, tmp_path / "model")
    to_gguf_file(str(folder), tmp_path / "model.gguf", "F32", progress=False)
    ids = torch.randint(3, 340, (48,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(folder).eval()(ids[None]).logits[0]
    with opened(tmp_path / "model.gguf") as llama:
        theirs = logits(llama, ids.tolist())
    # softmax, activation and rotary functions are tabulated or approximated in llama.cpp: three digits are left
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=2e-3 * float(ours.abs().max()))
    assert float((theirs - ours).square().mean() / ours.square().mean()) < 1e-6


@pytest.mark.parametrize("make", [byte_level, sentencepiece, lambda: sentencepiece(space=False)])
def test_token_ids_are_llama_cpps(make, tmp_path):
    tokenizer = make()
    folder = folder_of("llama", tmp_path / "model", tokenizer)
    to_gguf_file(str(folder), tmp_path / "model.gguf", "F32", progress=False)
    with opened(tmp_path / "model.gguf") as llama:
        for text in TEXTS:
            assert llama.tokenize(text.encode(), add_bos=True, special=True) == tokenizer(text).input_ids
