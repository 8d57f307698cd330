"""Arguments and options that several commands share, with the help they teach by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL_HELP = "`reference`, `reference-768`, a Hugging Face folder or hub id, or a .gguf file."
SPEC_HELP = "How weights are stored: int4-g128-asym, int8-row-sym, nf4-g64-dq, mxfp4 … or a YAML recipe."

Model = Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)]
Corpus = Annotated[str, typer.Option(help="A built-in text (britannica, pydoc, shakespeare) or a UTF-8 file.")]
Tokens = Annotated[int | None, typer.Option(help="Use at most this many tokens of the text.", show_default=False)]
Window = Annotated[int, typer.Option(help="Tokens per window; the incomplete last one is dropped.")]
Protocol = Annotated[str, typer.Option(help="`windows` (papers: every prediction) or `llama.cpp` (second half).")]
ACTIVATIONS_HELP = (
    "Inputs of quantized linears: float; int8, by the integer kernels; llama.cpp, of a .gguf file, rounded as that "
    "program rounds them (the default with its protocol)."
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
