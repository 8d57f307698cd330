"""Commands that write models: quantize, convert, imatrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qlab.cli.app import app
from qlab.cli.common import calibration_for, calibration_windows, emit, load_plugins, quiet_stdout, recipe_of
from qlab.cli.options import (
    CALIBRATION_HELP,
    DTYPE_HELP,
    FILE_TYPE_HELP,
    FORMAT_HELP,
    SPEC_HELP,
    Json,
    Method,
    Plugin,
    Samples,
    Seed,
    Seqlen,
)
from qlab.errors import QlabError

if TYPE_CHECKING:
    import torch


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

    load_plugins(plugin)
    if out is None and not dry_run:
        raise QlabError("--out is missing: name the folder to write, or add --dry-run")
    options: dict[str, Any] = {} if act_order is None else {"act_order": act_order}
    recipe = recipe_of(spec, method, options | ({"mse": True} if mse else {}))
    with quiet_stdout():
        source, tokenizer = open_lazily(model, dtype=_dtype(dtype), device=_device(device))
    calibrated = calibration_for([recipe], tokenizer, None, calibration, samples, seqlen, seed)
    layout = layout or _default_layout(recipe)
    job = Conversion(source, recipe, layout, calibrated, true_sequential=true_sequential)
    if dry_run or out is None:
        emit({"model": model, "format": layout, **job.to_dict()}, as_json, lambda: _plan_text(job))
        job.check()
        return
    report = job.run(out, restart=restart)
    data = {"model": model, "out": str(out), "format": layout, **report.to_dict()}
    emit(data, as_json, lambda: _quantize_text(out, report))


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
    from qlab.files.imatrix import ImportanceMatrix, read_imatrix

    def computed() -> ImportanceMatrix:
        return importance(model, calibration_windows(model, calibration, samples, seqlen, seed))

    overrides = _overrides(tensor_type or [])
    limit = _bytes(split_max_size)
    matrix = computed if imatrix == "auto" else read_imatrix(imatrix) if imatrix else None
    with quiet_stdout():
        result = to_gguf_file(
            model, out, type_, imatrix=matrix, overrides=overrides, pre=pre, split_max_size=limit
        )  # fmt: skip
    data = {"model": model, "type": type_, "imatrix": imatrix, **result.to_dict()}
    emit(data, as_json, lambda: _convert_text(data))


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
    matrix = importance(model, calibration_windows(model, calibration, samples, seqlen, seed))
    write_imatrix(matrix, out)
    data = {"model": model, "out": str(out), "calibration": matrix.datasets[0], "entries": len(matrix.sums)}
    told = (
        f"{out}: {len(matrix.sums)} tensors, {matrix.datasets[0]}. Try: qlab convert {model} OUT.gguf --imatrix {out}"
    )
    emit(data, as_json, lambda: told)


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

