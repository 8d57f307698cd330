"""compressed-tensors, format pack-quantized: vLLM's and llm-compressor's checkpoints of weights in 2 to 8 bits.

Tensors of a linear: `weight_packed` int32 [out, in·b/32], `weight_scale` [out, groups], `weight_shape` int64 [2], and,
asymmetric, `weight_zero_point` int32 [out·b/32, groups]. Signed codes are stored with 2^(b−1) added, which makes them
QTensor's unsigned ones (compressed-tensors `compressors/pack_quantized/`).

Until May 2026 codes of 3, 5, 6 and 7 bits did not straddle words: ⌊32/b⌋ to each. Such files are read, told by their
width, and not written. `actorder: group` (scattered groups, `weight_g_idx`) is read too; the library dropped it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from qlab.bits import WORD, pack_bits, unpack_bits
from qlab.errors import QlabError
from qlab.layouts import SpecOf, register_layout
from qlab.layouts.affine import (
    Numbers,
    as_stored,
    check_spec,
    commonest,
    expect,
    numbers,
    plain,
    scattered,
    spec_from,
    take,
)
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec

BITS = range(2, 9)
DTYPES = ("fp16", "bf16", "fp32")
FORMAT = "pack-quantized"


@register_layout("compressed-tensors")
@dataclass(frozen=True)
class CompressedTensors:
    """Weights in 2 to 8 bits, each layer with its own spec, groups that divide the row."""

    name: ClassVar[str]
    codes_key: ClassVar[str] = "weight_packed"

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether quant_method is compressed-tensors, and pack-quantized the only format."""
        groups = (config.get("config_groups") or {}).values()
        formats = {group.get("format") for group in groups} | {config.get("format")}
        return config.get("quant_method") == self.name and formats - {None, "mixed-precision"} == {FORMAT}

    def check(self, shape: tuple[int, ...], spec: QuantSpec, name: str = "weight", group_index: bool = False) -> None:
        """2 to 8 bits, in a multiple of the group, no scattered groups."""
        spec.check(shape, name)
        check_spec(self.name, spec, name, BITS, DTYPES)
        if group_index:
            raise QlabError(
                f"{name} has scattered groups: compressed-tensors dropped them; use act_order=static, or layout gptq"
            )
        if shape[1] % spec.group_in(shape[1]):
            size = next(g for g in (64, 32, 16, 8, 4, 2, 1) if shape[1] % g == 0)
            raise QlabError(
                f"{name} has {shape[1]} in channels, no multiple of the group {spec.group_size}: compressed-tensors "
                f"loads no shorter last group; use group {size} or one per row"
            )

    def pack(self, Q: QTensor) -> dict[str, Tensor]:
        """weight_packed, weight_scale, weight_shape; weight_zero_point where the spec has one."""
        self.check(tuple(Q.shape), Q.spec, "the weight", Q.group_index is not None)
        scale, zero = plain(Q)
        tensors = {
            "weight_packed": pack_bits(Q.codes, Q.spec.bits),
            "weight_scale": scale.contiguous(),
            "weight_shape": torch.tensor(Q.shape),
        }
        if Q.spec.has_zero:
            tensors["weight_zero_point"] = pack_bits(zero, Q.spec.bits, axis=0)
        return tensors

    def unpack(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], spec: QuantSpec) -> QTensor:
        """See Layout."""
        rows, length = shape
        groups = spec.group_count(length)
        zero_point = ("weight_zero_point",) if spec.has_zero else ()
        needed = ("weight_packed", "weight_scale", "weight_shape", *zero_point)
        packed, scale, stated, *others = take(tensors, needed, ("weight_g_idx",))
        assert packed is not None and scale is not None and stated is not None
        if stated.tolist() != [rows, length]:
            raise QlabError(
                f"weight_shape is {stated.tolist()}, the model's layer {[rows, length]}: copy both from one model"
            )
        expect(scale, "weight_scale", (rows, groups), torch.float16, torch.bfloat16, torch.float32)
        codes = _codes(expect(packed, "weight_packed", (rows, packed.shape[-1]), torch.int32), spec.bits, length)
        zero = None
        if spec.has_zero:
            words = others[0]
            assert words is not None
            expect(words, "weight_zero_point", (words.shape[0], groups), torch.int32)
            zero = _codes(words.T.contiguous(), spec.bits, rows).T.contiguous()
        index = scattered(others[-1], "weight_g_idx", spec, length)
        return QTensor(codes, scale.contiguous(), as_stored(spec, scale), zero, group_index=index)

    def config(
        self, specs: Mapping[str, QuantSpec], skipped: Sequence[str] = (), act_order: str = "none"
    ) -> dict[str, Any]:
        """One config group per spec: the commonest has every Linear, the others name theirs; `ignore` lists skipped."""
        base = commonest(specs)
        members: dict[Numbers, list[str]] = {base: []}
        for name, spec in specs.items():
            members.setdefault(numbers(spec), []).append(name)
        groups = {}
        for i, (kind, names) in enumerate(members.items()):
            groups[f"group_{i}"] = {
                "targets": ["Linear"] if kind == base else names,
                "weights": _arguments(kind, act_order),
                "input_activations": None,
                "output_activations": None,
                "format": FORMAT,
            }
        return {
            "quant_method": self.name,
            "format": FORMAT,
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": list(skipped),
            "kv_cache_scheme": None,
        }

    def specs(self, config: Mapping[str, Any]) -> SpecOf:
        """A name in `ignore` has none; else the group that names it, or a pattern of it, or all of Linear."""
        if config.get("transform_config"):
            raise QlabError("quantization_config has a transform_config: qlab applies no rotations at run time")
        if config.get("kv_cache_scheme"):
            warnings.warn("kv_cache_scheme is not applied: the cache stays in floating point", stacklevel=2)
        targets = [(t, _spec(key, group)) for key, group in config["config_groups"].items() for t in group["targets"]]
        ignore = config.get("ignore") or []

        def spec_of(name: str) -> QuantSpec | None:
            if any(target == "Linear" or _names(target, name) for target in ignore):
                return None
            ranked = sorted(targets, key=lambda pair: (pair[0] == "Linear", pair[0].startswith("re:")))
            return next((spec for target, spec in ranked if target == "Linear" or _names(target, name)), None)

        return spec_of


