"""A recipe is an ordered list of rules; the first whose pattern matches a linear's name decides for it.

version: 1
name: int4 with 8-bit edges
rules:
  - {match: lm_head, skip: the output head keeps its precision}
  - {match: "re:layers\\.(0|29)\\..*", weight: int8-row-sym}
  - {match: "*", method: mse, options: {norm: 2.0}, weight: int4-g128-asym, input: int8-token-sym}
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from qlab.errors import QlabError
from qlab.methods import get_method
from qlab.passes import get_pass, pass_names
from qlab.spec import QuantSpec

VERSION = 1
_KINDS: tuple[tuple[str, type, str], ...] = (
    ("method", str, "a name"),
    ("options", dict, "a mapping"),
    ("passes", list, "a list of names, or of {name: options}"),
    ("weight", str, "a spec"),
    ("input", str, "a spec"),
    ("skip", str, "the reason"),
)


def road(name: str) -> tuple[tuple[str, ...], str]:
    """Passes and method of a road such as "gptq", "awq+gptq" or "awq+clip+rtn".

    A road that ends with a pass ends in plain rounding. "awq" alone, or before a method, clips too, as AWQ's own code.
    """
    stops = [stop for part in name.split("+") for stop in (("awq", "clip") if part == "awq" else (part,))]
    stops = list(dict.fromkeys(stops))
    if stops[-1] in pass_names():
        stops.append("rtn")
    return tuple(stops[:-1]), stops[-1]


PassCall = tuple[str, Mapping[str, Any]]
"""A pass's name and its options."""


