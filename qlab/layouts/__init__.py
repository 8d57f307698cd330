"""Layouts: QTensor ↔ the tensors of a file format, one small class each, and the configuration that goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor

from qlab.errors import QlabError
from qlab.qtensor import QTensor
from qlab.registry import Registry
from qlab.spec import QuantSpec

SpecOf = Callable[[str], QuantSpec | None]
"""The spec that a configuration gives to the linear of this name; None where it leaves the linear in floating point."""


@runtime_checkable
class Layout(Protocol):
    """How one format stores the QTensor of a linear: tensors under its module's name, and a `quantization_config`.

    codes_key: the suffix of the tensor that holds the codes; a module that has it is quantized.
    """

    name: str
    codes_key: str

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether a `quantization_config` speaks of this layout."""
        ...

    def check(self, shape: tuple[int, ...], spec: QuantSpec, name: str = "weight", group_index: bool = False) -> None:
        """Raise QlabError, naming the layer and a remedy, for what the format's other tools could not load.

        group_index: whether groups are scattered (GPTQ with act_order=desc).
        """
        ...

    def pack(self, Q: QTensor) -> dict[str, Tensor]:
        """The stored tensors by their suffix after the module's name; QlabError where the format has no place for Q."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], spec: QuantSpec) -> QTensor:
        """The inverse of `pack` for a matrix of `shape` [out, in]; scales keep their stored dtype, which the spec
        follows. QlabError for tensors missing, unknown, or of the wrong shape or dtype.
        """
        ...

    def config(
        self, specs: Mapping[str, QuantSpec], skipped: Sequence[str] = (), act_order: str = "none"
    ) -> dict[str, Any]:
        """The `quantization_config` of a model whose linears have these `specs`, `skipped` ones staying in float."""
        ...

    def specs(self, config: Mapping[str, Any]) -> SpecOf:
        """What a `quantization_config` says of each linear, other tools' spellings included."""
        ...


LAYOUTS: Registry = Registry("layout")
register_layout = LAYOUTS.register
get_layout = LAYOUTS.get
layout_names = LAYOUTS.names


def layout_of(config: Mapping[str, Any]) -> Layout:
    """The layout that a `quantization_config` names; QlabError where qlab has none for it."""
    for name in layout_names():
        layout = cast(Layout, get_layout(name))
        if layout.accepts(config):
            return layout
    told = {key: config[key] for key in ("quant_method", "checkpoint_format", "format", "version") if config.get(key)}
    raise QlabError(
        f"quantization_config says {told or 'nothing'}: qlab reads gptq, gptq_v2, awq (gemm) and compressed-tensors "
        "(pack-quantized); convert it with the tool that wrote it"
    )


from qlab.layouts import awq, compressed_tensors, gptq  # noqa: E402, F401  (the decorators in them fill LAYOUTS)
