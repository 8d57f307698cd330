"""Commands that look at models: eval, compare, estimate, inspect, methods."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from qlab.cli.app import app
from qlab.cli.common import (
    calibration_for,
    check_method,
    emit,
    is_file,
    load_plugins,
    open_model,
    recipe_of,
    show,
    text_ids,
)
from qlab.cli.options import (
    ACTIVATIONS_HELP,
    MODEL_HELP,
    SPEC_HELP,
    Calib,
    Corpus,
    Json,
    Method,
    Model,
    Plugin,
    Protocol,
    Samples,
    Seed,
    Seqlen,
    Tokens,
    Window,
)
from qlab.errors import QlabError

BUILT_IN_TOKENS = 16_384
COMPARE_TOKENS = 8_192


@app.command("eval")
def eval_(
    model: Model,
    reference: Annotated[str | None, typer.Option(help="Measure KL and top-1 against this model.")] = None,
    spec: Annotated[str | None, typer.Option(help="Quantize MODEL first. " + SPEC_HELP)] = None,
    method: Method = "rtn",
    text: Corpus = "britannica",
    tokens: Tokens = None,
    window: Window = 512,
    protocol: Protocol = "windows",
    activations: Annotated[str | None, typer.Option(help=ACTIVATIONS_HELP, show_default=False)] = None,
    calibration: Calib = "shakespeare",
    samples: Samples = 32,
    seqlen: Seqlen = 512,
    seed: Seed = 0,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a model on a text, and its distance to a reference model.

    A file is read whole unless --tokens says less; a built-in text gives its first 16,384 tokens. With --spec the
    model is quantized in memory and compared with its own unquantized self unless --reference names another.
    """
    from qlab.evaluate import evaluate

    load_plugins(plugin)
    check_method(method, spec)
    judged = model.endswith(".gguf") and protocol == "llama.cpp"
    loaded = open_model(model, activations or ("llama.cpp" if judged else "float"), packed=spec is None)
    ids, bos = text_ids(loaded.tokenizer, text, tokens, BUILT_IN_TOKENS, protocol)
    base = open_model(reference).model if reference else loaded.model if spec else None
    recipe = recipe_of(spec, method) if spec else None
    calibrated = calibration_for([recipe] if recipe else [], loaded.tokenizer, text, calibration, samples, seqlen, seed)
    candidate, cost = _quantized(loaded, recipe, calibrated)
    result = evaluate(candidate, ids, reference=base, window=window, protocol=protocol, bos_id=bos)
    data = {"model": loaded.name, "text": text, **cost, **result.to_dict()}
    emit(data, as_json, lambda: _eval_text(data, result))


