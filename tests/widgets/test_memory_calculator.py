"""The memory calculator: its shapes are the models' configs, its JavaScript is qlab.memory."""

import itertools
import json

import pytest
from transformers import LlamaConfig, Qwen2Config

from qlab.errors import QlabError
from qlab.memory import estimate
from qlab.spec import QuantSpec
from qlab.widgets.memory_calculator import CONTEXTS, DEVICES, FORMATS, SHAPES, memory_calculator, needs, table
from tests.widgets.node import call

# hidden, intermediate, layers, heads, KV heads, vocabulary: from the config.json that each shape names
CONFIGS = {
    "Llama-2-7B": (LlamaConfig, 4096, 11008, 32, 32, 32, 32000),
    "Llama-3.1-8B": (LlamaConfig, 4096, 14336, 32, 32, 8, 128256),
    "Llama-2-13B": (LlamaConfig, 5120, 13824, 40, 40, 40, 32000),
    "Qwen2.5-32B": (Qwen2Config, 5120, 27648, 64, 40, 8, 152064),
    "Llama-3.1-70B": (LlamaConfig, 8192, 28672, 80, 64, 8, 128256),
}
SPECS = {"int8": "int8-g128-sym", "int4": "int4-g128-asym", "int3": "int3-g128-asym",
         "int2": "int2-g128-asym"}  # fmt: skip


def config(name):
    kind, hidden, intermediate, layers, heads, kv_heads, vocabulary = CONFIGS[name]
    return kind(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=False,
    )  # fmt: skip


def test_every_shape_is_checked():
    assert set(CONFIGS) == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_bytes_are_those_of_qlab_estimate(name):
    shape, exact = SHAPES[name], estimate(config(name), "int4-g128-asym", context=512)
    counted = (shape.linear_params, shape.embedding_params, shape.other_params)
    assert counted == (exact.linear_params, exact.embedding_params, exact.other_params)
    assert needs(shape, FORMATS["int4"], 512) == {
        "weights": exact.weights_bytes, "kv": exact.kv_bytes,
        "runtime": exact.runtime_bytes, "total": exact.total_bytes,
    }  # fmt: skip


@pytest.mark.parametrize("form", SPECS)
def test_the_bits_of_a_format_hold_for_every_matrix_of_every_model(form):
    spec = QuantSpec.parse(SPECS[form])
    for _, hidden, intermediate, *_ in CONFIGS.values():
        for shape in ((hidden // 8, hidden), (intermediate, hidden), (hidden, intermediate)):
            assert spec.bits_per_weight(shape) == FORMATS[form].linear_bits


def test_javascript_bytes_equal_python():
    widget = memory_calculator()
    cases = list(itertools.product(range(len(widget.shapes)), range(len(widget.formats)), CONTEXTS))
    arguments = ([widget.shapes[s], widget.formats[f], context, widget.runtime] for s, f, context in cases)
    got = call("memory_calculator.js", "needs", *arguments)
    shapes, formats = list(SHAPES.values()), list(FORMATS.values())
    for (s, f, context), js in zip(cases, got, strict=True):
        assert js == needs(shapes[s], formats[f], context)


def test_a_device_that_is_exactly_full_fits():
    assert call("memory_calculator.js", "fits", [31e9, 31], [31e9 + 1, 31]) == [True, False]


def test_the_axis_holds_the_bar_and_the_device():
    totals = [1e9, 30e9, 33e9, 88e9, 142e9, 199e9, 950e9]
    for total, end in zip(totals, call("memory_calculator.js", "axisEnd", *([t, 31] for t in totals)), strict=True):
        assert end >= max(total / 1e9, 31)
        assert end <= 2 * max(total / 1e9, 31)  # the bar never shrinks to nothing


def test_the_published_format_is_close_to_published_files():
    # llama.cpp, tools/quantize/README.md: files of 4.08 GB (7B) and 4.89 bits a weight (8B)
    assert needs(SHAPES["Llama-2-7B"], FORMATS["Q4_K_M"], 512)["weights"] / 1e9 == pytest.approx(4.08, abs=0.01)
    assert FORMATS["Q4_K_M"].linear_bits == pytest.approx(4.89, abs=0.05)


def test_a_table_puts_the_claim_beside_the_sum():
    (row,) = table({"Llama-2-7B": 4})
    assert row == {"model": "Llama-2-7B", "said (GB)": 4, "weights": "3.9", "kv": "2.1", "total": "6.8"}


def test_the_saved_widget_is_small_and_opens_where_asked():
    widget = memory_calculator("Llama-2-7B", "fp16", 2048, 16)
    assert widget.start == {"shape": "Llama-2-7B", "format": "fp16", "context": 2048, "target": 16}
    frames = [widget.shapes, widget.formats, widget.devices, widget.contexts]
    assert len(json.dumps(frames)) < 10_000
    assert widget.devices == list(DEVICES)


@pytest.mark.parametrize("wrong", [{"shape": "GPT-5"}, {"form": "int5"}, {"context": 1000}, {"target": 12}])
def test_what_the_calculator_lacks_is_named(wrong):
    with pytest.raises(QlabError, match=r"in the calculator: choose one of"):
        memory_calculator(**wrong)