@dataclass(frozen=True)
class Rule:
    """What linears whose name matches get: a method (with options) and specs, or the reason they are skipped.

    match: a shell pattern ("model.layers.0.*") or, after "re:", a regular expression for the whole name.
    passes: names with options; in YAML `passes: [awq, clip]` or `passes: [{awq: {rule: autoawq}}, clip]`.
    """

    match: str
    weight: QuantSpec | None = None
    input: QuantSpec | None = None
    method: str = "rtn"
    options: Mapping[str, Any] = field(default_factory=dict)
    passes: tuple[PassCall, ...] = ()
    skip: str | None = None

    def __post_init__(self) -> None:
        if (self.weight is None) == (self.skip is None):
            raise QlabError(f"rule {self.match!r}: give either `weight:` (a spec) or `skip:` (the reason)")
        get_method(self.method, **self.options)
        for name, options in self.passes:
            get_pass(name, **options)
        if self.match.startswith("re:"):
            _compile(self.match)

    def matches(self, name: str) -> bool:
        """Whether this rule speaks of the linear called `name`."""
        if self.match.startswith("re:"):
            return _compile(self.match).fullmatch(name) is not None
        return fnmatchcase(name, self.match)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, defaults left out."""
        rule = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name == "match" or getattr(self, f.name) != _default(f)
        }
        if "passes" in rule:
            rule["passes"] = [{name: dict(options)} if options else name for name, options in self.passes]
        return {k: str(v) if isinstance(v, QuantSpec) else v for k, v in rule.items()}

    @property
    def road(self) -> str:
        """What a linear goes through, such as "awq+clip+gptq"."""
        return "skip" if self.skip else "+".join([*(name for name, _ in self.passes), self.method])


def _default(f: dataclasses.Field) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _compile(match: str) -> re.Pattern[str]:
    try:
        return re.compile(match.removeprefix("re:"))
    except re.error as error:
        raise QlabError(f"rule {match!r} is no regular expression: {error}") from error


@dataclass(frozen=True)
class LayerPlan:
    """What will happen to one linear: its rule, and the true bits per weight it will cost."""

    name: str
    shape: tuple[int, int]
    rule: Rule
    bits_per_weight: float


@dataclass(frozen=True)
class Resolution:
    """A recipe applied to the linears of one model, before any work."""

    recipe: Recipe
    layers: tuple[LayerPlan, ...]

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Recipe {self.recipe.name}"

    def facts(self) -> dict[str, Any]:
        """Totals over all linears, skipped ones at 16 bits."""
        weights = sum(a * b for a, b in (layer.shape for layer in self.layers))
        bits = sum(layer.bits_per_weight * layer.shape[0] * layer.shape[1] for layer in self.layers)
        skipped = sum(layer.rule.skip is not None for layer in self.layers)
        return {"linears": len(self.layers), "skipped": skipped, "weights": weights, "bits_per_weight": bits / weights}

    def table(self) -> list[dict[str, Any]]:
        """One row per linear."""
        return [
            {
                "layer": layer.name,
                "shape": f"{layer.shape[0]}×{layer.shape[1]}",
                "method": layer.rule.road,
                "weight": layer.rule.skip or str(layer.rule.weight),
                "input": str(layer.rule.input or "float"),
                "bits_per_weight": layer.bits_per_weight,
            }
            for layer in self.layers
        ]


@dataclass(frozen=True)
class Recipe:
    """Ordered rules, the first match wins; a linear that no rule matches is an error: no silent skips."""

    name: str
    rules: tuple[Rule, ...]

    @classmethod
    def of(
        cls,
        weight: str | QuantSpec,
        method: str = "rtn",
        *,
        input: str | QuantSpec | None = None,
        passes: Sequence[str | PassCall] = (),
        **options: Any,
    ) -> Recipe:
        """The same spec, method and passes for every linear but the output head. method may be a `road`: "awq+gptq"."""
        spec = QuantSpec.parse(weight)
        head = Rule("lm_head", skip="output head kept in 16 bits")
        before, method = road(method)
        calls = tuple((p, {}) if isinstance(p, str) else p for p in (*before, *passes))
        body = Rule("*", spec, QuantSpec.parse(input) if input else None, method, options, calls)
        name = str(spec) if body.road == "rtn" else f"{body.road} {spec}"
        return cls(name + (f" a:{body.input}" if body.input else ""), (head, body))

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a YAML recipe; every mistake in it is named with the file and the rule."""
        path = Path(path)
        if not path.is_file():
            raise QlabError(f"recipe {path} does not exist: give a YAML file, or a spec such as int4-g128-asym")
        try:
            return cls.from_dict(yaml.safe_load(path.read_text()), path.stem)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise QlabError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
        except QlabError as error:
            raise QlabError(f"recipe {path}: {error}") from error

    @classmethod
    def from_dict(cls, data: Any, name: str = "recipe") -> Recipe:
        """A recipe from plain values, as YAML gives them; `name` where they hold none."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise QlabError(f"`version: {VERSION}` is missing: this qlab reads recipes of version {VERSION}")
        _known(data, {"version", "name", "rules"}, "recipe")
        if not isinstance(data.get("rules"), list) or not data["rules"]:
            raise QlabError("`rules:` must be a list with at least one rule")
        return cls(str(data.get("name", name)), tuple(_rule(i, r) for i, r in enumerate(data["rules"])))

    def to_yaml(self) -> str:
        """The recipe as a YAML document that `load` reads back equal."""
        data = {"version": VERSION, "name": self.name, "rules": [r.to_dict() for r in self.rules]}
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Recipe {self.name}"

    def facts(self) -> dict[str, Any]:
        """How the table reads."""
        return {"order": "the first match decides"}

    def table(self) -> list[dict[str, Any]]:
        """One row per rule."""
        return [
            {
                "match": rule.match,
                "method": rule.road,
                "weight": rule.skip or str(rule.weight),
                "input": str(rule.input or "float"),
            }
            for rule in self.rules
        ]

    def resolve(self, model: nn.Module) -> Resolution:
        """What each `nn.Linear` of `model` will get; shapes are checked for all of them before any work."""
        linears = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        if not linears:
            kind = type(model).__name__
            raise QlabError(f"{kind} has no nn.Linear (Conv1D, as in GPT-2, is none): nothing here to quantize")
        plans, problems = [], []
        for name, linear in linears:
            try:
                plans.append(self._plan(name, linear))
            except QlabError as error:
                problems.append(str(error))
        if problems:
            more = f" (and {len(problems) - 1} more layers)" if len(problems) > 1 else ""
            raise QlabError(problems[0] + more)
        if all(plan.rule.skip for plan in plans):
            others = {layer.rule.skip for layer in _not_linear(model)}
            why = f" ({'; '.join(sorted(filter(None, others)))})" if others else ""
            raise QlabError(f"recipe {self.name!r} skips all {len(plans)} linears: nothing would be quantized{why}")
        return Resolution(self, (*plans, *_not_linear(model)))

    def _plan(self, name: str, linear: nn.Linear) -> LayerPlan:
        rule = next((r for r in self.rules if r.matches(name)), None)
        if rule is None:
            raise QlabError(f"no rule matches {name}: end the recipe with a rule for '*'")
        shape = (linear.out_features, linear.in_features)
        if rule.weight is None:
            return LayerPlan(name, shape, rule, 16.0)
        rule.weight.check(shape, name)
        if rule.input:
            rule.input.check((1, shape[1]), f"the input of {name}")
        return LayerPlan(name, shape, rule, rule.weight.bits_per_weight(shape))


def _not_linear(model: nn.Module) -> list[LayerPlan]:
    """Matrices that no rule speaks of, listed as skipped: Conv1D (GPT-2), fused experts, and whatever comes next."""
    plans = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            continue
        for key, W in module.named_parameters(recurse=False):
            if W.ndim >= 2:
                rule = Rule(f"{name}.{key}", skip=f"{type(module).__name__} weights stay as they are")
                plans.append(LayerPlan(rule.match, (W.numel() // W.shape[-1], W.shape[-1]), rule, 16.0))
    return plans


def _rule(index: int, data: Any) -> Rule:
    if not isinstance(data, dict) or not isinstance(data.get("match"), str):
        raise QlabError(f"rule {index + 1} needs `match:`, a pattern of layer names")
    _known(data, {f.name for f in dataclasses.fields(Rule)}, f"rule {data['match']!r}")
    for key, kind, words in _KINDS:
        if not isinstance(data.get(key, kind()), kind):
            raise QlabError(f"rule {data['match']!r}: `{key}:` must be {words}, got {data[key]!r}")
    specs = {key: QuantSpec.parse(data[key]) for key in ("weight", "input") if key in data}
    return Rule(**{**data, **specs, "passes": tuple(_pass(p, data["match"]) for p in data.get("passes", ()))})


def _pass(entry: Any, match: str) -> PassCall:
    """A pass of a YAML rule: its name, or a mapping of its name to its options."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        if isinstance(name, str) and isinstance(options or {}, dict):
            return name, options or {}
    raise QlabError(f"rule {match!r}: `passes:` holds {entry!r}: give a name, or {{name: {{option: value}}}}")


def _known(data: dict, known: set[str], where: str) -> None:
    for key in data.keys() - known:
        raise QlabError(f"unknown key {key!r} in {where}: known keys are {', '.join(sorted(known))}")
