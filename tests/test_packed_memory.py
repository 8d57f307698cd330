"""What a packed model costs: its weights, and the peak of loading it, against its file."""

import json
import subprocess
import sys

import pytest

from qlab.convert import to_gguf_file

pytestmark = pytest.mark.reference

MEASURE = """
import json, sys
import torch
import qlab.from_gguf
import qlab.models
from qlab.files.gguf import open_gguf
from qlab.files.stored import skeleton
from qlab.from_gguf import _config
from qlab.ggml.tokenizer import tokenizer_of

def now(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

def held(model):
    tiles = {id(m.weight_): m.weight_.nbytes for m in model.modules() if hasattr(m, "weight_")}
    return sum(tiles.values()) + sum(p.numel() * p.element_size() for p in model.parameters())

# what is there without any weight: the programs, an empty model, the tokenizer, which loading takes over
file = open_gguf(sys.argv[1])
empty, tokenizer = skeleton(file.path, _config(file), torch.float32), tokenizer_of(file.metadata)
qlab.from_gguf.tokenizer_of = lambda keys: tokenizer
before = now("VmRSS")
model = qlab.models.load(sys.argv[1], packed=True, activations="int8").model
print(json.dumps({"held": held(model), "peak": now("VmHWM") - before, "file": file.nbytes}), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("type_", ["Q4_K_M", "Q4_0"])
def test_a_4_bit_model_takes_the_memory_of_its_file(type_, tmp_path):
    path = tmp_path / "model.gguf"
    to_gguf_file("reference-768", path, type_, progress=False)
    run = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["held"] <= 1.05 * found["file"]
    assert 0.8 * found["file"] < found["peak"] <= 1.15 * found["file"]  # below, it would not have been measured
