"""The command line: parses, calls, prints a table or one JSON object. Bad input ends with one line and exit code 2."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qlab.errors import QlabError

if TYPE_CHECKING:
    import torch

MODEL_HELP = "`reference`, `reference-768`, a Hugging Face folder or hub id, or a .gguf file."
SPEC_HELP = "How weights are stored: int4-g128-asym, int8-row-sym, nf4-g64-dq, mxfp4 … or a YAML recipe."

Model = Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)]
Corpus = Annotated[str, typer.Option(help="A built-in text (britannica, pydoc, shakespeare) or a UTF-8 file.")]
Tokens = Annotated[int | None, typer.Option(help="Use at most this many tokens of the text.", show_default=False)]
Window = Annotated[int, typer.Option(help="Tokens per window; the incomplete last one is dropped.")]
Protocol = Annotated[str, typer.Option(help="`windows` (papers: every prediction) or `llama.cpp` (second half).")]
ACTIVATIONS_HELP = (
    "Of a .gguf file: float, or llama.cpp, rounded as that program rounds them (the default with its protocol)."
)
FORMAT_HELP = "gptq (default), gptq_v2 (default where a spec is asymmetric), awq or compressed-tensors."
FILE_TYPE_HELP = "Q4_K_M, Q8_0, Q6_K, Q5_K_S, Q3_K_L, Q2_K, Q4_0, IQ4_XS, TQ2_0, F16, BF16 …"
DTYPE_HELP = "What the model computes in: float32, or auto, what it is stored in (bfloat16 may be much faster)."
METHOD_HELP = "rtn, mse, hqq, gptq, awq, awq+gptq, autoround (`qlab methods` lists all); a YAML recipe names its own."
CALIBRATION_HELP = "Text for methods that calibrate (gptq, awq, autoround): a built-in one or a file"
Method = Annotated[str, typer.Option(help=METHOD_HELP)]
Calib = Annotated[str, typer.Option(help=f"{CALIBRATION_HELP}, not TEXT.")]
Samples = Annotated[int, typer.Option(help="Calibration windows.")]
Seqlen = Annotated[int, typer.Option(help="Tokens per calibration window.")]
Seed = Annotated[int, typer.Option(help="Seed that draws the calibration windows.")]
Plugin = Annotated[list[Path] | None, typer.Option(help="A Python file that registers methods.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]

BUILT_IN_TOKENS = 16_384
COMPARE_TOKENS = 8_192

app = typer.Typer(
    help="qlab: learn, compare and ship LLM quantization. Try: qlab compare reference --specs int8-row-sym,int4",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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

    _load_plugins(plugin)
    _check_method(method, spec)
    judged = model.endswith(".gguf") and protocol == "llama.cpp"
    loaded = _load(model, activations or ("llama.cpp" if judged else "float"))
    ids, bos = _ids(loaded.tokenizer, text, tokens, BUILT_IN_TOKENS, protocol)
    base = _load(reference).model if reference else loaded.model if spec else None
    recipe = _recipe(spec, method) if spec else None
    calibrated = _calibration([recipe] if recipe else [], loaded.tokenizer, text, calibration, samples, seqlen, seed)
    candidate, cost = _quantized(loaded, recipe, calibrated)
    result = evaluate(candidate, ids, reference=base, window=window, protocol=protocol, bos_id=bos)
    data = {"model": loaded.name, "text": text, **cost, **result.to_dict()}
    _emit(data, as_json, lambda: _eval_text(data, result))


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

    _load_plugins(plugin)
    recipes = [_recipe(s, method) for s in specs.split(",") if s.strip()]
    if not recipes:
        raise QlabError("--specs is empty: give one or more, such as int8-row-sym,int4-g128-asym")
    loaded = _load(model)
    ids, bos = _ids(loaded.tokenizer, text, tokens, COMPARE_TOKENS, protocol)
    calibrated = _calibration(recipes, loaded.tokenizer, text, calibration, samples, seqlen, seed)
    result = run(
        loaded.model, ids, recipes, name=loaded.name, window=window, protocol=protocol, bos_id=bos,
        calibration=calibrated,
    )  # fmt: skip
    source = {"calibration": calibrated.title} if calibrated else {}
    _print({"text": text, **source, **result.to_dict()}, result, as_json)


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="A float model: `reference`, a Hugging Face folder or a hub id.")],
    spec: Annotated[str, typer.Option(help=SPEC_HELP)],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; it must not exist.", show_default=False)
    ] = None,
    method: Method = "rtn",
    layout: Annotated[str | None, typer.Option("--format", help=FORMAT_HELP, show_default=False)] = None,
    calibration: Annotated[str, typer.Option(help=f"{CALIBRATION_HELP}.")] = "shakespeare",
    samples: Samples = 32,
    seqlen: Seqlen = 512,
    seed: Seed = 0,
    act_order: Annotated[str | None, typer.Option(help="gptq: static (default), desc or none.")] = None,
    mse: Annotated[bool, typer.Option("--mse", help="gptq: search each group's range first.")] = False,
    true_sequential: Annotated[
        bool, typer.Option("--true-sequential", help="Linear by linear inside a block.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")] = "cpu",
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "float32",
    restart: Annotated[bool, typer.Option("--restart/--resume", help="Discard what a stopped run left.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show plan, memory and every problem; do nothing.")
    ] = False,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Quantize a model from folder to folder, block by block, for other tools to load.

    One block is in memory at a time. Finished blocks are kept beside --out: the same command, started again after
    whatever stopped it, goes on from there and writes the same bytes.

    qlab quantize reference --method gptq --spec int4-g64-asym --out smollm-gptq
    """
    from qlab.models import open_lazily
    from qlab.streamed import Conversion

    _load_plugins(plugin)
    if out is None and not dry_run:
        raise QlabError("--out is missing: name the folder to write, or add --dry-run")
    options: dict[str, Any] = {} if act_order is None else {"act_order": act_order}
    recipe = _recipe(spec, method, options | ({"mse": True} if mse else {}))
    with _quiet_stdout():
        source, tokenizer = open_lazily(model, dtype=_dtype(dtype), device=_device(device))
    calibrated = _calibration([recipe], tokenizer, None, calibration, samples, seqlen, seed)
    layout = layout or _default_layout(recipe)
    job = Conversion(source, recipe, layout, calibrated, true_sequential=true_sequential)
    if dry_run or out is None:
        _emit({"model": model, "format": layout, **job.to_dict()}, as_json, lambda: _plan_text(job))
        job.check()
        return
    report = job.run(out, restart=restart)
    data = {"model": model, "out": str(out), "format": layout, **report.to_dict()}
    _emit(data, as_json, lambda: _quantize_text(out, report))


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

    formats = _recipe(spec, "rtn") if spec and _is_file(spec) else spec  # a spec speaks of fused experts too
    result = run(load_config(model), formats, context=context, batch=batch)
    _print({"model": model, **result.to_dict(), "size_bytes": result.weights_bytes}, result, as_json)


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

    _load_plugins(plugin)
    _check_method(method, spec)
    loaded = _load(model)
    result = run(loaded.model, _recipe(spec, method) if spec else None, lambda n: fnmatchcase(n, layer), loaded.name)
    _print({"model": loaded.name, **result.facts(), "rows": list(result.rows)}, result, as_json)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="`reference`, `reference-768`, a Hugging Face folder or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The .gguf file to write; it must not exist.")],
    type_: Annotated[str, typer.Option("--type", help="A file type of llama-quantize: " + FILE_TYPE_HELP)] = "Q4_K_M",
    imatrix: Annotated[str | None, typer.Option(help="An importance matrix file, or auto: compute it first.")] = None,
    tensor_type: Annotated[
        list[str] | None, typer.Option(help="PATTERN=TYPE for tensors whose name matches, such as ffn_down=Q6_K.")
    ] = None,
    split_max_size: Annotated[str | None, typer.Option(help="Split into files of at most 500M, 2G …")] = None,
    pre: Annotated[str | None, typer.Option(help="llama.cpp's name of the pre-tokenizer, if it is not found.")] = None,
    calibration: Annotated[
        str, typer.Option(help="Text for --imatrix auto: a built-in one or a file.")
    ] = "shakespeare",
    samples: Samples = 32,
    seqlen: Seqlen = 512,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a model as a GGUF file that llama.cpp runs, tensor by tensor, with llama.cpp's own choice of types.

    qlab convert reference-768 smollm-Q4_K_M.gguf --type Q4_K_M --imatrix auto
    """
    from qlab.convert import importance, to_gguf_file
    from qlab.files.imatrix import read_imatrix

    overrides = _overrides(tensor_type or [])
    limit = _bytes(split_max_size)
    matrix = None
    if imatrix == "auto":
        matrix = importance(model, _windows(model, calibration, samples, seqlen, seed))
    elif imatrix:
        matrix = read_imatrix(imatrix)
    with _quiet_stdout():
        result = to_gguf_file(
            model, out, type_, imatrix=matrix, overrides=overrides, pre=pre, split_max_size=limit
        )  # fmt: skip
    data = {"model": model, "type": type_, "imatrix": imatrix, **result.to_dict()}
    _emit(data, as_json, lambda: _convert_text(data))


@app.command()
def imatrix(
    model: Annotated[str, typer.Argument(help="`reference`, `reference-768`, a Hugging Face folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="The file to write: NAME.gguf (current form) or NAME.dat (older).")],
    calibration: Annotated[str, typer.Option(help="Calibration text: a built-in one or a file.")] = "shakespeare",
    samples: Samples = 32,
    seqlen: Seqlen = 512,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compute an importance matrix: the mean square of every input channel, for llama.cpp's searches to weigh by.

    qlab imatrix reference-768 --out smollm.imatrix.gguf
    """
    from qlab.convert import importance
    from qlab.files.imatrix import write_imatrix

    if out.exists():
        raise QlabError(f"{out} exists: remove it, or give another name")
    matrix = importance(model, _windows(model, calibration, samples, seqlen, seed))
    write_imatrix(matrix, out)
    data = {"model": model, "out": str(out), "calibration": matrix.datasets[0], "entries": len(matrix.sums)}
    told = (
        f"{out}: {len(matrix.sums)} tensors, {matrix.datasets[0]}. Try: qlab convert {model} OUT.gguf --imatrix {out}"
    )
    _emit(data, as_json, lambda: told)