@app.command()
def compare(
    model: Model,
    specs: Annotated[str, typer.Option(help="Comma-separated specs or recipe files. " + SPEC_HELP)],
    method: Method = "rtn",
    text: Corpus = "britannica",
    tokens: Tokens = None,
    window: Window = 512,
    protocol: Protocol = "windows",
    calibration: Calib = "shakespeare",
    samples: Samples = 32,
    seqlen: Seqlen = 512,
    seed: Seed = 0,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Several formats of one model side by side: size, perplexity, KL, top-1 agreement, each with its error.

    A built-in text gives its first 8,192 tokens unless --tokens says otherwise.
    """
    from qlab.compare import compare as run

    load_plugins(plugin)
    recipes = [recipe_of(s, method) for s in specs.split(",") if s.strip()]
    if not recipes:
        raise QlabError("--specs is empty: give one or more, such as int8-row-sym,int4-g128-asym")
    loaded = open_model(model)
    ids, bos = text_ids(loaded.tokenizer, text, tokens, COMPARE_TOKENS, protocol)
    calibrated = calibration_for(recipes, loaded.tokenizer, text, calibration, samples, seqlen, seed)
    result = run(
        loaded.model, ids, recipes, name=loaded.name, window=window, protocol=protocol, bos_id=bos,
        calibration=calibrated,
    )  # fmt: skip
    source = {"calibration": calibrated.title} if calibrated else {}
    show({"text": text, **source, **result.to_dict()}, result, as_json)


@app.command()
def estimate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP + " Or just its config.json.", show_default=False)],
    spec: Annotated[str | None, typer.Option(help=SPEC_HELP)] = None,
    context: Annotated[int, typer.Option(help="Tokens in the KV cache.")] = 4096,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    as_json: Json = False,
) -> None:
    """Memory a model needs: weights, KV cache, total. Reads the config alone, no weights."""
    from qlab.memory import estimate as run
    from qlab.models import load_config

    formats = recipe_of(spec, "rtn") if spec and is_file(spec) else spec  # a spec speaks of fused experts too
    result = run(load_config(model), formats, context=context, batch=batch)
    show({"model": model, **result.to_dict(), "size_bytes": result.weights_bytes}, result, as_json)


@app.command()
def inspect(
    model: Model,
    layer: Annotated[str, typer.Option(help="Only layers whose name matches this shell pattern.")] = "*",
    spec: Annotated[str | None, typer.Option(help="Show what each layer would lose. " + SPEC_HELP)] = None,
    method: Method = "rtn",
    tensor: Annotated[str | None, typer.Option(help="Of a .gguf file: show this tensor.", show_default=False)] = None,
    block: Annotated[int | None, typer.Option(help="Of --tensor: show this block bit by bit.")] = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """The linear layers of a model: shape, range, outliers, and what a spec would cost each.

    Of a .gguf file: its keys, types and true bits, one tensor, or one block field by field; with --layer or --spec
    its layers, as of any model.

    qlab inspect smollm-Q4_K_M.gguf --tensor blk.0.ffn_down.weight --block 0
    """
    if model.endswith(".gguf") and spec is None and layer == "*":
        _inspect_gguf(model, tensor, block, as_json)
        return
    if tensor is not None or block is not None:
        raise QlabError("--tensor and --block look into a .gguf file, without --layer and --spec")
    from qlab.inspection import inspect as run

    load_plugins(plugin)
    check_method(method, spec)
    loaded = open_model(model)
    result = run(loaded.model, recipe_of(spec, method) if spec else None, lambda n: fnmatchcase(n, layer), loaded.name)
    show({"model": loaded.name, **result.facts(), "rows": list(result.rows)}, result, as_json)


@app.command()
def methods(plugin: Plugin = None, as_json: Json = False) -> None:
    """The quantization methods at hand with their options, and the passes that go before them (awq+gptq)."""
    import dataclasses

    from qlab.display import table_text
    from qlab.methods import get_method, method_names
    from qlab.passes import get_pass, pass_names

    load_plugins(plugin)
    rows: list[dict[str, Any]] = []
    for kind, names, get in (("method", method_names(), get_method), ("pass", pass_names(), get_pass)):
        for name in names:
            stop = get(name)
            fields = dataclasses.fields(stop) if dataclasses.is_dataclass(stop) else ()
            options = {f.name: getattr(stop, f.name) for f in fields}
            what = (type(stop).__doc__ or "").split("\n")[0]
            rows.append({"method": name, "kind": kind, "what": what, "options": options})
    emit({"rows": rows}, as_json, lambda: table_text([r | {"options": _words(r["options"])} for r in rows]))


def _words(options: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in options.items()) or "none"


def _eval_text(data: dict[str, Any], result: Any) -> str:
    """The evaluation's table under a line that says of what."""
    from qlab.display import number, size, text

    what = data.get("recipe") or data.get("stored_as") or "not quantized"
    rounded = {"llama.cpp": ", activations rounded as llama.cpp does", "int8": ", activations rounded to 8 bits"}
    what += rounded.get(data.get("activations", ""), "")
    cost = f"{number(data['bits_per_weight'])} bits per weight, {size(data['size_bytes'])}"
    path = f"\nmultiplied: {data['linears']}" if "linears" in data else ""
    return f"{data['model']}, {what}, on {data['text']}: {cost}{path}\n{text(result)}"


def _quantized(loaded: Any, recipe: Any, calibrated: Any) -> tuple[Any, dict[str, Any]]:
    """The model to evaluate and what it costs to store."""
    from qlab.nn import packed_bytes, paths, stored_as
    from qlab.run import quantized_copy

    model = loaded.model
    if recipe is None:
        cost = {**stored_as(model), "size_bytes": packed_bytes(model), **loaded.cost}
        return model, cost | {"linears": paths(model)}
    copy, report = quantized_copy(model, recipe, calibrated)
    source = {"calibration": report.calibration} if report.calibration else {}
    return copy, source | {
        "recipe": report.recipe.name,
        "bits_per_weight": report.bits_per_weight,
        "size_bytes": report.size_bytes,
    }


def _inspect_gguf(path: str, name: str | None, index: int | None, as_json: bool) -> None:
    """A GGUF file as a whole, one of its tensors, or one block."""
    from qlab import gguf_inspection as view
    from qlab.files.gguf import open_gguf

    if index is not None and name is None:
        raise QlabError("--block needs --tensor: name the tensor whose block it is")
    file = open_gguf(path)
    if name is None:
        data = view.summary(file)
        emit(data, as_json, lambda: view.summary_text(data))
    elif index is None:
        data = view.tensor(file, name)
        emit(data, as_json, lambda: view.tensor_text(data))
    else:
        data = view.block(file, name, index)
        emit(data, as_json, lambda: view.block_text(data))

