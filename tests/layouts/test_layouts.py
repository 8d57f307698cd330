"""The registry of layouts: each known by name, and by the configuration it writes."""

import pytest

from qlab.errors import QlabError
from qlab.layouts import Layout, get_layout, layout_names, layout_of
from qlab.spec import QuantSpec


def test_every_layout_reads_the_configuration_it_writes() -> None:
    assert layout_names() == ["awq", "compressed-tensors", "gptq", "gptq_v2"]
    for name in layout_names():
        layout = get_layout(name)
        assert isinstance(layout, Layout)
        config = layout.config({"x": QuantSpec.parse("int4-g32-sym")}, ["lm_head"], "static")
        assert layout_of(config).name == name


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "fp8"},
        {"quant_method": "gptq", "checkpoint_format": "marlin", "bits": 4},
        {"quant_method": "awq", "version": "gemv"},
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
        {},
    ],
)
def test_what_no_layout_reads_is_named(config) -> None:
    with pytest.raises(QlabError, match="quantization_config says .*: qlab reads gptq, gptq_v2, awq") as error:
        layout_of(config)
    assert all(str(value) in str(error.value) for value in config.values() if isinstance(value, str))