@app.command()
def methods(plugin: Plugin = None, as_json: Json = False) -> None:
    """The quantization methods at hand with their options, and the passes that go before them (awq+gptq)."""
    import dataclasses

    from qlab.display import table_text
    from qlab.methods import get_method, method_names
    from qlab.passes import get_pass, pass_names

    _load_plugins(plugin)
    rows: list[dict[str, Any]] = []
    for kind, names, get in (("method", method_names(), get_method), ("pass", pass_names(), get_pass)):
        for name in names:
            stop = get(name)
            fields = dataclasses.fields(stop) if dataclasses.is_dataclass(stop) else ()
            options = {f.name: getattr(stop, f.name) for f in fields}
            what = (type(stop).__doc__ or "").split("\n")[0]
            rows.append({"method": name, "kind": kind, "what": what, "options": options})
    _emit({"rows": rows}, as_json, lambda: table_text([r | {"options": _words(r["options"])} for r in rows]))


def main() -> None:
    """Entry point of the `qlab` command."""
    try:
        app()
    except QlabError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
    except OSError as error:
        typer.secho(f"error: {error.filename or 'file system'}: {error.strerror}", fg="red", err=True)
        sys.exit(2)


def _words(options: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in options.items()) or "none"


def _load_plugins(paths: list[Path] | None) -> None:
    from qlab.registry import load_plugin

    with _quiet_stdout():
        for path in paths or []:
            load_plugin(path)


