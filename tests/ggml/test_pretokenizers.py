"""Ways to split text: each name splits as its patterns say, and is found again in the tokenizer.json it makes."""

import json

import pytest
from tokenizers import Tokenizer, models

from qlab.errors import QlabError
from qlab.ggml.pretokenizers import ALIASES, SPLITS, WHOLE_WORDS, known, name_of, pre_tokenizer

EXPECTED = {
    "gpt-2": ["in", "Ġ1564", ",", "ĠDON", "'", "T", "Ġit", "'s", "Ġ", "Ġa", "12", "b"],
    "smollm": ["in", "Ġ", "1", "5", "6", "4", ",", "ĠDON", "'", "T", "Ġit", "'s", "Ġ", "Ġa", "1", "2", "b"],
    "llama-bpe": ["in", "Ġ", "156", "4", ",", "ĠDON", "'T", "Ġit", "'s", "Ġ", "Ġa", "12", "b"],
    "qwen2": ["in", "Ġ", "1", "5", "6", "4", ",", "ĠDON", "'T", "Ġit", "'s", "Ġ", "Ġa", "1", "2", "b"],
    "tekken": ["in", "Ġ", "1", "5", "6", "4", ",", "ĠDON", "'T", "Ġit", "'s", "Ġ", "Ġa", "1", "2", "b"],
    "gpt-4o": ["in", "Ġ", "156", "4", ",", "ĠDON'T", "Ġit's", "Ġ", "Ġa", "12", "b"],
    "falcon": ["in", "Ġ", "156", "4", ",", "ĠDON", "'", "T", "Ġit", "'", "s", "Ġ", "Ġa", "12", "b"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_pieces(name):
    pieces = [piece for piece, _ in pre_tokenizer(name).pre_tokenize_str("in 1564, DON'T it's  a12b")]
    assert pieces == EXPECTED[name]


@pytest.mark.parametrize("name", SPLITS)
def test_the_name_is_found_again(name):
    backend = Tokenizer(models.BPE(ignore_merges=name in WHOLE_WORDS))
    backend.pre_tokenizer = pre_tokenizer(name)
    assert name_of(json.loads(backend.to_str())) == name


def test_aliases_lead_somewhere():
    assert all(known(alias) == name for alias, name in ALIASES.items())
    assert known("dragon") is None
    with pytest.raises(QlabError, match="'dragon' is not known here: qlab knows gpt-2, smollm"):
        pre_tokenizer("dragon")


@pytest.mark.parametrize(
    "node",
    [
        None,
        {"type": "Whitespace"},
        {"type": "Digits", "individual_digits": False},
        {"type": "ByteLevel", "use_regex": False},
    ],
)
def test_ways_without_a_name_are_refused(node):
    with pytest.raises(QlabError, match="splits text in a way that qlab has no name for"):
        name_of({"pre_tokenizer": node, "model": {}})
