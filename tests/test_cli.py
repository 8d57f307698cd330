"""The command line: JSON alone on stdout, one line and exit code 2 for bad input, help that teaches."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qlab.cli import main
from qlab.evaluate import evaluate

PLUGIN = Path(__file__).parent / "data" / "plugin_method.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a one-letter-per-token tokenizer, and a text in its alphabet."""
    path = tmp_path_factory.mktemp("model")
    letters = {chr(c): c - 97 for c in range(97, 123)} | {" ": 26, "<unk>": 27}
    backend = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=32,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    (path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 12)
    return path


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def qlab(*arguments: str | Path) -> Done:
    """Run `qlab …` in this process: importing torch again for every command would take most of the time."""
    out, err, argv = io.StringIO(), io.StringIO(), ["qlab", *map(str, arguments)]
    with mock.patch("sys.argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def answer(*arguments: str | Path) -> dict:
    done = qlab(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_eval_agrees_with_a_loop_over_windows(folder: Path) -> None:
    result = answer("eval", folder, "--text", folder / "text.txt", "--window", 32)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    letters = (folder / "text.txt").read_text()
    ids = torch.tensor([26 if c == " " else ord(c) - 97 for c in letters])
    windows = ids[: len(ids) // 32 * 32].reshape(-1, 32)
    with torch.no_grad():
        losses = [float(model(input_ids=w[None], labels=w[None]).loss) for w in windows]
    # the same float32 forward passes: only the order of sums differs
    assert result["perplexity"] == pytest.approx(torch.tensor(losses).double().mean().exp().item(), rel=1e-5)
    assert result["tokens"] == 31 * len(windows)
    assert result["size_bytes"] == 2 * sum(p.numel() for p in model.parameters())


def test_eval_with_a_spec_measures_against_the_float_model(folder: Path) -> None:
    result = answer("eval", folder, "--text", folder / "text.txt", "--window", 32, "--spec", "int3-g32-asym")
    assert result["bits_per_weight"] == 3 + 19 / 32
    assert result["kl_mean"] > 0
    assert 0 <= result["top1_agreement"] <= 1
    assert {"ppl_ratio", "ppl_ratio_se", "recipe"} <= result.keys()


def test_compare_lists_rows(folder: Path) -> None:
    specs = "int8-g32-asym,int2-g32-asym"
    rows = answer("compare", folder, "--text", folder / "text.txt", "--window", 32, "--specs", specs)["rows"]
    assert [row["name"] for row in rows][1:] == specs.split(",")
    assert rows[0]["kl_mean"] == 0 < rows[1]["kl_mean"] < rows[2]["kl_mean"]
    keys = {"perplexity", "tokens", "kl_mean", "top1_agreement", "ppl_ratio", "ppl_ratio_se", "bits_per_weight"}
    assert keys | {"size_bytes"} <= rows[1].keys()


def test_calibrated_methods_get_their_windows(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("pack my box with five dozen liquor jugs " * 12)
    text = ("--text", folder / "text.txt", "--window", 32, "--method", "gptq")
    windows = ("--calibration", other, "--samples", 8, "--seqlen", 32, "--seed", 3)
    result = answer("eval", folder, *text, *windows, "--spec", "int3-g32-asym")
    assert result["calibration"] == "8 × 32 tokens of other.txt, seed 3" and result["kl_mean"] > 0
    compared = answer("compare", folder, *text, *windows, "--specs", "int3-g32-asym")
    assert compared["calibration"] == result["calibration"]
    assert compared["rows"][1]["kl_mean"] == pytest.approx(result["kl_mean"], rel=1e-6)
    same = qlab("eval", folder, *text, "--calibration", folder / "text.txt", "--spec", "int3-g32-asym")
    assert same.returncode == 2 and "is the evaluation text too" in same.stderr
    short = qlab("eval", folder, *text, "--calibration", other, "--spec", "int3-g32-asym")
    assert short.returncode == 2 and "holds 0 windows" not in short.stderr and "a window 512" in short.stderr


def test_compare_takes_recipes_and_plugins(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "edges.yaml"
    recipe.write_text("version: 1\nname: edges\nrules:\n  - {match: '*', method: stochastic, weight: int4-g32-asym}\n")
    text = ("--text", folder / "text.txt", "--window", 32)
    rows = answer("compare", folder, *text, "--specs", recipe, "--plugin", PLUGIN)["rows"]
    assert rows[1]["name"] == "edges"
    named = answer("compare", folder, *text, "--specs", "int4-g32-asym", "--method", "stochastic", "--plugin", PLUGIN)
    assert named["rows"][1]["name"] == "stochastic int4-g32-asym"


def test_estimate_reads_a_config_alone(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text((folder / "config.json").read_text())
    result = answer("estimate", config, "--spec", "int4-g32-asym", "--context", 1000)
    assert result["kv_bytes"] == 2 * 2 * 2 * 16 * 2 * 1000  # K and V, layers, heads, head size, bytes, tokens
    assert result["total_bytes"] > result["weights_bytes"] == result["size_bytes"]


def test_estimate_takes_recipes(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "whole.yaml"
    recipe.write_text("version: 1\nname: whole\nrules:\n  - {match: '*', weight: int4-g32-asym}\n")
    whole, body = (answer("estimate", folder, "--spec", spec) for spec in (recipe, "int4-g32-asym"))
    assert whole["spec"] == "whole"
    assert whole["linear_bytes"] == body["linear_bytes"]
    assert whole["embedding_bytes"] != body["embedding_bytes"]  # the head as well


def test_inspect_lists_linears(folder: Path) -> None:
    rows = answer("inspect", folder, "--layer", "*.0.mlp.*", "--spec", "int4-g32-asym")["rows"]
    assert [row["layer"].split(".")[-1] for row in rows] == ["gate_proj", "up_proj", "down_proj"]
    assert all(row["snr_db"] > 10 for row in rows)


def test_methods_lists_options() -> None:
    rows = {row["method"]: row["options"] for row in answer("methods", "--plugin", PLUGIN)["rows"]}
    assert rows["mse"] == {"norm": 2.4, "grid": 100, "maxshrink": 0.8}
    assert rows["stochastic"] == {"seed": 0}


QUANTIZE = ("--spec", "int4-g32-sym", "--samples", 4, "--seqlen", 32)


def quantize(folder: Path, out: Path, *arguments: str | Path) -> dict:
    return answer("quantize", folder, *QUANTIZE, "--calibration", folder / "text.txt", "--out", out, *arguments)


def test_quantize_writes_a_folder_that_eval_opens(folder: Path, tmp_path: Path) -> None:
    done = quantize(folder, tmp_path / "out", "--method", "awq+gptq", "--format", "compressed-tensors")
    assert done["quantized"] == 14 and done["skipped"] == 1 and done["bits_per_weight"] == 4.5
    assert all(row["rel_output"] > 0 and row["rtn_output"] > 0 for row in done["rows"][:-1])
    result = qlab("eval", tmp_path / "out", "--text", folder / "text.txt", "--window", 32)
    assert "14 linears int4-g32-sym, on" in result.stdout and "4.5 bits per weight" in result.stdout
    compared = answer("eval", tmp_path / "out", "--reference", folder, "--text", folder / "text.txt", "--window", 32)
    assert 0 < compared["kl_mean"] < 0.1


@pytest.mark.parametrize(("spec", "layout"), [("int4-g32-sym", "gptq"), ("int4-g32-asym", "gptq_v2")])
def test_the_default_format_holds_the_spec(spec: str, layout: str, folder: Path, tmp_path: Path) -> None:
    assert answer("quantize", folder, "--spec", spec, "--out", tmp_path / "out")["format"] == layout
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["checkpoint_format"] == layout


def test_a_searched_range_and_the_checkpoints_dtype_reach_the_run(folder: Path, tmp_path: Path) -> None:
    plain = quantize(folder, tmp_path / "plain", "--method", "gptq")
    searched = quantize(folder, tmp_path / "out", "--method", "gptq", "--mse", "--dtype", "auto")
    assert "mse: true" in (tmp_path / "out/config.json").read_text().replace("\\n", "\n")
    assert searched["rel_mse"] < plain["rel_mse"]


def test_act_order_reaches_method_and_file(folder: Path, tmp_path: Path) -> None:
    quantize(folder, tmp_path / "out", "--method", "gptq", "--act-order", "desc")
    assert json.loads((tmp_path / "out" / "quantize_config.json").read_text())["desc_act"] is True


def test_a_dry_run_shows_the_plan_and_does_nothing(folder: Path, tmp_path: Path) -> None:
    plan = answer("quantize", folder, "--spec", "int4-g32-sym", "--out", tmp_path / "out", "--dry-run")
    assert plan["problems"] == {} and plan["memory_bytes"] > plan["memory"]["one block"] > 0
    assert len(plan["rows"]) == 15 and not list(tmp_path.iterdir())
    refused = qlab("quantize", folder, "--spec", "int3-g32-sym", "--format", "awq", "--dry-run")
    assert refused.returncode == 2 and "(and 13 more layers)" in refused.stderr
    assert "model.layers.1.mlp.down_proj" in refused.stdout.split("problem: ")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "MODEL", "--spec", "int4-g32-sym"], "--out is missing"),
        (["quantize", "MODEL", "--spec", "int4-g32-sym", "--out", "MODEL"], "exists and is not empty"),
        (["quantize", "MODEL", "--spec", "int4-g32-sym", "--dry-run", "--format", "gguf"], "unknown layout 'gguf'"),
        (["quantize", "MODEL", "--spec", "int4-g32-sym", "--dry-run", "--device", "cuda:77"], "--device cuda:77"),
        (
            ["quantize", "MODEL", "--spec", "int4-g32-sym", "--dry-run", "--act-order", "desc"],
            "'rtn' has no option 'act_order'",
        ),
        (["quantize", "MODEL", "--spec", "int4-g32-sym", "--dry-run", "--method", "awqq+gptq"], "unknown pass 'awqq'"),
        (
            ["quantize", "MODEL", "--spec", "int4-g32-sym", "--dry-run", "--method", "gptq", "--calibration", "TEXT"],
            "holds 1 windows of 512",
        ),
        (["quantize", "no.gguf", "--spec", "int4", "--dry-run"], "give the Hugging Face folder"),
        (["eval", "MODEL", "--text", "nowhere.txt"], "nowhere.txt"),
        (["eval", "MODEL", "--text", "TEXT", "--window", "100"], "takes 64 positions"),
        (["eval", "MODEL", "--text", "TEXT", "--tokens", "20", "--window", "32"], "fewer than one window of 32"),
        (["eval", "MODEL", "--text", "TEXT", "--window", "32", "--tokens", "0"], "--tokens 0"),
        (["eval", "no/such/model"], "no/such/model"),
        (["compare", "MODEL", "--specs", "int9"], "did you mean int8"),
        (["compare", "MODEL", "--specs", "int4-g999-asym", "--text", "TEXT", "--window", "32"], "group size 999"),
        (["compare", "MODEL", "--specs", ","], "--specs is empty"),
        (["compare", "MODEL", "--specs", "none.yaml"], "recipe none.yaml does not exist"),
        (["compare", "MODEL", "--specs", "int4", "--method", "gtpq"], "unknown method 'gtpq'"),
        (["eval", "MODEL", "--plugin", "no.py"], "plugin no.py does not exist"),
        (["eval", "MODEL", "--text", "TEXT", "--window", "32", "--protocol", "x"], "unknown protocol 'x'"),
        (["inspect", "MODEL", "--layer", "zzz"], "no layer of"),
        (["estimate", "no/config.json"], "no/config.json"),
        (["eval", "MODEL", "--method", "mse"], "--method mse would have no effect: add --spec"),
        (["frobnicate"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(folder: Path, arguments: list[str], message: str) -> None:
    places = {"MODEL": str(folder), "TEXT": str(folder / "text.txt")}
    done = qlab(*(places.get(a, a) for a in arguments))
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 or arguments == ["frobnicate"]


def test_bos_is_asked_of_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    from qlab.cli.common import text_ids

    plain = PreTrainedTokenizerFast.from_pretrained(folder)
    with_bos = PreTrainedTokenizerFast.from_pretrained(folder, bos_token="<unk>")
    template = TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 27)])
    with_bos.backend_tokenizer.post_processor = template
    text = str(folder / "text.txt")
    assert [text_ids(t, text, None, 9, "llama.cpp")[1] for t in (plain, with_bos)] == [None, 27]
    assert text_ids(with_bos, text, None, 9, "windows")[1] is None


def test_not_a_number_becomes_null() -> None:
    from qlab.cli.common import finite

    assert finite({"a": [1.0, float("inf")], "b": (float("nan"),)}) == {"a": [1.0, None], "b": [None]}


def test_help_teaches() -> None:
    text = qlab("compare", "--help").stdout
    assert "int4-g128-asym" in text
    assert "llama.cpp" in text


def test_the_python_evaluation_is_the_command_lines(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([26 if c == " " else ord(c) - 97 for c in (folder / "text.txt").read_text()])
    wanted = evaluate(model, ids, window=32, protocol="llama.cpp", progress=False).perplexity
    arguments = ("--text", folder / "text.txt", "--window", 32, "--protocol", "llama.cpp")
    assert answer("eval", folder, *arguments)["perplexity"] == pytest.approx(wanted, rel=1e-6)


def test_a_real_process_keeps_stdout_for_the_answer(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "qlab.cli",
        "eval",
        folder,
        "--text",
        folder / "text.txt",
        "--window",
        "32",
        "--json",
    ]
    env = {name: value for name, value in os.environ.items() if name != "QLAB_PROGRESS"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert json.loads(done.stdout)["windows"] == 16
    assert "evaluating" in done.stderr  # the progress bar is there, and not on stdout
    bad = subprocess.run([*command[:3], "eval", "no/such/model"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: ")
