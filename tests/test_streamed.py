"""From folder to folder: the same codes as in memory, a killed run continued to the same bytes, memory by the block."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from qlab import streamed
from qlab.calibration import Calibration
from qlab.errors import QlabError
from qlab.models import load, open_lazily
from qlab.nn import QLinear, packed_bytes
from qlab.recipes import Recipe
from qlab.run import quantized_copy
from qlab.streamed import Conversion
from tests.files.tiny import logits, tiny, tokenizer

CALIBRATION = Calibration(torch.randint(0, 32, (4, 16), generator=torch.Generator().manual_seed(2)))


def saved(folder: Path, model: torch.nn.Module | None = None, **options: str) -> Path:
    (model or tiny()).bfloat16().save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder


def conversion(folder: Path, method: str = "gptq", layout: str = "gptq", spec: str = "int4-g32-sym") -> Conversion:
    source, _ = open_lazily(folder)
    return Conversion(source, Recipe.of(spec, method), layout, CALIBRATION)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "awq+gptq"])
def test_a_folder_holds_what_memory_would(method: str, tmp_path: Path) -> None:
    saved(tmp_path / "float")
    job = conversion(tmp_path / "float", method)
    report = job.run(tmp_path / "out", progress=False)
    opened = load(tmp_path / "out").model
    in_memory, expected = quantized_copy(load(tmp_path / "float").model, job.recipe, CALIBRATION, progress=False)
    assert torch.equal(logits(opened), logits(in_memory))
    assert [(r.layer, r.rel_mse, r.note) for r in report.rows] == [(r.layer, r.rel_mse, r.note) for r in expected.rows]
    assert report.size_bytes == expected.size_bytes == packed_bytes(opened)
    made = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["meta"]["qlab"]
    assert made["recipe"] == job.recipe.to_yaml()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["float", "out"]  # no remains


def test_in_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path / "float")
    source, _ = open_lazily(tmp_path / "float", dtype=None)
    assert source.dtype == torch.bfloat16
    job = Conversion(source, Recipe.of("int4-g32-sym", "gptq"), "gptq", CALIBRATION)
    job.run(tmp_path / "out", progress=False)
    own = load(tmp_path / "float", dtype=torch.bfloat16).model
    in_memory, _ = quantized_copy(own, job.recipe, CALIBRATION, progress=False)
    opened = load(tmp_path / "out", dtype=torch.bfloat16).model
    assert torch.equal(logits(opened), logits(in_memory))
    assert job.fingerprint() != conversion(tmp_path / "float").fingerprint()
    source, _ = open_lazily(tmp_path / "float", dtype=None)
    with pytest.raises(QlabError, match=r"goes through passes .* take float32, not bfloat16 \(and 13 more layers\)"):
        Conversion(source, Recipe.of("int4-g32-sym", "awq"), "gptq", CALIBRATION).check()


def test_a_checkpoint_of_two_dtypes_has_none_of_its_own(tmp_path: Path) -> None:
    model = tiny().bfloat16()
    model.model.norm.float()
    model.save_pretrained(tmp_path / "float")
    tokenizer().save_pretrained(tmp_path / "float")
    with pytest.raises(QlabError, match="tensors of BF16 and F32: compute in float32"):
        open_lazily(tmp_path / "float", dtype=None)


def test_shards_are_read_and_written(tmp_path: Path) -> None:
    saved(tmp_path / "float", max_shard_size="20KB")
    assert len(list((tmp_path / "float").glob("*.safetensors"))) > 2
    conversion(tmp_path / "float").run(tmp_path / "out", progress=False, max_shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert sum(isinstance(m, QLinear) for m in load(tmp_path / "out").model.modules()) == 14


def test_a_quantized_head_is_untied(tmp_path: Path) -> None:
    saved(tmp_path / "float")
    rules = [{"match": "lm_head", "weight": "int8-g32-sym"}, {"match": "*", "method": "gptq", "weight": "int4-g32-sym"}]
    source, _ = open_lazily(tmp_path / "float")
    recipe = Recipe.from_dict({"version": 1, "rules": rules})
    Conversion(source, recipe, "compressed-tensors", CALIBRATION).run(tmp_path / "out", progress=False)
    opened = load(tmp_path / "out").model
    assert isinstance(opened.lm_head, QLinear) and opened.config.tie_word_embeddings is False


STOPS = [(m, s) for m in ("rtn", "awq+gptq") for s in ("write", "advance", "merge_shards", "side_files")]
STOPS.remove(("rtn", "advance"))  # a data-free method sends nothing through the blocks


@pytest.mark.parametrize(("method", "stop"), STOPS)
def test_a_stopped_run_continues_to_the_same_bytes(
    stop: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "float")
    conversion(tmp_path / "float", method).run(tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        owner = {"write": streamed._Parts, "advance": streamed.Blockwise}.get(stop, streamed)
        original, calls = getattr(owner, stop), []

        def interrupted(*args: object, **kwargs: object) -> object:
            calls.append(1)
            if stop in ("merge_shards", "side_files") or len(calls) == 2:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        patch.setattr(owner, stop, interrupted)
        with pytest.raises(KeyboardInterrupt):
            conversion(tmp_path / "float", method).run(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.partial/outside.safetensors").exists()
    conversion(tmp_path / "float", method).run(tmp_path / "out", progress=False)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.test_streamed import conversion
conversion(Path(sys.argv[1]), "awq+gptq").run(sys.argv[2], progress=False)
"""


