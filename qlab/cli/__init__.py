"""The command line: parses, calls, prints a table or one JSON object. Bad input ends with one line and exit code 2."""

from qlab.cli import measure, speed, write  # noqa: F401  (the decorators in them make the commands)
from qlab.cli.app import app, main

__all__ = ["app", "main"]
