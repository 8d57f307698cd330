"""What several commands do: open models and texts, read recipes, draw calibration windows, print."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from qlab.errors import QlabError


def load_plugins(paths: list[Path] | None) -> None:
    """Run the files of --plugin, which register methods."""
    from qlab.registry import load_plugin

    with quiet_stdout():
        for path in paths or []:
            load_plugin(path)


def check_method(method: str, spec: str | None) -> None:
    """Refuse a --method that would have no effect, and one that does not exist."""
    from qlab.methods import get_method
    from qlab.passes import get_pass
    from qlab.recipes import road

    passes, last = road(method)
    get_method(last)
    for name in passes:
        get_pass(name)
    if method != "rtn" and (spec is None or is_file(spec)):
        remedy = "add --spec" if spec is None else f"{spec} names its own methods"
        raise QlabError(f"--method {method} would have no effect: {remedy}")


def open_model(name: str, activations: str = "float", packed: bool = False, device: str = "cpu") -> Any:
    """`qlab.load`, with stdout kept for the answer; on a GPU in float16."""
    import torch

    from qlab.models import load

    try:
        dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    except RuntimeError as error:
        raise QlabError(f"device {device!r}: use cpu, cuda or cuda:1") from error
    with quiet_stdout():
        return load(name, activations=activations, packed=packed, device=device, dtype=dtype)


def text_ids(
    tokenizer: Any, text: str, limit: int | None, built_in_limit: int, protocol: str
) -> tuple[Any, int | None]:
    """The token ids of a text, and the BOS id that llama.cpp's protocol puts in front of every window, if any."""
    from qlab.texts import TEXTS, load_text, tokens

    if limit is not None and limit < 1:
        raise QlabError(f"--tokens {limit}: give a positive number")
    limit = limit or (built_in_limit if text in TEXTS else None)
    ids = tokens(tokenizer, load_text(text).text, limit)
    bos = tokenizer.bos_token_id
    wants_bos = protocol == "llama.cpp" and bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return ids, bos if wants_bos else None


def is_file(spec: str) -> bool:
    """Whether a spec is a recipe's file."""
    return spec.endswith((".yaml", ".yml"))


def recipe_of(spec: str, method: str, options: dict[str, Any] | None = None) -> Any:
    """A recipe from a spec name or a YAML file."""
    from qlab.recipes import Recipe

    check_method(method, spec)
    if is_file(spec) and options:
        raise QlabError(f"--{next(iter(options)).replace('_', '-')} would have no effect: {spec} names its own options")
    return Recipe.load(spec) if is_file(spec) else Recipe.of(spec.strip(), method, **options or {})


def calibration_for(
    recipes: list[Any], tokenizer: Any, text: str | None, calibration: str, samples: int, seqlen: int, seed: int
) -> Any:
    """The calibration windows where a pass or method of the recipes needs them, else None."""
    from qlab.calibration import calibration as draw
    from qlab.methods import get_method

    rules = [rule for recipe in recipes for rule in recipe.rules if rule.skip is None]
    if not any(rule.passes or get_method(rule.method, **rule.options).needs for rule in rules):
        return None
    if calibration == text:
        raise QlabError(f"--calibration {calibration} is the evaluation text too, which flatters results: use another")
    return draw(tokenizer, calibration, samples=samples, seqlen=seqlen, seed=seed)


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Libraries that print while loading print to stderr: stdout belongs to the answer."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout


def show(data: dict[str, Any], result: Any, as_json: bool) -> None:
    """Print a result's own table, or its data as JSON."""
    from qlab.display import text

    emit(data, as_json, lambda: text(result, whole=True))


def emit(data: dict[str, Any], as_json: bool, words: Callable[[], str]) -> None:
    """Print the data as one JSON object, or what `words` says."""
    typer.echo(json.dumps(finite(data), indent=2, allow_nan=False) if as_json else words())


def finite(value: Any) -> Any:
    """The same data with null for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def calibration_windows(model: str, text: str, samples: int, seqlen: int, seed: int) -> Any:
    """Calibration windows for a model that is not open yet."""
    from qlab.calibration import calibration as draw
    from qlab.models import model_folder, open_tokenizer

    with quiet_stdout():
        tokenizer = open_tokenizer(model_folder(model))
    return draw(tokenizer, text, samples=samples, seqlen=seqlen, seed=seed)

