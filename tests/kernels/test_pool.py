"""The pool of threads: the same sums from many threads, after and during a fork, in other processes, and at the end."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from qlab.kernels import cpu
from qtensors import made

from qlab.tiles import tile

ARRAY = np.random.default_rng(0).integers(256, size=200_000, dtype=np.uint8)
WANTED = cpu.read_sum(ARRAY, 1)
BEGIN = """
import os, sys, threading, time
import numpy as np
from qlab.kernels import cpu
array = np.random.default_rng(0).integers(256, size=200_000, dtype=np.uint8)
wanted = cpu.read_sum(array, 1)
"""


def python(code, *arguments):
    """What a Python of its own prints; it must end well, and within a minute."""
    run = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", BEGIN + code, *arguments],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize("threads", [2, 3, 8, 64, 300, 2**31 - 1])
def test_more_threads_than_cores(threads):
    assert all(cpu.read_sum(ARRAY, threads) == WANTED for _ in range(20))


def test_many_python_threads_at_once():
    packed = tile(made("q4_k", 70, 256))
    X = torch.randn(17, 256, generator=torch.Generator().manual_seed(0))
    Y = packed.multiply(X, threads=1)

    def work(number):
        threads = 1 + number % 5
        for _ in range(30):
            assert cpu.read_sum(ARRAY, threads) == WANTED
            assert torch.equal(packed.multiply(X, threads=threads), Y)
        return number

    with ThreadPoolExecutor(12) as pool:
        assert sorted(pool.map(work, range(24))) == list(range(24))


def test_a_call_while_the_pool_is_busy_comes_back_first():
    """It does not wait for the long one: it runs on its caller alone."""
    found = python("""
long = np.ones(300_000_000, np.uint8)
ended = []
def call():
    cpu.read_sum(long, 2)
    ended.append("long")
thread = threading.Thread(target=call)
thread.start()
assert cpu.read_sum(array, 2) == wanted
ended.append("short")
thread.join()
print(*ended)
""")
    assert found == ["short", "long"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize("threads", ["0", "1", "4"])
def test_fork_while_the_pool_is_used(threads):
    """0: after the use. The child, its children, and the parent afterwards compute the right sum."""
    found = python(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
stop = threading.Event()
def busy():
    while not stop.is_set():
        assert cpu.read_sum(array, 3) == wanted
assert cpu.read_sum(array, 3) == wanted
others = [threading.Thread(target=busy) for _ in range(int(sys.argv[1]))]
for thread in others:
    thread.start()
def right():
    return all(cpu.read_sum(array, n) == wanted for n in (1, 2, 5) * 5)
for _ in range(20):
    child = os.fork()
    if child == 0:
        good = right()
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if right() else 1)
        os._exit(0 if good and os.waitpid(grandchild, 0)[1] == 0 and right() else 1)
    print(os.waitpid(child, 0)[1])
    assert right()
stop.set()
for thread in others:
    thread.join()
""",
        threads,
    )
    assert found == ["0"] * 20


def test_the_interpreter_ends_right_after_use():
    assert python("assert cpu.read_sum(array, 8) == wanted; print('end')") == ["end"]


@pytest.mark.parametrize("call", ["cpu.read_sum(array, 1)", "cpu.pack_bits(codes, 8, words)"])
def test_a_daemon_thread_in_a_kernel_does_not_abort_the_end(call):
    assert python(f"""
import time
codes, words = np.zeros((1, 2**22, 1), np.uint8), np.zeros((1, 2**20, 1), np.int32)
def forever():
    while True:
        {call}
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
print('end')
""") == ["end"]  # fmt: skip


def test_spawned_processes(tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        BEGIN
        + """
import multiprocessing
def total(threads):
    return cpu.read_sum(array, threads) == wanted
if __name__ == "__main__":
    assert cpu.read_sum(array, 4) == wanted
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(total, range(1, 9)) == [True] * 8
"""
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_calls_inside_calls(script):
    """Python cannot nest them; the program of kernels/cpu/checks does, from several threads."""
    build = script("build_checks")
    if build.compiler() is None:
        pytest.skip("no C++ compiler found: install g++ or name one in CXX")
    run = subprocess.run([build.build(), "threads", "3"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
