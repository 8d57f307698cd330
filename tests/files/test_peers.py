"""Folders that GPTQModel and llm-compressor wrote (data/peers/README.md): qlab reads the numbers that they read."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel

from qlab.files.huggingface import open_quantized
from qlab.nn import QLinear
from tests.files.tiny import logits

PEERS = Path(__file__).parent.parent / "data" / "peers"


def opened(name: str) -> PreTrainedModel:
    return open_quantized(PEERS / name, AutoConfig.from_pretrained(PEERS / name)).eval()


@pytest.mark.parametrize("name", ["gptq-w4g32-desc", "gptq_v2-w4g32-asym", "gptq-mixed", "awq-w4g32"])
def test_weights_are_those_of_gptqmodel(name: str) -> None:
    model, expected = opened(name), load_file(PEERS / name / "expected.safetensors")
    assert len(expected) == 2
    for layer, W in expected.items():
        assert torch.equal(model.get_submodule(layer).qtensor.dequantize(torch.float16), W)


@pytest.mark.parametrize("name", ["ct-w4g32-asym", "ct-mixed"])
def test_logits_are_those_of_compressed_tensors(name: str) -> None:
    torch.testing.assert_close(
        logits(opened(name)), load_file(PEERS / name / "expected.safetensors")["logits"], rtol=1e-5, atol=1e-5
    )  # the same float32 products; another machine may sum them in another order


def test_what_each_layer_was_given_is_what_was_asked_for() -> None:
    block = opened("gptq-mixed").model.layers[0]
    assert isinstance(block.self_attn.v_proj, torch.nn.Linear) and isinstance(block.self_attn.k_proj, QLinear)
    assert str(block.mlp.down_proj.qtensor.spec) == "int8-g64-sym" and block.mlp.down_proj.qtensor.scale.shape == (
        32,
        2,
    )
    index = opened("gptq-w4g32-desc").model.layers[0].mlp.down_proj.qtensor.group_index
    assert index is not None and sorted(index.tolist()) == sorted([0, 1, 2] * 32)
    mixed = opened("ct-mixed").model.layers[0]
    assert str(mixed.self_attn.q_proj.qtensor.spec) == "int8-row-sym"
    assert str(mixed.mlp.up_proj.qtensor.spec) == "int3-g32-sym"
