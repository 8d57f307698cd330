"""Recipes: YAML and back, first match wins, every layer accounted for before any work."""

from pathlib import Path

import pytest
from torch import nn

from qlab.errors import QlabError
from qlab.recipes import Recipe

YAML = """
version: 1
name: edges in eight bits
rules:
  - {match: lm_head, skip: output head kept}
  - {match: "re:.*\\\\.[02]\\\\.up", weight: int8-row-sym, input: int8-token-sym}
  - {match: "*", method: mse, options: {norm: 2.0}, weight: int4-g32-asym}
"""


def model() -> nn.Module:
    layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(64, 32)}) for _ in range(3))
    return nn.ModuleDict({"layers": layers, "lm_head": nn.Linear(64, 16)})


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_yaml_round_trip(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path / "r.yaml", YAML))
    again = Recipe.load(write(tmp_path / "again.yaml", recipe.to_yaml()))
    assert again == recipe and recipe.rules[2].options == {"norm": 2.0}


def test_first_match_decides() -> None:
    import yaml

    table = Recipe.from_dict(yaml.safe_load(YAML)).resolve(model()).table()
    assert [(r["layer"], r["weight"], r["method"], r["input"]) for r in table] == [
        ("layers.0.up", "int8-row-sym", "rtn", "int8-row-sym"),
        ("layers.1.up", "int4-g32-asym", "mse", "float"),
        ("layers.2.up", "int8-row-sym", "rtn", "int8-row-sym"),
        ("lm_head", "output head kept", "skip", "float"),
    ]


def test_totals_weigh_layers_by_size() -> None:
    facts = Recipe.of("int8-row-sym").resolve(model()).facts()
    per_layer = 64 * 32
    assert facts["weights"] == 3 * per_layer + 64 * 16
    assert facts["bits_per_weight"] == (3 * per_layer * (8 + 16 / 64) + 16 * 64 * 16) / facts["weights"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "`version: 1` is missing"),
        ("version: 2\nrules: [{match: '*', weight: int4}]", "reads recipes of version 1"),
        ("version: 1\nrules: []", "at least one rule"),
        ("version: 1\nrules: [{weight: int4}]", "rule 1 needs `match:`"),
        ("version: 1\nrules: [{match: '*'}]", "either `weight:`"),
        ("version: 1\nrules: [{match: '*', weight: int4, skip: why}]", "either `weight:`"),
        ("version: 1\nrules: [{match: '*', wieght: int4}]", "unknown key 'wieght'"),
        ("version: 1\nextra: 1\nrules: [{match: '*', weight: int4}]", "unknown key 'extra' in recipe"),
        ("version: 1\nrules: [{match: '*', weight: int9}]", "did you mean int8"),
        ("version: 1\nrules: [{match: '*', weight: int4, method: gtpq}]", "unknown method 'gtpq'"),
        ("version: 1\nrules: [{match: '*', weight: int4, options: {a: 1}}]", "no option 'a'"),
        ("version: 1\nrules: [{match: '*', weight: int4, passes: [awqq]}]", "unknown pass 'awqq'"),
        ("version: 1\nrules: [{match: 're:(', weight: int4}]", "no regular expression"),
        ("version: 1\nrules: [{match: '*', weight: int4, options: 3}]", "`options:` must be a mapping, got 3"),
        ("version: 1\nrules: [{match: '*', weight: int4, passes: null}]", "`passes:` must be a list of names, or of"),
        ("version: 1\nrules: [{match: '*', weight: int4, method: 5}]", "`method:` must be a name"),
        ("version: 1\nrules: {", "is not YAML"),
        ("just a string", "`version: 1` is missing"),
    ],
)
def test_mistakes_name_the_file_and_the_rule(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(QlabError, match=message) as caught:
        Recipe.load(write(tmp_path / "bad.yaml", text))
    assert "bad.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QlabError, match="does not exist: give a YAML file"):
        Recipe.load(tmp_path / "none.yaml")


def test_all_layers_are_checked_before_any_work() -> None:
    with pytest.raises(QlabError, match=r"layers\.0\.up: use a smaller group.*and 2 more layers"):
        Recipe.of("int4-g128-asym").resolve(model())
    with pytest.raises(QlabError, match="has no nn.Linear"):
        Recipe.of("int4-g32-asym").resolve(nn.LayerNorm(4))
    head_only = {"version": 1, "rules": [{"match": "lm_head", "weight": "int8-row-sym"}]}
    with pytest.raises(QlabError, match=r"no rule matches layers\.0\.up"):
        Recipe.from_dict(head_only).resolve(model())
    with pytest.raises(QlabError, match="skips all 4 linears"):
        Recipe.from_dict({"version": 1, "rules": [{"match": "*", "skip": "why not"}]}).resolve(model())