def run_in_a_process(folder: Path, out: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, folder, out], stdout=subprocess.DEVNULL)


def test_killed_three_times_at_random_it_still_ends_in_the_same_bytes(tmp_path: Path) -> None:
    saved(tmp_path / "float", deep(8))
    work = tmp_path / ".out.partial"
    assert run_in_a_process(tmp_path / "float", tmp_path / "whole").wait() == 0
    chance = random.Random(os.urandom(8))
    for _ in range(3):
        process = run_in_a_process(tmp_path / "float", tmp_path / "out")
        before = len(list(work.glob("*.safetensors"))) if work.exists() else 0
        while process.poll() is None and len(list(work.glob("*.safetensors"))) < before + 2:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run_in_a_process(tmp_path / "float", tmp_path / "out").wait() == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not work.exists()


def deep(layers: int, hidden: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=32, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


PEAK = (
    SCRIPT
    + """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""
)


def peak(folder: Path, out: Path) -> int:
    done = subprocess.run([sys.executable, "-c", PEAK, folder, out], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_depth(tmp_path: Path) -> None:
    peaks = []
    for layers in (4, 16):  # 4× deeper: 42 and 168 MB in single precision
        saved(tmp_path / f"float{layers}", deep(layers, hidden=512))
        peaks.append(peak(tmp_path / f"float{layers}", tmp_path / f"out{layers}"))
    assert peaks[1] < 1.10 * peaks[0]


LIMITED = """
import resource, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.test_streamed import conversion
from qlab.models import load
def data():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
limit = data() + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if sys.argv[4] == "whole":
    load(sys.argv[1])
else:
    conversion(Path(sys.argv[1]), "rtn").run(sys.argv[2], progress=False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the process's memory")
def test_a_model_larger_than_memory_is_quantized(tmp_path: Path) -> None:
    saved(tmp_path / "float", deep(32, hidden=768))  # 910 MB in single precision
    run = [sys.executable, "-c", LIMITED, tmp_path / "float", tmp_path / "out", str(600_000_000)]
    assert subprocess.run([*run, "whole"], capture_output=True).returncode != 0  # the limit bites
    done = subprocess.run([*run, "blocks"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "float")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        original = streamed.save_file

        def refuse(tensors: dict, path: Path) -> None:
            if path.name.startswith("00001"):
                raise full
            original(tensors, path)

        patch.setattr(streamed, "save_file", refuse)
        with pytest.raises(QlabError, match=r"No space left.*finished blocks are kept.*goes on from there"):
            conversion(tmp_path / "float").run(tmp_path / "out", progress=False)
    assert (tmp_path / ".out.partial/00000.safetensors").exists()
    conversion(tmp_path / "float").run(tmp_path / "out", progress=False)
    load(tmp_path / "out")


def test_remains_of_another_run_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "float")
    with monkeypatch.context() as patch:
        patch.setattr(streamed, "merge_shards", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            conversion(tmp_path / "float").run(tmp_path / "out", progress=False)
    with pytest.raises(QlabError, match="another recipe: --restart discards it"):
        conversion(tmp_path / "float", spec="int8-g32-sym").run(tmp_path / "out", progress=False)
    conversion(tmp_path / "float", spec="int8-g32-sym").run(tmp_path / "out", progress=False, restart=True)
    assert load(tmp_path / "out").model.model.layers[0].mlp.up_proj.qtensor.spec.bits == 8
    with pytest.raises(QlabError, match="out exists and is not empty"):
        conversion(tmp_path / "float").run(tmp_path / "out", progress=False)


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    saved(tmp_path / "float")
    job = conversion(tmp_path / "float")
    held = streamed._locked(tmp_path / ".out.partial", tmp_path / "out")
    with held, pytest.raises(QlabError, match="another run is writing"):
        job.run(tmp_path / "out", progress=False)


def test_every_problem_is_told_before_any_work(tmp_path: Path) -> None:
    saved(tmp_path / "float")
    job = conversion(tmp_path / "float", spec="int3-g32-sym", layout="awq")
    assert len(job.problems) == 14 and job.facts()["problems"] == 14
    with pytest.raises(QlabError, match=r"q_proj has 3 bits: awq stores 4.*\(and 13 more layers\)"):
        job.run(tmp_path / "out", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["float"]
    source, _ = open_lazily(tmp_path / "float")
    with pytest.raises(QlabError, match=r"needs calibration activations.*\(and 13 more layers\)"):
        Conversion(source, Recipe.of("int4-g32-sym", "gptq"), "gptq").run(tmp_path / "out", progress=False)


def test_weights_that_are_no_linears_are_refused_loudly(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    experts = MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, num_local_experts=2)
    saved(tmp_path / "moe", MixtralForCausalLM(experts))
    with pytest.raises(QlabError, match="model with fused experts"):
        conversion(tmp_path / "moe").run(tmp_path / "out", progress=False)
    saved(tmp_path / "gpt2", GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=32)))
    with pytest.raises(QlabError, match="Conv1D"):
        conversion(tmp_path / "gpt2").run(tmp_path / "out", progress=False)


def test_nan_weights_and_a_damaged_file_name_the_culprit(tmp_path: Path) -> None:
    model = tiny()
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = torch.nan
    saved(tmp_path / "float", model)
    with pytest.raises(QlabError, match="model.layers.1.mlp.up_proj holds nan at row 3, column 5"):
        conversion(tmp_path / "float").run(tmp_path / "out", progress=False)
    weights = tmp_path / "float/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(QlabError, match=r"model.safetensors ends before byte"):
        conversion(tmp_path / "float")


def test_the_plan_estimates_what_a_run_will_hold(tmp_path: Path) -> None:
    saved(tmp_path / "float")
    job = conversion(tmp_path / "float")
    held, size = job.memory(), job.facts()["size_bytes"]
    report = job.run(tmp_path / "out", progress=False)
    assert size == pytest.approx(report.size_bytes, rel=0.02)
    assert held["activations"] == 2 * 4 * CALIBRATION.ids.numel() * 64
    assert held["embeddings and head"] == 4 * (32 * 64 + 64)
