"""The package's front door: every public name exists, and none of them is hidden by a module of the same name."""

import subprocess
import sys
from pathlib import Path

import pytest

import qlab


@pytest.mark.parametrize("name", qlab.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(qlab, name) is not None


def test_no_public_name_is_also_a_module() -> None:
    # importing `qlab.x` sets the attribute `x` of the package: a function of that name would vanish after the first use
    modules = {path.stem for path in Path(qlab.__file__).parent.iterdir()}
    assert modules.isdisjoint(qlab.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = qlab.quantise


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import qlab, sys; assert not {'torch', 'transformers', 'IPython'} & set(sys.modules), list(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
