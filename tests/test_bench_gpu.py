"""The GPU benchmark end to end, in Triton's interpreter on tiny sizes; replayed graphs, on a stand-in for CUDA."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from interpreted import VARIABLE, interpreter, interpreting  # noqa: F401 (a fixture)
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from qlab import bench_gpu
from qlab.cli import main as qlab
from qlab.methods import quantize
from qlab.nn import QLinear

with interpreting():
    from qlab.kernels.triton.bench import cases, measure, peers, report, timing
    from qlab.kernels.triton.bench import run as bench


def run(root, *arguments, interpret=True, cwd=None):
    """The script in a process of its own, as in a bare clone."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "scripts/bench_gpu.py", *arguments]
    environment |= {VARIABLE: "1"} if interpret else {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=cwd or root, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    config = AutoConfig.for_model(
        "llama", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=64, vocab_size=64, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def found(root, tmp_path_factory, tiny):
    """A run with everything."""
    out = tmp_path_factory.mktemp("bench") / "run.json"
    small = ["--types", "int4-g128-sym,nf4-g64", "--shapes", "32x256", "--batches", "1,3", "--rounds", "2"]
    done = run(root, *small, "--model", str(tiny), "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())
    return json.loads(done.stdout) | {"told": done.stderr}


def test_the_run_says_that_it_was_interpreted(found):
    assert found["mode"] == "interpreter" and found["kind"] == report.KIND
    assert "the numbers say nothing about speed" in found["told"]
    assert found["made"]["hardware"].startswith("no GPU") and found["made"]["commit"] != "unknown"
    assert {"python", "torch", "triton"} <= set(found["made"]["versions"])


def test_every_combination_was_held_against_float64_and_timed(found):
    wanted = {(kind, m, 32, 256) for kind in ("int4-g128-sym", "nf4-g64") for m in (1, 3)}
    for rows in (found["rows"], found["correctness"]):
        assert {(row["type"], row["m"], row["n"], row["k"]) for row in rows} == wanted
    assert all(0 <= row["error"] <= row["bound"] for row in found["correctness"])
    assert not found["failures"]


def test_figures_of_a_row_agree_with_each_other(found):
    copy, rate = found["ceilings"]["copy_gbps"]["median"], found["ceilings"]["matmul_tflops"]["median"]
    for row in found["rows"]:
        flops = 2 * row["m"] * row["n"] * row["k"]
        assert row["p10_us"] <= row["median_us"] and row["vs_cublas_p10"] <= row["vs_cublas"]
        assert row["tflops"] == pytest.approx(flops / row["median_us"] / 1e6)
        assert row["fraction_of_bandwidth"] == pytest.approx(row["gbps"] / copy)
        nbytes = row["gbps"] * row["median_us"] * 1e3
        assert row["limit_us"] == pytest.approx(max(nbytes / copy / 1e3, flops / rate / 1e6))
        assert row["fraction_of_limit"] == pytest.approx(row["limit_us"] / row["median_us"])
        assert row["vs_tinygemm"] is None
    sym = next(row for row in found["rows"] if row["type"] == "int4-g128-sym" and row["m"] == 1)
    # 4 bits a weight, a word of scales a row (two halves), X and the result
    assert sym["gbps"] * sym["median_us"] * 1e3 == pytest.approx(32 * 256 // 2 + 32 * 4 + 2 * (32 + 256))


def test_a_model_is_timed_in_both_forms(found):
    assert [(row["measure"], row["m"]) for row in found["models"]] == [("prefill", 1), ("decode", 1)]
    for row in found["models"]:
        assert row["tokens_per_second"] / row["fp16_tokens_per_second"] == pytest.approx(row["vs_fp16"])
        assert row["graph"] is False
    assert any("7 linears packed" in note for note in found["notes"])


def test_a_bare_folder_suffices(root, tmp_path):
    """Nothing of qlab but kernels/triton and the script; no GPU: it says so, and what to do."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(root / "scripts" / "bench_gpu.py", tmp_path / "scripts")
    shutil.copytree(root / "kernels" / "triton", tmp_path / "kernels" / "triton")
    done = run(root, interpret=False, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "there is no CUDA GPU here" in done.stderr and "python scripts/bench_gpu.py --out" in done.stderr


@pytest.fixture
def recorded(monkeypatch, tmp_path, found):
    """A folder with two recorded runs, an interpreted one, and another record."""
    kept = {name: value for name, value in found.items() if name != "told"}
    for name, mode, day in (("a", "cuda graphs", "2026-01-01"), ("b", "cuda graphs", "2026-02-01"),
                            ("c", "interpreter", "2026-03-01")):  # fmt: skip
        made = kept["made"] | {"date": day, "hardware": f"GPU {name}"}
        (tmp_path / f"{name}.json").write_text(json.dumps(kept | {"mode": mode, "made": made}))
    (tmp_path / "other.json").write_text("{}")
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report.recorded, "__defaults__", (tmp_path,))
    return tmp_path


def test_the_newest_recorded_run_is_shown_as_one(recorded, capsys):
    assert report.show_recorded("no GPU", as_json=False) == 0
    told = capsys.readouterr().out
    assert told.startswith("no GPU; recorded 2026-02-01 on GPU b, torch") and "int4-g128-sym" in told
    assert report.show_recorded("no GPU", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["recorded"].startswith("no GPU; recorded 2026-02-01")
    assert [run["made"]["date"] for run in bench_gpu.recorded()] == ["2026-02-01", "2026-01-01"]
    assert bench_gpu.recorded()[0]["label"].startswith("recorded 2026-02-01 on GPU b")


def test_a_wrong_result_is_a_failure_and_has_no_row(monkeypatch):
    monkeypatch.setattr(measure.launch, "multiply", lambda X, w, tune: X.new_zeros(len(X), w.shape[0]))
    log = measure.Log(1)
    ceilings = {"copy_gbps": {"median": 1.0}, "matmul_tflops": {"median": 1.0}}
    args = ([cases.kind_of("int4-g32-sym")], [(32, 64)], [1], torch.device("cpu"), ceilings, log, 1, False)
    assert list(measure.rows(*args)) == []
    assert log.failures == ["int4-g32-sym at 32x64, batch 1: wrong by 1 of the largest value, the bound is 0.001"]


def test_a_peer_out_of_time_or_wrong_is_left_out_and_said(monkeypatch):
    case = cases.Case(cases.kind_of("int4-g32-sym"), (32, 64), torch.device("cpu"), 4)
    wrong = {"tinygemm": lambda case: [lambda X: X[:, :32]], "gemlite": lambda case: [lambda X: X @ case.exact[0].T]}
    monkeypatch.setattr(peers, "PEERS", wrong)
    log = measure.Log(1)
    assert list(measure._peers(case, "here", log)) == ["gemlite"]
    assert log.notes[0].startswith("tinygemm, here: wrong by")
    log.spent["gemlite"] = 100
    assert measure._peers(case, "here", log) == {}
    assert "gemlite took more than its share of the time" in log.notes[-1]


@pytest.mark.parametrize("name", ["int4-g128-sym", "int4-g32-asym", "int3-row-sym", "nf4-g64"])
def test_cases_are_what_their_names_say(name):
    case = cases.Case(cases.kind_of(name), (32, 128), torch.device("cpu"), 2)
    W, Y = case.exact
    assert torch.equal(W, measure.launch.dequantize(case.weights))
    assert case.error(case.X @ W.T) < cases.BOUND and Y.dtype == torch.float64


def test_rotation_covers_what_it_should():
    assert cases.copies(cases.ROTATE) == 1 and cases.copies(cases.ROTATE - 1) == 2
    assert len(cases.clones((torch.ones(2),), cases.ROTATE // 3)) == 4


def test_names_and_numbers_that_are_none(capsys):
    for wrong in (["--types", "int9-g32"], ["--types", "nf4-g64-asym"], ["--shapes", "40x"], ["--batches", "0"]):
        with pytest.raises(SystemExit) as stopped:
            bench.main(wrong)
        assert stopped.value.code == 2 and wrong[1] in capsys.readouterr().err


class Clock:
    """CUDA's streams, events and graphs, as far as the timer uses them: a call takes one millisecond."""

    def __init__(self):
        self.now, self.capturing, self.log = 0.0, None, []

    def call(self, name):
        (self.log if self.capturing is None else self.capturing).append(name)
        self.now += 1.0 if self.capturing is None else 0.0

    def event(self, enable_timing):
        made = SimpleNamespace(at=0.0, synchronize=lambda: None)
        made.record = lambda: setattr(made, "at", self.now)
        made.elapsed_time = lambda other: other.at - made.at
        return made

    def new_graph(self):
        made = SimpleNamespace(calls=[])
        made.replay = lambda: [self.call(name) for name in made.calls]
        return made

    def graph(self, made):
        clock = self

        class Capture:
            def __enter__(self):
                clock.capturing = made.calls

            def __exit__(self, *_):
                clock.capturing = None

        return Capture()


def test_a_graph_runs_every_copy_in_turn(monkeypatch):
    clock, stream = Clock(), SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {"Stream": lambda: stream, "current_stream": lambda: stream, "Event": clock.event,
                        "CUDAGraph": clock.new_graph, "graph": clock.graph}.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: clock.graph(SimpleNamespace(calls=None)))
    monkeypatch.setattr(timing, "REPLAY", 6e-3)
    calls = [lambda name=name: clock.call(name) for name in "abc"]
    one = timing.Replayed(calls)
    assert one.graph.calls == list("abc") * 2 and one.count == 6
    assert one.seconds() == pytest.approx(1e-3)
    each = [pytest.approx(1e-3)] * 3
    assert timing.interleaved({"x": one, "y": one}, 3) == {"x": each, "y": each}


def test_ratios_are_taken_within_a_round():
    assert timing.ratio([2.0, 8.0, 3.0], [1.0, 2.0, 3.0]) == (2.0, pytest.approx(1.2))
    assert timing.percentile10([5.0]) == 5.0


def cli(*arguments):
    """The exit code of `qlab …`."""
    with mock.patch.object(sys, "argv", ["qlab", *arguments]), pytest.raises(SystemExit) as stopped:
        qlab()
    return stopped.value.code


def test_the_command_line_passes_everything_on(capsys, tmp_path):
    out = tmp_path / "run.json"
    small = ("--types", "int4-g32-asym", "--shapes", "32x64", "--tokens", "1", "--rounds", "1")
    assert cli("bench", "gpu", *small, "--json", "--out", str(out)) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["type"], row["m"], row["n"]) for row in told["rows"]] == [("int4-g32-asym", 1, 32)]
    assert json.loads(out.read_text()) == told and told["rounds"] == 1


def test_a_machine_without_gpu_or_triton_is_told_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(report.recorded, "__defaults__", (tmp_path,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bench, "INTERPRETED", False)
    assert cli("bench", "gpu") == 2
    assert "there is no CUDA GPU here" in capsys.readouterr().err
    monkeypatch.setattr(bench_gpu.kernels(), "available", False)
    monkeypatch.setattr(bench_gpu.kernels(), "missing", "Triton is not here")
    assert cli("bench", "gpu") == 2
    assert capsys.readouterr().err.startswith("Triton is not here, and no run is recorded")


def test_options_of_the_gpu_have_no_effect_elsewhere(capsys):
    assert cli("bench", "cpu", "--tune") == 2
    assert "--model and --tune belong to `bench gpu`" in capsys.readouterr().err
    assert cli("generate", "reference", "--prompt", "a", "--device", "tpu9") == 2
    assert "device 'tpu9': use cpu, cuda or cuda:1" in capsys.readouterr().err


def test_a_quantized_model_is_timed_with_its_own_weights(monkeypatch):
    W = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    own, none = QLinear(quantize(W, "int8-g32-asym")), QLinear(quantize(W, "int4-g8-sym"))
    model = nn.ModuleDict({"own": own, "plain": nn.Linear(64, 32), "none": none})
    model.get_output_embeddings = lambda: None
    monkeypatch.setattr(bench_gpu, "load", lambda name, dtype, device: SimpleNamespace(model=model))
    held, pack = bench_gpu.opened("folder", torch.device("cpu"))
    dense, weights, bias = pack(held["own"])
    assert (weights.bits, weights.group, bias) == (8, 32, None) and torch.equal(dense, held["own"].W_hat(torch.float16))
    assert pack(held["plain"])[1].bits == 4 and pack(held["none"]) is None
