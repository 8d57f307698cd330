"""Opening quantized folders: every way in which one can be wrong is one clear line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from qlab.errors import QlabError
from qlab.files.huggingface import open_quantized
from qlab.files.save import save_quantized
from qlab.models import load
from tests.files.tiny import logits, tiny, tokenizer

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole GPTQ folder of a tiny model."""
    return save_quantized(tiny("int4-g32-sym"), tokenizer(), tmp_path / "model", "gptq")


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors; dots are written as two underscores."""
    file = folder / "model.safetensors"
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    state = {k: t.clone() for k, t in (load_file(file) | named).items() if t is not None}
    save_file(state, file, metadata={"format": "pt"})


def configure(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] |= changes
    file.write_text(json.dumps(config))


def up(key: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
    return {f"{UP}.{key}".replace(".", "__"): tensor}


BROKEN = {
    "unknown format": (lambda f: configure(f, checkpoint_format="marlin"), r"config\.json: .*marlin.*: qlab reads"),
    "bits": (lambda f: configure(f, bits=5), "bits 5 in a gptq configuration"),
    "overrides that are none": (
        lambda f: configure(f, dynamic={"x": 3}),
        r"config\.json: damaged quantization_config \(TypeError",
    ),
    "another width": (lambda f: configure(f, bits=8), r"q_proj: qweight is \(8, 64\) where .* \(16, 64\)"),
    "another group": (lambda f: configure(f, group_size=16), r"_proj: qzeros is \(2, 8\) where .* \(4, 8\)"),
    "excluded": (lambda f: configure(f, dynamic={"-:.*up_proj": {}}), f"{UP} is quantized, but its config.json"),
    "no zeros": (lambda f: change(f, **up("qzeros", None)), rf"model\.safetensors: {UP}: qzeros is missing"),
    "no codes": (lambda f: change(f, **up("qweight", None)), rf"incomplete checkpoint: .* lacks {UP}\.weight;"),
    "codes as floats": (lambda f: change(f, **up("qweight", torch.ones(8, 96))), "up_proj: qweight holds float32, not"),
    "no norm": (lambda f: change(f, model__norm__weight=None), r"incomplete checkpoint: .* lacks model\.norm\.weight;"),
    "norm of codes": (
        lambda f: change(f, model__norm__weight=torch.ones(64, dtype=torch.int32)),
        r"model\.norm\.weight holds torch\.int32, the model torch\.float32",
    ),
    "norm too long": (
        lambda f: change(f, model__norm__weight=torch.ones(65)),
        r"disagree: .*: model\.norm\.weight is \(65,\) where its config\.json says \(64,\)",
    ),
    "stray tensor": (
        lambda f: change(f, model__layers__7__mlp__up_proj__qweight=torch.ones(1)),
        r"model\.safetensors holds model\.layers\.7\.mlp\.up_proj\.qweight, for which LlamaForCausalLM in gptq has no",
    ),
    "bias too long": (lambda f: change(f, **up("bias", torch.ones(3))), r"up_proj\.bias is \(3,\) where"),
}  # fmt: skip


@pytest.mark.parametrize(("break_it", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_one_clear_line(folder: Path, break_it, message: str) -> None:
    break_it(folder)
    with pytest.raises(QlabError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_missing_bias_is_missed(tmp_path: Path) -> None:
    folder = save_quantized(tiny("int4-g32-sym", bias=True), tokenizer(), tmp_path / "model", "gptq")
    change(folder, model__layers__0__self_attn__q_proj__bias=None)
    with pytest.raises(QlabError, match=r"lacks model\.layers\.0\.self_attn\.q_proj\.bias"):
        load(folder)


def test_a_bias_that_the_model_lacks_is_applied(folder: Path) -> None:
    """As AutoGPTQ's layers do: they store one, of zeros, whether or not the model has any."""
    before = logits(load(folder).model)
    change(folder, **up("bias", torch.zeros(96, dtype=torch.float16)))
    assert torch.equal(logits(load(folder).model), before)


def test_nothing_quantized_is_an_error(folder: Path) -> None:
    tiny().save_pretrained(folder.parent / "float")
    (folder / "model.safetensors").write_bytes((folder.parent / "float" / "model.safetensors").read_bytes())
    with pytest.raises(QlabError, match="config.json says gptq, but no linear is stored so"):
        load(folder)


def test_tied_tensors_that_differ_in_the_file_are_not_tied(folder: Path) -> None:
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, lm_head__weight=embedding)
    model = load(folder).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    change(folder, lm_head__weight=embedding * 2)
    model = load(folder).model
    assert torch.equal(model.lm_head.weight, 2 * model.model.embed_tokens.weight)


def test_what_old_checkpoints_store_and_nobody_needs_is_ignored(folder: Path) -> None:
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(16))
    assert torch.equal(logits(load(folder).model), logits(tiny("int4-g32-sym")))


def test_a_wrong_label_is_read_right_and_said(folder: Path) -> None:
    configure(folder, checkpoint_format="gptq_v2")
    with pytest.warns(UserWarning, match="model: the zero points are those of gptq, the label says gptq_v2") as warned:
        opened = load(folder)
    assert len(warned) == 1  # for all 14 layers
    assert torch.equal(logits(opened.model), logits(tiny("int4-g32-sym")))


def test_dtype_is_the_one_asked_for(folder: Path) -> None:
    model = load(folder, dtype=torch.bfloat16).model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert logits(model).dtype == torch.bfloat16


def test_float_folders_are_not_for_this_reader(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    with pytest.raises(QlabError, match="no quantization_config of gptq, awq, compressed-tensors: use qlab.load"):
        open_quantized(tmp_path, AutoConfig.from_pretrained(tmp_path))
