"""Tokenizers of Hugging Face as GGUF's keys and back: byte-level BPE ("gpt2") or SentencePiece BPE ("llama")."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from qlab.errors import QlabError
from qlab.ggml.pretokenizers import WHOLE_WORDS, known, name_of, pre_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types of `tokenizer.ggml.token_type`."""

_SPECIAL = (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))
"""Special tokens: GGUF's word for each, and transformers'."""

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
    for key, name in _SPECIAL:
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
    try:
        return name_of(data)
    except QlabError as error:
        raise QlabError(f"{folder}/tokenizer.json: {error}: give the name that llama.cpp has for it with --pre "
                        "(llama-bpe, qwen2, gpt-2 …)") from error  # fmt: skip


def _prepended(normalizer: dict[str, Any] | None) -> str:
    """What a normalizer puts before a text."""
    if normalizer is None:
        return ""
    if normalizer["type"] == "Sequence":
        return "".join(_prepended(child) for child in normalizer["normalizers"])
    return str(normalizer["prepend"]) if normalizer["type"] == "Prepend" else ""


def tokenizer_of(keys: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer that the keys of a GGUF file describe: it splits, merges and decodes as llama.cpp does.

    A text's special tokens are found in it, as everywhere in transformers. Errors: QlabError for keys that are missing
    or contradict each other, and kinds of tokenizer other than BPE; a warning where the way to split is not known.
    """
    kind = keys.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        what = "no tokenizer" if kind is None else f"a tokenizer of the kind {kind!r}"
        raise QlabError(f"it holds {what}: qlab reads gpt2 (byte-level BPE) and llama (SentencePiece BPE)")
    tokens = _needed(keys, "tokens")
    types = list(map(int, keys.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))))
    if len(types) != len(tokens):
        raise QlabError(f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens")
    try:
        backend = (_byte_level if kind == "gpt2" else _sentencepiece)(keys, tokens, types)
    except QlabError:
        raise
    except Exception as error:  # the tokenizers library raises no class of its own
        raise QlabError(f"its tokenizer contradicts itself: {error}") from error
    backend.add_tokens(
        [
            AddedToken(token, special=type_ != USER_DEFINED, normalized=False)
            for token, type_ in zip(tokens, types, strict=True)
            if token and type_ in (CONTROL, USER_DEFINED, UNKNOWN)
        ]
    )
    special = {f"{name}_token": _token(keys, key, tokens) for key, name in _SPECIAL}
    backend.post_processor = _ends(keys, special, kind)
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False,
        **{name: token for name, token in special.items() if token is not None},
    )  # fmt: skip
    found.chat_template = keys.get("tokenizer.chat_template")
    return found


def _needed(keys: Mapping[str, Any], name: str) -> Any:
    if (found := keys.get(f"tokenizer.ggml.{name}")) is None:
        raise QlabError(f"it lacks the key tokenizer.ggml.{name}")
    return found


def _token(keys: Mapping[str, Any], key: str, tokens: Sequence[str]) -> str | None:
    """A special token by the key that has its number."""
    number = keys.get(f"tokenizer.ggml.{key}_token_id")
    if number is None:
        return None
    if not 0 <= number < len(tokens):
        raise QlabError(f"tokenizer.ggml.{key}_token_id is {number}: there are {len(tokens)} tokens")
    return tokens[number]


def _byte_level(keys: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    pre = keys.get("tokenizer.ggml.pre", "default")
    if known(pre) is None:
        warnings.warn(f"pre-tokenizer {pre!r} is not known: token ids may differ from llama.cpp's", stacklevel=5)
    name = known(pre) or "gpt-2"
    merges = [_parts(merge) for merge in _needed(keys, "merges")]
    backend = Tokenizer(models.BPE(_vocabulary(tokens, types), merges, ignore_merges=name in WHOLE_WORDS))
    backend.pre_tokenizer = pre_tokenizer(name)
    backend.decoder = decoders.ByteLevel()
    return backend


def _parts(merge: str) -> tuple[str, str]:
    left, _, right = merge[1:].partition(" ")  # the first letter may itself be a space
    return merge[:1] + left, right


def _sentencepiece(keys: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    scores = _needed(keys, "scores")
    if len(scores) != len(tokens):
        raise QlabError(f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens")
    vocabulary = _vocabulary(tokens, types)
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    model = models.BPE(
        vocabulary, _merges(vocabulary, types, scores), unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in types
    )
    backend = Tokenizer(model)
    space = keys.get("tokenizer.ggml.add_space_prefix", True)
    prefix = [normalizers.Prepend("▁")] if space else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if space else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _vocabulary(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """Token → number, without those that only fill the embedding up."""
    return {t: n for n, (t, kind) in enumerate(zip(tokens, types, strict=True)) if t != f"[PAD{n}]" or kind != UNUSED}


def _merges(vocabulary: Mapping[str, int], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, the one of the highest score first, as SentencePiece merges them."""
    found = []
    for token, number in vocabulary.items():
        if types[number] in (CONTROL, BYTE, UNKNOWN):
            continue
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in vocabulary and right in vocabulary:
                found.append((-float(scores[number]), number, left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _ends(keys: Mapping[str, Any], special: Mapping[str, str | None], kind: str) -> processors.PostProcessor:
    """What is put before and behind a text."""
    starts = kind == "llama" or known(keys.get("tokenizer.ggml.pre", "default")) == "llama-bpe"  # where no key says
    bos, eos = special["bos_token"], special["eos_token"]
    before = [bos] if bos and keys.get("tokenizer.ggml.add_bos_token", starts) else []
    behind = [eos] if eos and keys.get("tokenizer.ggml.add_eos_token", False) else []
    numbers = {token: keys[f"tokenizer.ggml.{name}_token_id"] for name, token in (("bos", bos), ("eos", eos)) if token}
    return processors.TemplateProcessing(
        single=[*before, "$A", *behind], pair=[*before, "$A:0", *behind, *before, "$B:1", *behind],
        special_tokens=[(token, numbers[token]) for token in dict.fromkeys(before + behind)],
    )  # fmt: skip