def _check_method(method: str, spec: str | None) -> None:
    """Refuse a --method that would have no effect, and one that does not exist."""
    from qlab.methods import get_method
    from qlab.passes import get_pass
    from qlab.recipes import road

    passes, last = road(method)
    get_method(last)
    for name in passes:
        get_pass(name)
    if method != "rtn" and (spec is None or _is_file(spec)):
        remedy = "add --spec" if spec is None else f"{spec} names its own methods"
        raise QlabError(f"--method {method} would have no effect: {remedy}")


def _eval_text(data: dict[str, Any], result: Any) -> str:
    """The evaluation's table under a line that says of what."""
    from qlab.display import number, size, text

    what = data.get("recipe") or data.get("stored_as") or "not quantized"
    if data.get("activations") == "llama.cpp":
        what += ", activations rounded as llama.cpp does"
    cost = f"{number(data['bits_per_weight'])} bits per weight, {size(data['size_bytes'])}"
    return f"{data['model']}, {what}, on {data['text']}: {cost}\n{text(result)}"


def _load(name: str, activations: str = "float") -> Any:
    from qlab.models import load

    with _quiet_stdout():
        return load(name, activations=activations)


def _ids(tokenizer: Any, text: str, limit: int | None, built_in_limit: int, protocol: str) -> tuple[Any, int | None]:
    """The token ids of a text, and the BOS id that llama.cpp's protocol puts in front of every window, if any."""
    from qlab.texts import TEXTS, load_text, tokens

    if limit is not None and limit < 1:
        raise QlabError(f"--tokens {limit}: give a positive number")
    limit = limit or (built_in_limit if text in TEXTS else None)
    ids = tokens(tokenizer, load_text(text).text, limit)
    bos = tokenizer.bos_token_id
    wants_bos = protocol == "llama.cpp" and bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return ids, bos if wants_bos else None


