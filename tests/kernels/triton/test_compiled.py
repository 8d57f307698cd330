"""Machine code without a GPU: no spills, room in shared memory, tensor cores, no conversions; held to the record.

Everything is compiled by processes of their own, as this one's kernels are interpreted.
"""

import json
import subprocess
import sys

import pytest
from qlab.kernels.triton import compiled, device, shipped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
PRODUCT = {(80, True): "HMMA", (90, True): "HGMMA", (80, False): "IMMA", (90, False): "IGMMA"}
CASES = [(capability, name) for capability in shipped.CAPABILITIES for name in shipped.kernels(capability)]


@pytest.fixture(scope="module")
def counter(root):
    """The script that counts."""
    sys.path.insert(0, str(root / "scripts"))
    import compile_triton

    sys.path.remove(str(root / "scripts"))
    return compile_triton


@pytest.fixture(scope="module")
def told(counter):
    """What the installed Triton, the newest we take, makes of every shipped kernel, and the oldest."""
    return {"newest": counter.compiled(), "oldest": counter.compiled(version=counter.oldest())}


@pytest.mark.parametrize("age", ["newest", "oldest"])
@pytest.mark.parametrize("capability, name", CASES)
def test_a_shipped_kernel(told, capability, name, age):
    made = shipped.kernels(capability)[name]
    found = compiled.Census(**told[age]["kernels"][name][f"sm_{capability}"])
    assert found.local == found.spills == 0
    assert found.shared <= device.SHARED[capability]
    if made.product:
        floats = made.product != "int8"
        narrow = age == "oldest" and made.constants["BM"] == 8  # it gives 8 tokens the product of Ampere on Hopper too
        assert found.count("HMMA" if narrow else PRODUCT[capability, floats]) > 0
        assert found.count("LDGSTS") > 0  # weights and X are copied ahead
        assert found.count("LDGSTS", "128") > 0 or made.constants["H"] < 32  # 16 bytes a thread, if rows have them
        assert found.count("I2F") == 0 or not floats
    if name in ("int4-g128 8", "int4-g128 8 split"):
        # 256 weights a thread: one fused multiply for two, one lop3 for two and a few for addresses
        assert found.count("HFMA2") == 128 and found.count("LOP3") < 180


@pytest.mark.parametrize("age", ["newest", "oldest"])
def test_the_record_holds(told, counter, age):
    record, found = json.loads(counter.RECORD.read_text())["triton"], told[age]
    assert counter.summaries(found) == record[found["triton"]], "python scripts/compile_triton.py --record, if meant"


def test_the_oldest_is_the_one_we_claim(told, counter):
    assert told["oldest"]["triton"] == counter.oldest() != told["newest"]["triton"]


def test_the_ladder_counts(compiling):
    code = """
import json
from qlab.kernels.triton import compiled, steps
counts = {}
for one in steps.LADDER:
    made = steps.compilable(one)
    kernel = compiled.compile_kernel(made.kernel, made.types, made.constants, 90, made.warps, made.stages)
    found = compiled.census(kernel)
    counts[one.name] = [found.count(name) for name in ("I2F", "LOP3", "LDGSTS", "HMMA", "HGMMA")]
print(json.dumps(counts))"""
    run = subprocess.run([sys.executable, "-c", code], env=compiling, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)
    conversions, _, copies, mma, wide = map(list, zip(*counts.values(), strict=True))
    assert [n > 0 for n in conversions] == [False, True, True, False, False, False, False]
    assert [n > 0 for n in copies] == [False] * 4 + [True] * 3
    assert [n > 0 for n in mma] == [True] * 6 + [False] and wide[-1] > 0


def test_nothing_compiles_in_the_interpreter():
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET was set"):
        compiled.compile_shipped(shipped.kernels(90)["int4-g128 8"], 90)


def test_without_triton_it_says_so(compiling):
    code = """
import sys, warnings
sys.modules["triton"] = None
warnings.simplefilter("error")
import qlab
from qlab.kernels import triton
try:
    triton.multiply(1, 2)
except RuntimeError as error:
    print(triton.available, error)"""
    run = subprocess.run([sys.executable, "-c", code], env=compiling, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("False Triton is not here") and "pip install 'qlab[gpu]'" in run.stdout
