"""Triton's interpreter, in which kernels run on CPU tensors: import them inside `interpreting`, take its fixture."""

from contextlib import contextmanager

import pytest

VARIABLE = "TRITON_INTERPRET"


@contextmanager
def interpreting():
    """The variable set, as it must be while kernels are imported and while they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "1")
        yield


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    from qlab.kernels.triton.device import INTERPRETED

    assert INTERPRETED, "the kernels were imported before these tests, without the interpreter"
    with interpreting():
        yield