def _is_file(spec: str) -> bool:
    return spec.endswith((".yaml", ".yml"))


def _recipe(spec: str, method: str, options: dict[str, Any] | None = None) -> Any:
    """A recipe from a spec name or a YAML file."""
    from qlab.recipes import Recipe

    _check_method(method, spec)
    if _is_file(spec) and options:
        raise QlabError(f"--{next(iter(options)).replace('_', '-')} would have no effect: {spec} names its own options")
    return Recipe.load(spec) if _is_file(spec) else Recipe.of(spec.strip(), method, **options or {})


def _dtype(name: str) -> torch.dtype | None:
    """None is for `auto`, as transformers means it."""
    import torch

    if name not in ("float32", "auto"):
        raise QlabError(f"--dtype {name}: choose float32 or auto")
    return None if name == "auto" else torch.float32


def _device(name: str) -> str:
    """A device that this PyTorch can use."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise QlabError(f"--device {name}: {str(error).splitlines()[0]}; use cpu") from error
    return name


def _inspect_gguf(path: str, name: str | None, index: int | None, as_json: bool) -> None:
    """A GGUF file as a whole, one of its tensors, or one block."""
    from qlab import gguf_inspection as view
    from qlab.files.gguf import open_gguf

    if index is not None and name is None:
        raise QlabError("--block needs --tensor: name the tensor whose block it is")
    file = open_gguf(path)
    if name is None:
        data = view.summary(file)
        _emit(data, as_json, lambda: view.summary_text(data))
    elif index is None:
        data = view.tensor(file, name)
        _emit(data, as_json, lambda: view.tensor_text(data))
    else:
        data = view.block(file, name, index)
        _emit(data, as_json, lambda: view.block_text(data))


def _windows(model: str, text: str, samples: int, seqlen: int, seed: int) -> Any:
    """Calibration windows for a model that is not open yet."""
    from qlab.calibration import calibration as draw
    from qlab.models import model_folder, open_tokenizer

    with _quiet_stdout():
        tokenizer = open_tokenizer(model_folder(model))
    return draw(tokenizer, text, samples=samples, seqlen=seqlen, seed=seed)


def _overrides(pairs: list[str]) -> dict[str, str]:
    """PATTERN=TYPE options as a mapping, in their order."""
    for pair in pairs:
        if not all(pair.rpartition("=")):
            raise QlabError(f"--tensor-type {pair}: write PATTERN=TYPE, such as ffn_down=Q6_K")
    return {pattern: kind for pattern, _, kind in (pair.rpartition("=") for pair in pairs)}


def _bytes(size: str | None) -> int:
    """500M, 2G or a plain number as bytes; 0 for None. Decimal units, as llama.cpp means them."""
    if size is None:
        return 0
    number, unit = (size[:-1], size[-1].upper()) if size[-1:].isalpha() else (size, "")
    factor = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}.get(unit)
    if factor is None or not number.isdigit() or int(number) == 0:
        raise QlabError(f"--split-max-size {size}: write a number with K, M or G, such as 500M")
    return int(number) * factor


def _convert_text(data: dict[str, Any]) -> str:
    """Files, size, and how many tensors have which type."""
    from qlab.display import number, size, table_text

    rows = [{"type": name, "tensors": count} for name, count in data["types"].items()]
    cost = f"{size(data['size_bytes'])}, {number(data['bits_per_weight'])} bits per weight"
    told = [f"{', '.join(data['files'])}: {cost}",
            table_text(rows)]  # fmt: skip
    if data["fallbacks"]:
        kinds = "; ".join(f"{count} × {what}" for what, count in data["fallbacks"].items())
        told.append(f"Rows that blocks of 256 do not divide got another type, as in llama.cpp: {kinds}")
    return "\n\n".join([*told, f"Try: qlab eval {data['files'][0]} --reference {data['model']}"])


def _default_layout(recipe: Any) -> str:
    """GPTQ's first version stores zero − 1, and no zero of 0: only symmetric specs fit without an exception."""
    specs = [rule.weight for rule in recipe.rules if rule.weight is not None]
    return "gptq" if all(spec.symmetric for spec in specs) else "gptq_v2"


