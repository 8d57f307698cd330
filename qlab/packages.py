"""Finding data inside installed packages, without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from qlab.errors import QlabError


def package_file(module: str, file: str, install: str) -> Path:
    """Path of `file` inside the installed package `module`; `install` is the command that would provide it."""
    spec = importlib.util.find_spec(module)
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (path := Path(folder) / file).is_file():
            return path
    raise QlabError(f"package data is missing: {module}/{file}; run: {install}")
