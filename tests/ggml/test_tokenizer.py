"""A tokenizer from GGUF's keys: what contradicts itself is named, what is missing follows llama.cpp's defaults."""

import pytest

from qlab.errors import QlabError
from qlab.ggml.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, tokenizer_of

BPE = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b", "ab c"],
    "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "abc", "<s>", "Ġ"], "tokenizer.ggml.bos_token_id": 5,
    "tokenizer.ggml.token_type": [1, 1, 1, 1, 1, 3, 1],
}  # fmt: skip
PIECES = ["<unk>", "<s>", "a", "b", "▁", "ab", "▁a", "  ", "<0x63>"]
SPM = {
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": PIECES, "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.scores": [0, 0, -9.0, -9.0, -9.0, -1.0, -2.0, -1000.0, 0], "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, USER_DEFINED, BYTE],
}  # fmt: skip


def test_merges_and_special_tokens():
    tokenizer = tokenizer_of(BPE)
    assert tokenizer("abc ab<s>").input_ids == [4, 6, 3, 5]
    assert tokenizer.bos_token == "<s>" and tokenizer.eos_token is None


def test_the_first_token_is_added_where_the_keys_or_llama_cpp_say_so():
    assert tokenizer_of(BPE | {"tokenizer.ggml.add_bos_token": True})("a").input_ids == [5, 0]
    assert tokenizer_of(BPE | {"tokenizer.ggml.pre": "llama-bpe"})("a").input_ids == [5, 0]
    assert tokenizer_of(SPM)("a").input_ids[0] == 1
    assert tokenizer_of(SPM | {"tokenizer.ggml.add_bos_token": False})("a").input_ids == [6]


def test_pieces_are_merged_by_their_scores():
    tokenizer = tokenizer_of(SPM | {"tokenizer.ggml.add_bos_token": False})
    assert tokenizer("ab").input_ids == [4, 5]  # ab (−1) before ▁a (−2)
    assert tokenizer("a  bc").input_ids[:2] == [6, 7]  # two spaces are a token of their own
    assert tokenizer.decode(tokenizer("abc").input_ids) == "abc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "a tokenizer of the kind 'bert'"),
        ({"tokenizer.ggml.model": None}, "holds no tokenizer"),
        ({"tokenizer.ggml.tokens": None}, "lacks the key tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": None}, "lacks the key tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["a z"]}, "contradicts itself"),
        ({"tokenizer.ggml.merges": ["ab"]}, "contradicts itself"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "token_type has 2 entries for 7 tokens"),
        ({"tokenizer.ggml.bos_token_id": 7}, "bos_token_id is 7: there are 7 tokens"),
    ],
)
def test_contradictions_are_named(change, message):
    keys = {key: value for key, value in (BPE | change).items() if value is not None}
    with pytest.raises(QlabError, match=message):
        tokenizer_of(keys)


def test_an_unknown_way_to_split_warns():
    with pytest.warns(UserWarning, match="'dragon' is not known: token ids may differ from llama.cpp"):
        tokenizer_of(BPE | {"tokenizer.ggml.pre": "dragon"})
