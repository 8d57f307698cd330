"""How byte-level tokenizers split text before merging, by the names llama.cpp has for it (`tokenizer.ggml.pre`).

A way to split is a sequence of regular expressions, each applied to the pieces that the one before left; matches and
what lies between them become pieces. Source: `llm_tokenizer_bpe` in llama.cpp's `src/llama-vocab.cpp`, with the
patterns as the models' own tokenizer.json has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import Regex, pre_tokenizers

from qlab.errors import QlabError

_GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
_DIGIT = "\\p{N}"
_TAIL = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_LLAMA3 = _WORDS + "\\p{N}{1,3}" + _TAIL
_QWEN2 = _WORDS + "\\p{N}" + _TAIL
_UPPER, _LOWER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
_CASED = "[^\\r\\n\\p{L}\\p{N}]?" + _UPPER + "%s" + _LOWER + "%s%s|"
_SLASH_TAIL = _TAIL.replace("\\r\\n]*", "\\r\\n/]*", 1)
_TEKKEN = _CASED % ("*", "+", "") + _CASED % ("+", "*", "") + "\\p{N}" + _SLASH_TAIL
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = _CASED % ("*", "+", _SUFFIX) + _CASED % ("+", "*", _SUFFIX) + "\\p{N}{1,3}" + _SLASH_TAIL

SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "smollm": (_DIGIT, _GPT2),
    "llama-bpe": (_LLAMA3,),
    "dbrx": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "tekken": (_TEKKEN,),
    "gpt-4o": (_GPT4O,),
    "falcon": ("[\\p{P}\\$\\+<=>\\^~\\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "default": ("[\\p{P}\\$\\+<=>\\^~\\|]+", _GPT2, "\\p{N}+", "[0-9][0-9][0-9]"),
}
"""The patterns of each name; of those with the same patterns the first is written."""
ALIASES = {
    "phi-2": "gpt-2", "mpt": "gpt-2", "olmo": "gpt-2", "jais": "gpt-2", "modern-bert": "gpt-2", "a.x-4.0": "gpt-2",
    "starcoder": "smollm", "refact": "smollm", "command-r": "smollm", "codeshell": "smollm", "exaone": "smollm",
    "minerva-7b": "smollm", "llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe",
    "pixtral": "llama-bpe", "smaug-bpe": "dbrx", "deepseek-r1-qwen": "qwen2", "stablelm2": "qwen2",
    "hunyuan": "qwen2", "megrez": "qwen2", "llama4": "gpt-4o",
}  # fmt: skip
"""Other names under which files say the same."""
WHOLE_WORDS = frozenset({"llama-bpe", "tekken"})
"""Names whose tokenizers take a piece that is a token as it is, whatever the merges would make of it."""


def known(pre: str) -> str | None:
    """The name in `SPLITS` of what a file calls `pre`; None for a way to split that is not known here."""
    name = ALIASES.get(pre, pre)
    return name if name in SPLITS else None


def pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer that files name `pre`, down to the bytes. QlabError for a name that is not known here."""
    name = known(pre)
    if name is None:
        raise QlabError(f"pre-tokenizer {pre!r} is not known here: qlab knows {', '.join((*SPLITS, *ALIASES))}")
    patterns = list(SPLITS[name])
    # The tokenizers library has the two commonest patterns built in, much faster than a regular expression.
    built_in = patterns[-1] == _GPT2
    parts = [_split(pattern) for pattern in (patterns[:-1] if built_in else patterns)]
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=built_in)])


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    if pattern == _DIGIT:
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def name_of(data: dict[str, Any]) -> str:
    """The name for the way a tokenizer.json splits text; QlabError for one that has no name here."""
    found = tuple(_patterns(data.get("pre_tokenizer")))
    whole_words = bool((data.get("model") or {}).get("ignore_merges"))
    names = [name for name, patterns in SPLITS.items() if patterns == found]
    if not names:
        raise QlabError(f"it splits text in a way that qlab has no name for ({' then '.join(found) or 'none'})")
    return next((name for name in names if (name in WHOLE_WORDS) == whole_words), names[0])


def _patterns(node: dict[str, Any] | None) -> Iterator[str]:
    """The patterns of a pre-tokenizer in tokenizer.json; what is no pattern is told by its type."""
    if node is None:
        yield "nothing"
    elif node["type"] == "Sequence":
        for child in node["pretokenizers"]:
            yield from _patterns(child)
    elif node["type"] == "Digits" and node["individual_digits"]:
        yield _DIGIT
    elif node["type"] == "Split" and str(node.get("behavior")).lower() == "isolated" and not node.get("invert"):
        yield str(node["pattern"].get("Regex"))
    elif node["type"] == "ByteLevel":
        if node.get("use_regex", True):
            yield _GPT2
    else:
        yield node["type"]
