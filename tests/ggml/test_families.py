"""Every family there and back: written as GGUF in float32 and read again, a model gives the same logits."""

import pytest
import torch
from ggml.tiny import FAMILIES, byte_level, folder_of, sentencepiece
from transformers import AutoModelForCausalLM

from qlab.convert import to_gguf_file
from qlab.models import load

TEXTS = [
    "the weights of 1234 models",
    "naïve façade, 你好世界 и привет! 👋🏽\n\n\ttabs  and   spaces",
    " leading",
    "",
    "<tool>x</s>",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_survive_the_journey(family, tmp_path):
    folder = folder_of(family, tmp_path / "model")
    to_gguf_file(str(folder), tmp_path / "model.gguf", "F32", progress=False)
    loaded, original = load(tmp_path / "model.gguf"), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(3, 340, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = loaded.model(ids).logits, original(ids).logits
    assert theirs.std() > 0.1  # a model that says something
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert loaded.model.generation_config.eos_token_id == 2


@pytest.mark.parametrize("make", [byte_level, sentencepiece, lambda: sentencepiece(space=False)])
def test_tokenizers_survive_the_journey(make, tmp_path):
    original = make()
    folder = folder_of("llama", tmp_path / "model", original)
    to_gguf_file(str(folder), tmp_path / "model.gguf", "F16", progress=False)
    tokenizer = load(tmp_path / "model.gguf").tokenizer
    for text in TEXTS:
        ids = original(text)["input_ids"]
        assert tokenizer(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == original.decode(ids)
        assert tokenizer.decode(ids, skip_special_tokens=True) == original.decode(ids, skip_special_tokens=True)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.chat_template == original.chat_template
