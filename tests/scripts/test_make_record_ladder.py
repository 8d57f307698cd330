"""The record of the GGUF ladder: whole, its sizes those of its mixes, and what lesson 09 says of it holds."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from qlab.convert import encoded
from qlab.ggml import block_type
from qlab.models import load_config
from qlab.recipes.llama_cpp import Mix
from qlab.records import load_record

SCRIPT = Path(__file__).parents[2] / "scripts/make_record_ladder.py"
spec = importlib.util.spec_from_file_location("make_record_ladder", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

RECORD = load_record("ladder")
ROWS = {(row["model"], row["type"]): row for row in RECORD["rows"]}
WIDE, NARROW = "reference-768", "reference"


def column(key, *types, model=WIDE):
    return [ROWS[model, type_][key] for type_ in types]


def test_every_cell_is_there_with_its_speed():
    assert tuple(ROWS) == script.CELLS
    assert RECORD["text"]["tokens"] == 4096
    assert RECORD["speed"]["tool"].startswith("llama-cpp-python ")
    assert all(0 < row["decode_p10"] <= row["decode_median"] for row in ROWS.values() if row["model"] == script.TIMED)


@pytest.mark.parametrize(("model", "type_"), [cell for cell in script.CELLS if cell[1] != "F16"])
def test_types_and_fallbacks_are_those_of_the_mix(model, type_):
    config = load_config(model)
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    q, kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    linears = {"attn_q": (q, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden), "attn_output": (hidden, q),
               "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}  # fmt: skip
    shapes = {f"blk.{i}.{name}.weight": shape for i in range(layers) for name, shape in linears.items()}
    shapes |= {f"blk.{i}.{name}_norm.weight": (hidden,) for i in range(layers) for name in ("attn", "ffn")}
    shapes |= {"token_embd.weight": (config.vocab_size, hidden), "output_norm.weight": (hidden,)}
    mix = Mix(type_, layers, config.num_attention_heads, config.num_key_value_heads, True)
    choices = {name: mix.choose(name, shape) for name, shape in shapes.items()}
    row = ROWS[model, type_]
    assert row["types"] == {k: [c.type for c in choices.values()].count(k) for k in row["types"]}
    assert sum(row["types"].values()) == len(shapes)
    assert sum(row["fallbacks"].values()) == sum(bool(c.instead_of) for c in choices.values())
    numbers = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    bits = sum(n * block_type(choices[name].type).bits_per_weight for name, n in numbers.items())
    assert bits / sum(numbers.values()) == pytest.approx(row["bits_per_weight"], rel=1e-3)
    assert bits / 8 < row["size_bytes"] < bits / 8 + 3e6  # and keys, vocabulary and merges


def test_a_tensor_of_the_smallest_file_has_its_bytes():
    W = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    assert encoded(W, "Q2_K").numel() == 2 * 768 // 256 * block_type("Q2_K").nbytes


def test_more_bits_lose_less():
    kl = column("kl_mean", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_L", "Q3_K_M", "Q2_K")
    assert all(a < b for a, b in pairwise(kl))


def test_the_issues_claim_and_the_lessons():
    (k_quant, error), (plain, plain_error) = (
        [ROWS[WIDE, name][key] for key in ("kl_mean", "kl_se")] for name in ("Q4_K_M", "Q4_0")
    )
    assert k_quant + 2 * (error**2 + plain_error**2) ** 0.5 < plain
    assert ROWS[WIDE, "Q4_K_S"]["kl_mean"] < ROWS[WIDE, "Q4_1"]["kl_mean"]
    assert ROWS[WIDE, "Q4_K_S"]["size_bytes"] < ROWS[WIDE, "Q4_1"]["size_bytes"]
    assert ROWS[NARROW, "Q4_K_M"]["fallbacks"] and not ROWS[WIDE, "Q4_K_M"]["fallbacks"]


def test_what_the_lesson_says_of_speed():
    speed = {type_: row["decode_median"] for (model, type_), row in ROWS.items() if model == script.TIMED}
    assert speed["Q8_0"] / speed["F16"] > 1.7  # twice, as the bytes say, a busy machine allowed for
    assert max(speed, key=speed.get).startswith("Q4_K")
    assert max(speed["Q3_K_L"], speed["Q3_K_M"], speed["Q2_K"]) < speed["Q4_K_M"]
    bytes_alone = {t: speed["F16"] * ROWS[WIDE, "F16"]["size_bytes"] / ROWS[WIDE, t]["size_bytes"] for t in speed}
    assert speed["Q2_K"] < 0.8 * bytes_alone["Q2_K"]


def test_what_the_lesson_says_of_the_types():
    kl = {type_: row["kl_mean"] for (model, type_), row in ROWS.items() if model == WIDE}
    narrow = {type_: row for (model, type_), row in ROWS.items() if model == NARROW}
    assert abs(kl["Q4_1"] - kl["Q4_0"]) < 2 * ROWS[WIDE, "Q4_0"]["kl_se"]
    assert kl["IQ4_XS"] < kl["Q4_K_S"]
    assert 0.5 < kl["Q4_K_M"] / kl["Q4_K_S"] < 0.7
    assert ROWS[WIDE, "Q4_0"]["perplexity"] < ROWS[WIDE, "Q4_K_S"]["perplexity"]
    assert narrow["Q4_K_M"]["size_bytes"] < ROWS[WIDE, "Q4_K_M"]["size_bytes"]
    assert narrow["Q4_K_M"]["kl_mean"] < kl["Q4_K_M"]
    published = {row["name"].replace("q", "Q"): row["kl_mean"] for row in load_record("llama_3_8b_kld")["rows"]}
    for type_ in ("Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K"):
        assert 3 < kl[type_] / published[type_] < 5.5
