"""Runs functions of the widgets' JavaScript under node, so that tests can hold them against Python."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from qlab.widgets.base import JS


def call(module: str, function: str, *argument_lists: list[Any]) -> list[Any]:
    """Results of `function` of js/`module`, one for each list of arguments; NaN and infinities come back as None."""
    script = (
        f'import {{ {function} }} from "{(JS / module).as_uri()}";\n'
        'import { readFileSync } from "node:fs";\n'
        'const lists = JSON.parse(readFileSync(0, "utf8"));\n'
        f"console.log(JSON.stringify(lists.map((args) => {function}(...args))));\n"
    )
    return json.loads(node("--no-warnings", "--eval", script, stdin=json.dumps(argument_lists)))


def parse(text: str) -> None:
    """Fails, with what node says, on an error in the syntax of a module's text; nothing of it is run."""
    node("--check", "-", stdin=text)


def node(*arguments: str, stdin: str) -> str:
    """What node prints; whatever code it is given is a module's."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: the widgets' JavaScript cannot be run")
    command = [program, "--input-type=module", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
