"""Runs functions of the widgets' JavaScript under node, so that tests can hold them against Python."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from qlab.widgets.base import JS


def call(module: str, function: str, *argument_lists: list[Any]) -> list[Any]:
    """Results of `function` of js/`module`, one for each list of arguments; NaN and infinities come back as None."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the widgets' JavaScript cannot be run")
    script = (
        f'import {{ {function} }} from "{(JS / module).as_uri()}";\n'
        'import { readFileSync } from "node:fs";\n'
        'const lists = JSON.parse(readFileSync(0, "utf8"));\n'
        f"console.log(JSON.stringify(lists.map((args) => {function}(...args))));\n"
    )
    command = [node, "--no-warnings", "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(argument_lists), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
