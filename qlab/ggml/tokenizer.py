"""A Hugging Face tokenizer as GGUF's keys: byte-level BPE ("gpt2") or SentencePiece BPE ("llama")."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qlab.errors import QlabError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types of `tokenizer.ggml.token_type`."""

_DIGITS = ("digits", True)
_LLAMA3 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
# How text is split before merging → the name llama.cpp has for it.
_PRE = {
    (): "gpt-2",
    (_DIGITS,): "smollm",
    (("regex", _LLAMA3),): "llama-bpe",
    (("regex", _LLAMA3.replace("{1,3}", "")),): "qwen2",
}

TokenizerKey = tuple[str, Any]
"""A key of the file and its value: str, int, bool, or a list of str, int or float."""


def tokenizer_keys(folder: Path, tokenizer: Any, size: int, pre: str | None = None) -> Iterator[TokenizerKey]:
    """The keys `tokenizer.…` of the tokenizer in `folder`, filled up to `size` tokens.

    pre: the name llama.cpp has for the way text is split before merging; found from tokenizer.json where None.
    Errors: QlabError where there is no tokenizer.json, or it is neither kind, or splits in an unknown way.
    """
    data = _read(folder)
    model = data.get("model") or {}
    if model.get("type") != "BPE":
        raise QlabError(f"{folder}: a {model.get('type')} tokenizer cannot be written: qlab knows BPE, byte-level or "
                        "SentencePiece's; use a model with one of them")  # fmt: skip
    tokens, types = _tokens(data, size)
    sentencepiece = bool(model.get("byte_fallback"))
    yield "tokenizer.ggml.model", "llama" if sentencepiece else "gpt2"
    yield "tokenizer.ggml.pre", pre or ("default" if sentencepiece else _pre(data, folder))
    yield "tokenizer.ggml.tokens", tokens
    if sentencepiece:
        yield "tokenizer.ggml.scores", _scores(tokens, types, model["merges"])
    yield "tokenizer.ggml.token_type", types
    if not sentencepiece:
        yield (
            "tokenizer.ggml.merges",
            [m if isinstance(m, str) else " ".join(part.replace(" ", "Ġ") for part in m) for m in model["merges"]],
        )
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        if (number := getattr(tokenizer, f"{name}_token_id", None)) is not None:
            yield f"tokenizer.ggml.{key}_token_id", int(number)
    ids = tokenizer("a")["input_ids"]
    yield "tokenizer.ggml.add_bos_token", tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    yield "tokenizer.ggml.add_eos_token", len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    yield "tokenizer.ggml.add_space_prefix", "▁" in _prepended(data.get("normalizer"))
    if isinstance(template := getattr(tokenizer, "chat_template", None), str):
        yield "tokenizer.chat_template", template


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise QlabError(f"{folder} has no tokenizer.json: a GGUF file holds the tokenizer too; save it there with "
                        "transformers (AutoTokenizer.from_pretrained(…).save_pretrained)") from None  # fmt: skip
    except ValueError as error:
        raise QlabError(f"damaged tokenizer: {file}: {error}; copy or download it again") from error


def _tokens(data: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every token by its id and what kind it is; ids that no token has are padded."""
    vocabulary: dict[str, int] = data["model"]["vocab"]
    added = {entry["id"]: entry for entry in data.get("added_tokens") or []}
    by_id = {number: token for token, number in vocabulary.items()} | {
        n: entry["content"] for n, entry in added.items()
    }
    if by_id and max(by_id) >= size:
        raise QlabError(
            f"the tokenizer has a token {max(by_id)}, the model {size} embeddings: they are not of one model"
        )
    unknown = data["model"].get("unk_token")
    tokens, types = [], []
    for number in range(size):
        token = by_id.get(number)
        tokens.append(f"[PAD{number}]" if token is None else token)
        types.append(_kind(token, added.get(number), unknown, bool(data["model"].get("byte_fallback"))))
    return tokens, types


def _kind(token: str | None, added: dict[str, Any] | None, unknown: str | None, fallback: bool) -> int:
    if token is None:
        return UNUSED
    if fallback and token == unknown:
        return UNKNOWN
    if added is not None:
        return CONTROL if added.get("special") else USER_DEFINED
    return BYTE if fallback and len(token) == 6 and token.startswith("<0x") else NORMAL


def _scores(tokens: list[str], types: list[int], merges: list[Any]) -> list[float]:
    """SentencePiece's scores: what is merged first has the highest; −rank of the first merge that makes a token."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        rank.setdefault(left + right, number)
    last = float(len(merges))
    plain = (NORMAL, USER_DEFINED)
    return [-float(rank.get(t, last)) if kind in plain else 0.0 for t, kind in zip(tokens, types, strict=True)]


def _pre(data: dict[str, Any], folder: Path) -> str:
    """The name of the pre-tokenizer that tokenizer.json describes."""
    found = tuple(_splits(data.get("pre_tokenizer")))
    if found not in _PRE:
        raise QlabError(f"{folder}/tokenizer.json splits text in a way that qlab has no name for ({found or 'none'}): "
                        "give the name that llama.cpp has for it with --pre (llama-bpe, qwen2, gpt-2 …)")  # fmt: skip
    return _PRE[found]


def _splits(node: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """What happens before the bytes: the alphabet itself, and GPT-2's own pattern with it, go without saying."""
    if node is None:
        yield "nothing", None
    elif node["type"] == "Sequence":
        for child in node["pretokenizers"]:
            yield from _splits(child)
    elif node["type"] == "Digits":
        yield "digits", node["individual_digits"]
    elif node["type"] == "Split":
        yield "regex", node["pattern"].get("Regex")
    elif node["type"] != "ByteLevel":
        yield node["type"], None


def _prepended(normalizer: dict[str, Any] | None) -> str:
    """What a normalizer puts before a text."""
    if normalizer is None:
        return ""
    if normalizer["type"] == "Sequence":
        return "".join(_prepended(child) for child in normalizer["normalizers"])
    return str(normalizer["prepend"]) if normalizer["type"] == "Prepend" else ""
