"""The stack of a memory estimate."""

import pytest
from transformers import LlamaConfig

from qlab.memory import estimate
from qlab.plots import memory_stack

CONFIG = LlamaConfig(
    vocab_size=32000, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4
)


def test_stack_adds_up_to_the_total():
    whole = estimate(CONFIG)
    fig = memory_stack({"bf16": whole})
    # five parts, each rounded to 4 digits
    assert sum(bar.x[0] for bar in fig.data) == pytest.approx(whole.total_bytes / 1e9, rel=5e-4)
    assert fig.layout.barmode == "stack"


def test_devices_are_lines_in_decimal_gigabytes():
    fig = memory_stack({"bf16": estimate(CONFIG)}, {"8 GiB card": 8})
    assert fig.layout.shapes[0].x0 == 8.59  # 8 · 2^30 bytes
    assert fig.layout.annotations[0].text == "8 GiB card"


def test_one_bar_per_estimate_in_order():
    fig = memory_stack({"bf16": estimate(CONFIG), "int4": estimate(CONFIG, "int4-g128-asym")})
    assert all(list(bar.y) == ["bf16", "int4"] for bar in fig.data)
    linear = fig.data[0]
    assert linear.x[1] / linear.x[0] == pytest.approx((4 + 20 / 128) / 16, rel=1e-3)  # two values of 4 digits
