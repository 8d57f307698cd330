"""The scripts that compile and count the kernels, for the tests of this folder."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope="session")
def script(root):
    """A script as a module, by its name."""

    def loaded(name):
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, root / "scripts" / f"{name}.py")
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    return loaded
