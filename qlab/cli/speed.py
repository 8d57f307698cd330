"""Commands that are about speed: generate, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from qlab.cli.app import app
from qlab.cli.common import emit, open_model, quiet_stdout
from qlab.cli.options import ACTIVATIONS_HELP, Json, Model, Seed
from qlab.errors import QlabError

MOST_THREADS = 1024
"""torch hands the number to OpenMP, which ends the process where the system refuses so many."""


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="What the text begins with.")],
    tokens: Annotated[int, typer.Option(help="Write at most this many tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above, tokens are drawn.")] = 0.0,
    seed: Seed = 0,
    threads: Annotated[int | None, typer.Option(help="Threads; all of them by default.", show_default=False)] = None,
    activations: Annotated[
        str | None, typer.Option(help=f"{ACTIVATIONS_HELP} int8 by default, float on a GPU.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda: Triton kernels, everything else in float16.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Write text, token by token, and say how fast.

    Weights stay as small as they are stored (.gguf, GPTQ, AWQ, compressed-tensors, floats), and the kernels of this
    processor multiply them; llama, mistral, qwen2 and qwen3 run in C++ as a whole. Anything else runs in torch.
    """
    import torch

    from qlab.generate import generate as run
    from qlab.generate import why_not_packed
    from qlab.nn import paths

    torch.set_num_threads(torch.get_num_threads() if threads is None else _check_threads(threads))
    activations = activations or ("float" if device.startswith("cuda") else "int8")
    loaded = open_model(model, activations, packed=True, device=device)
    told, pieces = run(loaded, prompt, tokens, temperature, seed)
    reason = why_not_packed(loaded.model)
    text = prompt if not as_json else ""
    if not as_json:
        typer.echo(prompt, nl=False)
    for piece in pieces:
        text += piece
        if not as_json:
            typer.echo(piece, nl=False)
    data = {
        "model": loaded.name, "prompt": prompt, "text": text, "tokens": len(told.ids), "prompt_tokens": told.prompt,
        "tokens_per_second": told.tokens_per_second, "prompt_per_second": told.prompt_per_second,
        "threads": torch.get_num_threads(), "path": told.path, "linears": paths(loaded.model), "ended": told.ended,
    }  # fmt: skip
    if as_json:
        emit(data, True, lambda: "")
        return
    speed = f"{told.tokens_per_second:.1f} tokens/s" if told.tokens_per_second else "one token"
    read = f"prompt of {told.prompt} at {told.prompt_per_second:.0f} tokens/s"
    why = f" ({reason})" if reason else ""
    note = f"{speed}, {read}, {data['threads']} threads, {told.path}{why}; {data['linears']}; ended by {told.ended}"
    typer.secho(f"\n\n{note}", err=True, dim=True)


