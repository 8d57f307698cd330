"""The kernels of aarch64, compiled for it and run by an emulator: held to float64, and the same bytes as here."""

import shutil
import subprocess

import pytest

MACHINE = "aarch64"
# cortex-a72 has no dot product
ISAS = {"max": "neon", "cortex-a72": "scalar"}


@pytest.fixture(scope="module")
def build(script):
    checks = script("build_checks")
    if checks.compiler(MACHINE) is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("no aarch64 compiler or emulator (Debian: apt-get install g++-aarch64-linux-gnu qemu-user)")
    return checks


def emulated(processor, *given):
    return subprocess.run(["qemu-aarch64", "-cpu", processor, *given], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("what, seed", [("kernels", "1"), ("kernels", "2"), ("kernels", "3"), ("threads", "1")])
@pytest.mark.parametrize("processor", ISAS)
def test_every_kernel_gives_the_numbers(build, processor, what, seed):
    run = emulated(processor, build.build(machine=MACHINE), what, seed)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("processor", ISAS)
def test_the_processor_decides(build, processor):
    run = emulated(processor, build.build(machine=MACHINE), "count", "int4", "best", "1", "16", "32", "1")
    known = {"neon": "neon, scalar", "scalar": "scalar"}[ISAS[processor]]
    assert run.returncode and f"this processor runs {known}\n" in run.stderr


def test_blocks_have_the_same_bytes_and_numbers(build):
    if build.compiler() is None:
        pytest.skip("no C++ compiler found: install g++ or name one in CXX")
    here = subprocess.run([build.build(sources=build.BLOCKS)], capture_output=True, text=True, check=True)
    there = emulated("max", build.build(machine=MACHINE, sources=build.BLOCKS))
    assert len(here.stdout.splitlines()) == 2 * 16
    assert (there.returncode, there.stdout) == (0, here.stdout)
