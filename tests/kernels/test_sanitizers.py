"""The kernels under the compiler's sanitizers: nothing out of bounds, nothing undefined, no race; and bugs are seen."""

import subprocess

import pytest

MEMORY, THREADS = "address,undefined", "thread"


@pytest.fixture(scope="module")
def checks(script):
    build = script("build_checks")
    if build.compiler() is None:
        pytest.skip("no C++ compiler found: install g++ or name one in CXX")
    return lambda sanitizer, *given: subprocess.run(
        [build.build(sanitizer), *given], capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("seed", ["1", "2"])
@pytest.mark.parametrize("sanitizer, what", [(MEMORY, "kernels"), (MEMORY, "threads"), (THREADS, "threads")])
def test_the_sanitizers_are_silent(checks, sanitizer, what, seed):
    run = checks(sanitizer, what, seed)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "sanitizer, bug, said", [(MEMORY, "memory", "AddressSanitizer"), (THREADS, "threads", "data race")]
)
def test_the_sanitizers_would_not_be_silent(checks, sanitizer, bug, said):
    run = checks(sanitizer, "broken", bug)
    assert run.returncode and said in run.stderr
