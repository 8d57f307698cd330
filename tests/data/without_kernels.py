"""Run with QLAB_NO_KERNELS=1 by tests/kernels/test_without.py: what works in torch, and what is said of the rest.

python without_kernels.py MODEL.gguf QUANTIZED_FOLDER
"""

import importlib
import json
import pkgutil
import sys
import warnings

import torch

import qlab


def imported():
    """What is said while every module is imported."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for module in pkgutil.walk_packages(qlab.__path__, "qlab."):
            if not module.name.endswith(("__main__", "_native")):
                importlib.import_module(module.name)
    return [str(w.message) for w in caught if "kernels" in str(w.message)]


def worked(gguf, folder):
    """What works, and what is refused."""
    from qlab.kernels import cpu

    from qlab import bench, bench_cpu
    from qlab.bits import pack_bits, unpack_bits
    from qlab.errors import QlabError
    from qlab.evaluate import evaluate
    from qlab.generate import generate
    from qlab.methods import quantize
    from qlab.models import load
    from qlab.nn import QLinear, paths
    from qlab.tiles import tile

    told = {}
    told["offered"] = [cpu.available, cpu.formats(), cpu.isas(), cpu.features(), cpu.block_types()]
    codes = torch.arange(64, dtype=torch.uint8).reshape(2, 32)
    told["packed and back"] = torch.equal(unpack_bits(pack_bits(codes, 6), 6, 32), codes)
    told["refused"] = []
    Q = quantize(torch.randn(4, 32), "int4-g32-asym")
    for asked in (
        lambda: tile(Q),
        lambda: bench.ceiling(1),
        lambda: bench_cpu.ceiling([1], 1),
        lambda: next(bench_cpu.kernels()),
        lambda: bench_cpu.isas(""),
    ):
        try:
            asked()
        except QlabError as error:
            told["refused"].append(str(error))
    for name in (gguf, folder):
        told[name] = {}
        for inputs in ("float", "int8", "llama.cpp") if name == gguf else ("float", "int8"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loaded = load(name, packed=True, activations=inputs)
            said = [str(w.message) for w in caught if "kernels" in str(w.message)]
            ids = torch.arange(3, 35) % loaded.model.config.vocab_size
            perplexity = evaluate(loaded.model, ids, window=16).perplexity
            generation, pieces = generate(loaded, "ab", 3)
            list(pieces)
            told[name][inputs] = [said, paths(loaded.model), generation.path, perplexity]
            assert all(type(m.weight_).__name__ == "QTensor" for m in loaded.model.modules() if isinstance(m, QLinear))
    return told


print(json.dumps({"imported": imported(), **worked(*sys.argv[1:])}))