@app.command()
def bench(
    what: Annotated[
        str, typer.Argument(help="cpu, gpu: the kernels. road: quantizing, packing, encoding. Or a .gguf or folder.")
    ] = "cpu",
    types: Annotated[str | None, typer.Option(help="Of these types: Q4_0,Q4_K,int4-g128-asym …")] = None,
    shapes: Annotated[str | None, typer.Option(help="OUTxIN, such as 4096x4096,4096x14336.")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Inputs at once: 1,16,128; on a GPU ten from 1 to 1024.", show_default=False)
    ] = None,
    threads: Annotated[str | None, typer.Option(help="1 and all by default.", show_default=False)] = None,
    isa: Annotated[str, typer.Option(help="avx512, avx2, neon, scalar; the best by default, `all` for all.")] = "",
    rounds: Annotated[int, typer.Option(help="Timings per row.")] = 21,
    model: Annotated[str | None, typer.Option(help="gpu: a model's tokens per second too.", show_default=False)] = None,
    tune: Annotated[bool, typer.Option("--tune", help="gpu: find the fastest tiles first, much longer.")] = False,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON object here too.", show_default=False)] = None,
) -> None:
    """This machine's ceiling, then each kernel as a share of it and beside other tools' kernels.

    llama.cpp's stand beside ours where llama-cpp-python can be imported; torch's int4 product always does. All take
    turns in one process, on weights larger than the caches; a ratio above 1 says that ours is faster. `gpu` holds every
    result against float64 first, and measures in CUDA graphs beside cuBLAS, tinygemm, and gemlite and Marlin where they
    are installed, in less than 8 minutes; without a GPU it shows the newest recorded run.
    """
    from qlab import bench as road
    from qlab import bench_cpu

    if rounds < 1:
        raise QlabError(f"--rounds {rounds}: a benchmark needs at least 1")
    if what == "gpu":
        given = {"types": types, "shapes": shapes, "batches": tokens, "rounds": rounds, "model": model, "out": out}
        _bench_gpu({name: value for name, value in given.items() if value is not None}, tune, as_json)
    if model is not None or tune:
        raise QlabError("--model and --tune belong to `bench gpu`; for a model on the CPU: qlab bench FILE_OR_FOLDER")
    if what == "road":
        road.main(["--rounds", str(rounds), *(["--json"] if as_json else [])])
        return
    counts = [_check_threads(n) for n in _list(threads, int)] or sorted({1, road.threads_available()})
    if what != "cpu":
        _bench_model(what, counts, rounds, as_json, out)
        return
    from qlab.peers import ggml

    with quiet_stdout():
        peer = ggml()
    asked: dict[str, Any] = {
        "types": _list(types, str) or bench_cpu.TYPES,
        "shapes": [_shape(s) for s in _list(shapes, str)] or bench_cpu.SHAPES,
        "tokens": [_positive("--tokens", n) for n in _list(tokens or "1,16,128", int)],
        "threads": counts,
        "isas": bench_cpu.isas(isa),
        "rounds": rounds,
    }
    ceiling = bench_cpu.ceiling(asked["threads"], rounds)
    if not as_json:
        typer.echo(bench_cpu.heading(ceiling, peer is not None))
    rows = []
    for row in bench_cpu.kernels(peer, **asked):
        rows.append(row)
        if not as_json:
            typer.echo(bench_cpu.line(row))
    _finish({"machine": road.machine(), "read": ceiling, "rows": bench_cpu.table(rows)}, as_json, out)


def _bench_gpu(given: dict[str, Any], tune: bool, as_json: bool) -> NoReturn:
    """The GPU benchmark; it ends with its own exit code."""
    from qlab.bench_gpu import run

    flags = [*(["--tune"] if tune else []), *(["--json"] if as_json else [])]
    raise typer.Exit(run([*(part for name, value in given.items() for part in (f"--{name}", str(value))), *flags]))


def _bench_model(path: str, threads: list[int], rounds: int, as_json: bool, out: Path | None) -> None:
    """A whole model beside llama.cpp."""
    from dataclasses import asdict

    from qlab.bench import machine
    from qlab.bench_model import HEADING, line, speeds

    if not Path(path).exists():
        raise QlabError(f"unknown benchmark {path!r}: choose cpu, gpu, road, or a model's file or folder")
    rows = []
    if not as_json:
        typer.echo(HEADING)
    for row in speeds(path, threads, min(rounds, 9)):
        rows.append(asdict(row))
        if not as_json:
            typer.echo(line(row))
    _finish({"machine": machine(), "rows": rows}, as_json, out)


def _finish(data: dict[str, Any], as_json: bool, out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(data, indent=1) + "\n")
    if as_json:
        emit(data, True, lambda: "")


def _positive(option: str, number: int) -> int:
    if number < 1:
        raise QlabError(f"{option} {number}: give a positive number")
    return number


def _check_threads(number: int) -> int:
    if number > MOST_THREADS:
        raise QlabError(f"--threads {number}: more than {MOST_THREADS}, which OpenMP may not survive")
    return _positive("--threads", number)


def _list(text: str | None, kind: Any) -> list[Any]:
    try:
        return [kind(part) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise QlabError(f"{text!r} is no list of numbers: write them as 1,16,128") from error


def _shape(text: str) -> tuple[int, int]:
    out, _, columns = text.lower().partition("x")
    if not (out.isdigit() and columns.isdigit() and int(out) and int(columns)):
        raise QlabError(f"shape {text!r}: write OUTxIN, such as 4096x14336")
    return int(out), int(columns)