def _codes(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of each line, dense or, told by the number of words, ⌊32/b⌋ to a word."""
    per_word = WORD // bits
    dense, old = -(-count * bits // WORD), -(-count // per_word)
    if words.shape[-1] not in (dense, old):
        raise QlabError(f"{words.shape[-1]} words in a line of {count} codes of {bits} bits: {dense} are needed")
    if words.shape[-1] == dense:
        return unpack_bits(words, bits, count)
    shifts = torch.arange(per_word, dtype=torch.int32) * bits
    codes = (words[..., None] >> shifts) & (2**bits - 1)
    return codes.flatten(-2)[..., :count].to(torch.uint8)


def _arguments(kind: Numbers, act_order: str) -> dict[str, Any]:
    """`weights` of a config group."""
    bits, group, symmetric = kind
    grouped = group is not None
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group" if grouped else "channel",
        "group_size": group,
        "dynamic": False,
        "actorder": "weight" if grouped and act_order == "static" else None,
    }


def _spec(key: str, group: Mapping[str, Any]) -> QuantSpec:
    """The spec of a config group's weights; QlabError for what is more than integer weights."""
    weights = group.get("weights") or {}
    if weights.get("type", "int") != "int" or weights.get("strategy", "group") not in ("group", "channel"):
        raise QlabError(f"{key} of quantization_config is no integer weight in groups or channels: {dict(weights)}")
    if group.get("input_activations") or group.get("output_activations"):
        raise QlabError(f"{key} of quantization_config quantizes activations: qlab reads weight-only checkpoints")
    size = weights.get("group_size") if weights.get("strategy") != "channel" else None
    return spec_from(weights.get("num_bits"), size, "sym" if weights.get("symmetric", True) else "asym")


def _names(target: str, name: str) -> bool:
    """Whether a target is this name, or `re:` and a pattern that matches its beginning."""
    return re.match(target[3:], name) is not None if target.startswith("re:") else target == name