def _plan_text(job: Any) -> str:
    from qlab.display import text

    told = [f"problem: {problem}\n  {', '.join(names)}" for problem, names in job.kinds.items()]
    return "\n\n".join([text(job, whole=True), *told])


def _quantize_text(out: Path, report: Any) -> str:
    from qlab.display import text

    return f"{text(report, whole=True)}\n\n{out} is written. Try: qlab eval {out} --reference MODEL"


def _calibration(
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


def _quantized(loaded: Any, recipe: Any, calibrated: Any) -> tuple[Any, dict[str, Any]]:
    """The model to evaluate and what it costs to store."""
    from qlab.nn import packed_bytes, stored_as
    from qlab.run import quantized_copy

    model = loaded.model
    if recipe is None:
        return model, {**stored_as(model), "size_bytes": packed_bytes(model), **loaded.cost}
    copy, report = quantized_copy(model, recipe, calibrated)
    source = {"calibration": report.calibration} if report.calibration else {}
    return copy, source | {
        "recipe": report.recipe.name,
        "bits_per_weight": report.bits_per_weight,
        "size_bytes": report.size_bytes,
    }


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Libraries that print while loading print to stderr: stdout belongs to the answer."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout


def _print(data: dict[str, Any], result: Any, as_json: bool) -> None:
    from qlab.display import text

    _emit(data, as_json, lambda: text(result, whole=True))


def _emit(data: dict[str, Any], as_json: bool, show: Any) -> None:
    typer.echo(json.dumps(_finite(data), indent=2, allow_nan=False) if as_json else show())


def _finite(value: Any) -> Any:
    """The same data with null for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
