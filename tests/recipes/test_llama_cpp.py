"""Mixes against what llama-quantize itself chose for the built-in models, and the rules those do not reach."""

import json
from pathlib import Path

import pytest

from qlab.errors import QlabError
from qlab.recipes.llama_cpp import FILE_TYPES, Mix, fitting

GOLDEN = json.loads((Path(__file__).parents[1] / "data/llama_cpp_mixes.json").read_text())["models"]
HEADS = {"reference": (9, 3), "reference-768": (12, 4)}
CASES = [(model, name) for model, recorded in GOLDEN.items() for name in recorded["types"]]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_types_are_llama_quantizes(model, name):
    mix = Mix(name, 30, *HEADS[model], tied=True)
    for tensor, told in GOLDEN[model]["types"][name].items():
        theirs = [kind for run in told.split() for kind in [run.split("*")[0]] * int(run.split("*")[1])]
        shape = tuple(GOLDEN[model]["shapes"][tensor])
        names = [f"blk.{i}.{tensor}" for i in range(30)] if len(theirs) == 30 else [tensor]
        assert [mix.choose(n, shape).type for n in names] == theirs, tensor


def test_every_file_type_but_one_is_recorded():
    """F32 is no quantization, and Q2_K_S needs an importance matrix."""
    assert {name for _, name in CASES} == FILE_TYPES.keys() - {"F32", "Q2_K_S"}


def test_rules_that_the_built_in_models_do_not_reach():
    grouped = Mix("Q2_K", 32, 32, 8, tied=False)
    assert grouped.choose("blk.5.attn_v.weight", (1024, 4096)).type == "Q4_K"
    assert grouped.choose("output.weight", (128256, 4096)).type == "Q6_K"
    assert grouped.choose("token_embd.weight", (128256, 4096)).type == "Q2_K"
    assert Mix("Q4_K_M", 80, 64, 8, tied=False).choose("blk.20.attn_v.weight", (1024, 8192)).type in ("Q5_K", "Q6_K")
    assert Mix("Q4_0", 32, 32, 32, False, imatrix=True).choose("blk.0.ffn_down.weight", (4096, 11008)).type == "Q4_1"
    assert Mix("TQ2_0", 32, 32, 32, False).choose("token_embd.weight", (32000, 4096)).type == "Q4_K"
    assert Mix("Q4_K_M", 32, 32, 8, False, experts=8).choose("blk.0.attn_k.weight", (1024, 4096)).type == "Q8_0"
    for name in ("blk.0.attn_norm.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight"):
        assert grouped.choose(name, (256, 256)).type == "F32"


def test_overrides_come_first_and_fall_back_too():
    mix = Mix("Q4_K_M", 30, 9, 3, tied=True, overrides={"ffn_down": "q8_0", "attn": "Q5_K"})
    assert mix.choose("blk.9.ffn_down.weight", (576, 1536)).type == "Q8_0"
    choice = mix.choose("blk.9.attn_q.weight", (576, 576))
    assert (choice.type, choice.instead_of) == ("Q5_1", "Q5_K")
    assert fitting("Q4_K", 40).type == "F16"


def test_what_cannot_be_is_named():
    with pytest.raises(QlabError, match=r"unknown file type 'Q9': choose one of F32, F16"):
        Mix("Q9", 1, 1, 1, True)
    with pytest.raises(QlabError, match=r"Q2_K_S needs an importance matrix"):
        Mix("Q2_K_S", 1, 1, 1, True)
    with pytest.raises(QlabError, match=r"unknown tensor type 'Q9_K'"):
        Mix("Q4_0", 1, 1, 1, True, overrides={"x": "Q9_K"})
    with pytest.raises(QlabError, match=r"pattern '\(' is no regular expression"):
        Mix("Q4_0", 1, 1, 1, True, overrides={"(": "Q8_0"})
