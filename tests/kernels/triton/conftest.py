"""The kernels run on CPU tensors here, in Triton's interpreter: its variable is set while they are imported and run.

Compiled kernels are looked at in processes of their own (`test_compiled.py`). bfloat16 is only compiled: the
interpreter multiplies its bits as integers.
"""

import os

import pytest

VARIABLE = "TRITON_INTERPRET"

with pytest.MonkeyPatch.context() as patch:
    patch.setenv(VARIABLE, "1")
    from qlab.kernels.triton import autotune, int8, launch, quantize, steps  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    assert launch.INTERPRETED, "the kernels were imported before this conftest, without the interpreter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "1")
        yield


@pytest.fixture
def compiling():
    """The environment of a process that compiles."""
    return {name: value for name, value in os.environ.items() if name != VARIABLE}
