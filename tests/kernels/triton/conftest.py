"""The kernels run on CPU tensors here, in Triton's interpreter: its variable is set while they are imported and run.

Compiled kernels are looked at in processes of their own (`test_compiled.py`). bfloat16 is only compiled: the
interpreter multiplies its bits as integers.
"""

import os

import pytest
from interpreted import VARIABLE, interpreter, interpreting  # noqa: F401 (a fixture)

with interpreting():
    from qlab.kernels.triton import autotune, int8, launch, quantize, steps  # noqa: F401


@pytest.fixture
def compiling():
    """The environment of a process that compiles."""
    return {name: value for name, value in os.environ.items() if name != VARIABLE}
