"""The command `qlab` itself, and what becomes of an error."""

from __future__ import annotations

import sys

import typer

from qlab.errors import QlabError

app = typer.Typer(
    help="qlab: learn, compare and ship LLM quantization. Try: qlab compare reference --specs int8-row-sym,int4",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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

