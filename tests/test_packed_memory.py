"""What a packed model costs: its weights, and the peak of loading it, against its file."""

import json
import subprocess
import sys

import pytest

from qlab.convert import to_gguf_file
from qlab.models import open_lazily
from qlab.recipes import Recipe
from qlab.streamed import Conversion

pytestmark = pytest.mark.reference

MEASURE = """
import ctypes, json, sys
from pathlib import Path
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: some systems fill what is only reserved with huge pages
import torch
import qlab.from_gguf
import qlab.models
from qlab.files.gguf import open_gguf
from qlab.files.stored import return_freed_memory, skeleton
from qlab.ggml.tokenizer import tokenizer_of

def now(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

def held(model):
    tiles = {id(m.weight_): m.weight_.nbytes for m in model.modules() if hasattr(m, "weight_")}
    return sum(tiles.values()) + sum(p.numel() * p.element_size() for p in model.parameters())

# what is there without any weight: the programs, an empty model, the tokenizer, which loading takes over
path = Path(sys.argv[1])
empty = skeleton(path, qlab.models.load_config(path), torch.float32)
if path.is_dir():
    size, tokenizer = (path / "model.safetensors").stat().st_size, qlab.models.open_tokenizer(path)
    qlab.models.open_tokenizer = lambda folder: tokenizer
else:
    file = open_gguf(path)
    size, tokenizer = file.nbytes, tokenizer_of(file.metadata)
    qlab.from_gguf.tokenizer_of = lambda keys: tokenizer
return_freed_memory()  # what loading reuses of it would not be counted
before = now("VmRSS")
model = qlab.models.load(path, packed=True, activations="int8").model
print(json.dumps({"held": held(model), "peak": now("VmHWM") - before, "file": size}), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("stored", ["Q4_K_M", "Q4_0", "gptq_v2", "awq", "compressed-tensors"])
def test_a_4_bit_model_takes_the_memory_of_its_file(stored, tmp_path):
    path = tmp_path / ("model.gguf" if stored.startswith("Q4") else "model")
    if stored.startswith("Q4"):
        to_gguf_file("reference-768", path, stored, progress=False)
    else:
        source, _ = open_lazily("reference-768")
        Conversion(source, Recipe.of("int4-g64-asym", "rtn"), stored).run(path, progress=False)
    run = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["held"] <= 1.05 * found["file"]
    assert 0.8 * found["file"] < found["peak"] <= 1.15 * found["file"]  # below, it would not have been measured
