"""Saved folders: what `load` opens again is the same model to the bit, and a folder is whole or not there."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from qlab.errors import QlabError
from qlab.files.save import check_model, new_folder, provenance_of, save_quantized, side_files, stored_tensors
from qlab.files.shards import merge_shards, shard_files
from qlab.layouts import get_layout
from qlab.models import load
from qlab.nn import QLinear
from qlab.qtensor import QTensor
from qlab.recipes import Recipe
from qlab.spec import QuantSpec
from tests.files.tiny import logits, tiny, tokenizer

CASES = [
    ("gptq", "int4-g32-sym"),
    ("gptq", "int3-g64-narrow"),  # a shorter last group in the MLP: 96 = 64 + 32
    ("gptq_v2", "int4-g32-asym"),
    ("gptq_v2", "int8-row-asym"),
    ("awq", "int4-g32-awq"),
    ("awq", "int4-g32-sym"),
    ("compressed-tensors", "int4-g32-sym-bf16"),
    ("compressed-tensors", "int3-g16-asym"),
    ("compressed-tensors", "int8-row-sym"),
]


@pytest.mark.parametrize(("layout", "spec"), CASES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_opens_as_the_same_to_the_bit(layout: str, spec: str, tied: bool, tmp_path: Path) -> None:
    model = tiny(spec, tied=tied, bias=True)
    folder = save_quantized(model, tokenizer(), tmp_path / "out", layout)
    opened = load(folder)
    assert torch.equal(logits(opened.model), logits(model))
    assert sum(isinstance(m, QLinear) for m in opened.model.modules()) == 14
    assert (opened.model.lm_head.weight is opened.model.model.embed_tokens.weight) == tied
    assert opened.tokenizer("w3")["input_ids"] == [3]
    assert not list(tmp_path.glob(".*"))


def test_two_specs_and_a_quantized_head_come_back(tmp_path: Path) -> None:
    rules = [
        {"match": "lm_head", "weight": "int8-g32-sym"},
        {"match": "*.down_proj", "skip": "kept"},
        {"match": "*.v_proj", "weight": "int8-row-sym"},
        {"match": "*", "weight": "int4-g32-sym"},
    ]
    model = tiny(Recipe.from_dict({"version": 1, "rules": rules}))
    for layout in ("gptq", "compressed-tensors"):
        opened = load(save_quantized(model, tokenizer(), tmp_path / layout, layout)).model
        assert opened.config.tie_word_embeddings is False
        assert torch.equal(logits(opened), logits(model))
        assert isinstance(opened.lm_head, QLinear) and isinstance(opened.model.layers[0].mlp.down_proj, torch.nn.Linear)
    with pytest.raises(QlabError, match="v_proj has 8 bits: awq stores 4|lm_head has 8 bits"):
        save_quantized(model, tokenizer(), tmp_path / "awq", "awq")
    assert not (tmp_path / "awq").exists()


def test_scattered_groups_are_saved_as_act_order(tmp_path: Path) -> None:
    model = tiny("int4-g32-sym")
    linear = model.model.layers[0].mlp.up_proj
    index = (torch.arange(64) // 32).flip(0).int()
    Q = linear.qtensor
    linear.weight_ = QTensor(Q.codes, Q.scale, Q.spec, group_index=index)
    folder = save_quantized(model, tokenizer(), tmp_path / "out", "gptq")
    assert json.loads((folder / "quantize_config.json").read_text())["desc_act"] is True
    opened = load(folder).model
    assert torch.equal(opened.model.layers[0].mlp.up_proj.qtensor.group_index, index)
    assert torch.equal(logits(opened), logits(model))


def test_configuration_and_provenance_stand_where_they_are_looked_for(tmp_path: Path) -> None:
    facts = provenance_of("rules: []", "8 × 24 tokens", 192, 0)
    folder = save_quantized(tiny("int4-g32-sym"), tokenizer(), tmp_path / "out", "gptq", facts)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["quantization_config"] == json.loads((folder / "quantize_config.json").read_text())
    assert config["quantization_config"]["meta"]["qlab"] == facts
    assert facts["versions"]["torch"] == torch.__version__ and "commit" not in facts
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt" and json.loads(file.metadata()["qlab_provenance"]) == facts


def test_numbers_that_fit_in_16_bits_are_stored_so_and_the_others_are_not_rounded(tmp_path: Path) -> None:
    model = tiny("int4-g32-sym", bias=True)
    model.model.norm.weight.fill_(1 + 2**-20)
    model.model.layers[0].input_layernorm.weight.fill_(1 + 2**-9)  # float16 holds it, bfloat16 does not
    stored = load_file(save_quantized(model, tokenizer(), tmp_path / "out", "gptq") / "model.safetensors")
    assert stored["model.norm.weight"].dtype == torch.float32
    assert stored["model.layers.0.input_layernorm.weight"].dtype == torch.float16
    assert stored["model.layers.1.input_layernorm.weight"].dtype == torch.bfloat16
    assert "lm_head.weight" not in stored  # tied


def test_files_of_the_source_folder_are_carried_along(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny().save_pretrained(source)
    tokenizer().save_pretrained(source)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | {"own": 1}))
    folder = save_quantized(tiny("int4-g32-sym"), tokenizer(), tmp_path / "out", "awq", source=source)
    for name in ("chat_template.jinja", "tokenizer.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["own"] == 1 and config["quantization_config"]["quant_method"] == "awq"
    assert not (folder / "quantize_config.json").exists()


def test_blocks_and_the_rest_make_up_the_model() -> None:
    model, layout = tiny("int4-g32-sym"), get_layout("gptq")
    parts = [dict(stored_tensors(model, layout, f"model.layers.{i}.")) for i in range(2)]
    rest = dict(stored_tensors(model, layout, without="model.layers."))
    assert sorted(rest) == ["model.embed_tokens.weight", "model.norm.weight"]
    assert sorted([*parts[0], *parts[1], *rest]) == sorted(dict(stored_tensors(model, layout)))


def test_what_cannot_be_saved_is_said_before_anything_is_written(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    cases = [
        (tiny(), "out", "gptq", "nothing is quantized here"),
        (tiny("int4-g32-asym"), "out", "gptq", r"model\.layers\.0\.\S+ is int4-g32-asym: .* use the layout gptq_v2"),
        (tiny(Recipe.of("int8-row-sym", input="int8-token-sym")), "out", "gptq", "quantizes its input .*weights only"),
        (tiny("int4-g32-sym"), "full", "gptq", "full exists and is not empty"),
        (tiny("int4-g32-sym"), "out", "gptqq", "unknown layout 'gptqq': did you mean gptq"),
    ]
    for model, name, layout, message in cases:
        with pytest.raises(QlabError, match=message):
            save_quantized(model, tokenizer(), tmp_path / name, layout)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]
    specs = check_model(tiny("int4-g32-sym"), get_layout("gptq"))
    assert len(specs) == 14 and set(specs.values()) == {QuantSpec.parse("int4-g32-sym")}


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qlab.files.shards._copy", refuse)
    with pytest.raises(QlabError, match=r"cannot write .*: No space left on device; free some space"):
        save_quantized(tiny("int4-g32-sym"), tokenizer(), tmp_path / "out", "gptq")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr("qlab.files.save._write_json", refuse)
    with pytest.raises(QlabError, match="No space left on device"):
        side_files(None, tiny(), tokenizer(), tmp_path, {"quant_method": "awq"})


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "rubbish").touch()
    with new_folder(tmp_path / "out") as partial:
        assert partial == left and list(partial.iterdir()) == []
        (partial / "file").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["file"]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "other"):
        raise KeyboardInterrupt
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_shards_hold_the_same_tensors_and_open_alike(tmp_path: Path) -> None:
    model = tiny("int4-g32-sym")
    one = save_quantized(model, tokenizer(), tmp_path / "one", "gptq")
    many = save_quantized(model, tokenizer(), tmp_path / "many", "gptq", max_shard_bytes=20_000)
    files = shard_files(many)
    assert len(files) > 2 and all(f.name.endswith(f"-of-{len(files):05d}.safetensors") for f in files)
    whole, pieces = load_file(one / "model.safetensors"), {k: t for f in files for k, t in load_file(f).items()}
    assert whole.keys() == pieces.keys() and all(torch.equal(whole[k], pieces[k]) for k in whole)
    index = json.loads((many / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    assert torch.equal(logits(load(many).model), logits(model))
    again = merge_shards(files, tmp_path, 10**9)
    assert again == [tmp_path / "model.safetensors"]
