"""Lesson 15's puzzles: stubs fail, solutions pass, and what looks right but is not fails.

Kernels run in Triton's interpreter, which must be chosen before triton is imported: in a process of its own.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.exercises.notebook_cells import all_tagged

pytest.importorskip("triton")

NAMES = {"unpack": "unpack", "magic": "magic_high", "split": "split"}
# puzzle → what is wrong → (text of the solution, what stands there instead)
WRONG = {
    "unpack": {
        "the sign is dragged in": (" & 0xF", ""),
        "the highest code first": ("4 * k", "28 - 4 * k"),
        "bits instead of nibbles": ("4 * k", "k"),
        "three bits kept": ("0xF", "0x7"),
        "words four apart": ("8 * word", "4 * word"),
    },
    "magic": {
        "a number converted, not its bits": (", bitcast=True", ""),
        "the lower nibble": ("0xF0", "0xF"),
        "all of the byte": ("0xF0", "0xFF"),
        "nothing cut off": (" & 0xF0", ""),
        "512 instead of 1024": ("0x6400", "0x6000"),
        "added twice": ("(n | 0x6400)", "(n | 0x6401)"),
    },
    "split": {
        "rounded down": ("(blocks + SPLIT - 1) // SPLIT", "blocks // SPLIT"),
        "the end forgotten": ("min(share * each + each, blocks)", "share * each + each"),
        "every share sums all": ("range(share * each, min(share * each + each, blocks))", "range(0, blocks)"),
        "striped shares": ("range(share * each, min(share * each + each, blocks))", "range(share, blocks, SPLIT)"),
        "all stored in the first share": ("share * 256 + ", ""),
        "not transposed": (".trans()", ""),
        "the result transposed": ("i[:, None] * 16 + i[None, :]", "i[None, :] * 16 + i[:, None]"),
        "only the last block": ("tl.dot(tl.load(x + at), tl.load(w + at).trans(), acc)",
                                "tl.dot(tl.load(x + at), tl.load(w + at).trans())"),
    },
}  # fmt: skip
JUDGE = """
import importlib.util, json, sys
from pathlib import Path
from qlab.exercises.gpu import puzzle
found = []
for number, (name, function, source) in enumerate(json.loads(Path(sys.argv[1]).read_text())):
    path = Path(sys.argv[1]).with_name(f"kernel_{number}.py")  # the interpreter reads a kernel's source from its file
    path.write_text("import triton\\nimport triton.language as tl\\n" + source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found.append(repr(puzzle(name, getattr(module, function))))
print(json.dumps(found))
"""


def sources(tag):
    return dict(zip(NAMES, all_tagged("15", tag), strict=True))


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What each attempt was told: (puzzle, attempt) → verdict."""
    solutions, attempts = sources("exercise-solution"), {}
    for name, stub in sources("exercise-stub").items():
        attempts[name, "stub"], attempts[name, "solution"] = stub, solutions[name]
        for wrong, (right, instead) in WRONG[name].items():
            assert right in solutions[name], wrong
            attempts[name, wrong] = solutions[name].replace(right, instead)
    file = tmp_path_factory.mktemp("puzzles") / "attempts.json"
    file.write_text(json.dumps([(name, NAMES[name], source) for (name, _), source in attempts.items()]))
    done = subprocess.run([sys.executable, "-c", JUDGE, str(file)], env=os.environ | {"TRITON_INTERPRET": "1"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(attempts, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_fails(name, verdicts):
    assert verdicts[name, "stub"].startswith("✗") and "stub" in verdicts[name, "stub"]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, verdicts):
    assert verdicts[name, "solution"].startswith("✓")


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in NAMES for wrong in WRONG[name]])
def test_a_plausible_mistake_fails(name, wrong, verdicts):
    assert verdicts[name, wrong].startswith("✗")


def test_a_compiled_kernel_and_an_unknown_puzzle_are_refused():
    from qlab.errors import QlabError
    from qlab.exercises.gpu import puzzle

    with pytest.raises(QlabError, match="not interpreted: decorate it with @triton.jit"):
        puzzle("unpack", lambda words, out: None)
    with pytest.raises(QlabError, match="unknown puzzle 'pack': use one of unpack, magic, split"):
        puzzle("pack", None)
