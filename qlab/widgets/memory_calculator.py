"""Does it fit? Weights, KV cache and runtime of known models against the memory of known machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import traitlets

from qlab.errors import QlabError
from qlab.memory import FLOAT_BITS, RUNTIME_BYTES, kv_bytes, weights_bytes
from qlab.spec import QuantSpec
from qlab.widgets.base import Widget, module

GROUP_SHAPE = (4096, 4096)
"""Any shape that groups of 128 divide: all matrices of the models below are such, so their bits are these."""

Q4_K_M_BITS = 4.85
"""Bits per weight of a whole Q4_K_M file, head and embeddings too: llama.cpp's table has 4.84 for Llama-2-7B and
4.89 for Llama-3.1-8B (tools/quantize/README.md)."""


@dataclass(frozen=True)
class Shape:
    """What memory depends on, counted from the model's config.json on Hugging Face (`config`).

    linear_params: matrices that a spec quantizes; embedding_params: embedding and output head; other_params: norms and
    biases, always 16-bit. trained: the longest context of the config, in tokens.
    """

    name: str
    config: str
    linear_params: int
    embedding_params: int
    other_params: int
    layers: int
    kv_heads: int
    head_dim: int
    trained: int


@dataclass(frozen=True)
class Format:
    """Bits per weight, metadata included, of linear layers and of embeddings."""

    name: str
    says: str
    linear_bits: float
    embedding_bits: float = FLOAT_BITS


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("Llama-2-7B", "meta-llama/Llama-2-7b-hf", 6476005376, 262144000, 266240, 32, 32, 128, 4096),
        Shape("Llama-3.1-8B", "meta-llama/Llama-3.1-8B", 6979321856, 1050673152, 266240, 32, 8, 128, 131072),
        Shape("Llama-2-13B", "meta-llama/Llama-2-13b-hf", 12687769600, 327680000, 414720, 40, 40, 128, 4096),
        Shape("Qwen2.5-32B", "Qwen/Qwen2.5-32B", 31205621760, 1557135360, 1119232, 64, 8, 128, 131072),
        Shape("Llama-3.1-70B", "meta-llama/Llama-3.1-70B", 68451041280, 2101346304, 1318912, 80, 8, 128, 131072),
    )
}


def _grouped(name: str, spec: str) -> Format:
    bits = QuantSpec.parse(spec).bits_per_weight(GROUP_SHAPE)
    return Format(name, f"{spec}, {bits:.4g} bits; embeddings and head stay at 16", bits)


FORMATS = {
    form.name: form
    for form in (
        Format("fp16", "16 bits, as published", FLOAT_BITS),
        _grouped("int8", "int8-g128-sym"),
        Format("Q4_K_M", f"{Q4_K_M_BITS} bits over the whole file, as llama.cpp publishes", Q4_K_M_BITS, Q4_K_M_BITS),
        _grouped("int4", "int4-g128-asym"),
        _grouped("int3", "int3-g128-asym"),
        _grouped("int2", "int2-g128-asym"),
    )
}

DEVICES = (8, 16, 24, 31, 80)
"""Gigabytes: a small laptop or a phone, a common laptop, a gaming GPU, the brief's laptop, a data-centre GPU."""

CONTEXTS = tuple(2**k for k in range(9, 18))
"""512 to 131,072 tokens."""


def needs(shape: Shape, form: Format, context: int) -> dict[str, float]:
    """Bytes of the parts of a model that answers at `context` tokens with a 16-bit cache, and their total."""
    weights = (
        weights_bytes(shape.linear_params, form.linear_bits)
        + weights_bytes(shape.embedding_params, form.embedding_bits)
        + weights_bytes(shape.other_params, FLOAT_BITS)
    )
    cache = kv_bytes(shape.layers, shape.kv_heads, shape.head_dim, context)
    return {"weights": weights, "kv": cache, "runtime": RUNTIME_BYTES, "total": weights + cache + RUNTIME_BYTES}


def table(names: dict[str, float], form: str = "int4", context: int = 4096) -> list[dict[str, Any]]:
    """For each model of `names` what it is said to need (GB) beside what `form` needs at `context` tokens (GB)."""
    rows = []
    for name, said in names.items():
        parts = {key: f"{size / 1e9:.1f}" for key, size in needs(SHAPES[name], FORMATS[form], context).items()}
        rows.append({"model": name, "said (GB)": said, **{k: parts[k] for k in ("weights", "kv", "total")}})
    return rows


class MemoryCalculator(Widget):
    """One stacked bar against the devices; model, format and context are the reader's."""

    _esm = module("memory_calculator.js")
    shapes: traitlets.List = traitlets.List().tag(sync=True)
    formats: traitlets.List = traitlets.List().tag(sync=True)
    devices: traitlets.List = traitlets.List().tag(sync=True)  # gigabytes
    contexts: traitlets.List = traitlets.List().tag(sync=True)  # tokens, the stops of the slider
    runtime = traitlets.Int().tag(sync=True)  # bytes
    start = traitlets.Dict().tag(sync=True)  # shape, format, context, target: what is shown first


def memory_calculator(
    shape: str = "Llama-3.1-8B", form: str = "int4", context: int = 4096, target: int = 31
) -> MemoryCalculator:
    """The calculator, opened at a model, a format, a context, and the device (GB) its answer speaks of."""
    for value, known in ((shape, SHAPES), (form, FORMATS), (context, CONTEXTS), (target, DEVICES)):
        if value not in known:
            raise QlabError(f"no {value!r} in the calculator: choose one of {', '.join(map(str, known))}")
    return MemoryCalculator(
        shapes=[asdict(s) for s in SHAPES.values()],
        formats=[asdict(f) for f in FORMATS.values()],
        devices=list(DEVICES),
        contexts=list(CONTEXTS),
        runtime=RUNTIME_BYTES,
        start={"shape": shape, "format": form, "context": context, "target": target},
    )
