"""The project as a reader meets it: the README's commands, the setup, the floors, the name `kernels`."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import qlab

FENCE = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output kept."""
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def commands(page: Path) -> list[str]:
    """Every command line in the fenced shell blocks of a page, without prompts and comments."""
    lines = "".join(FENCE.findall(page.read_text())).splitlines()
    return [line.partition(" #")[0].removeprefix("$ ").strip() for line in lines if line.strip()]


def targets(root: Path) -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    """The parsed pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_every_make_command_of_a_page_exists(root: Path, page: str):
    named = set(re.findall(r"\bmake ([a-z]+)(?=[`\s]*(?:$|[`#\n]))", (root / page).read_text(), re.MULTILINE))
    assert named <= targets(root)


def test_the_two_commands_of_the_readme_are_make_lab_and_make_test(root: Path):
    assert {"make lab", "make test"} <= set(commands(root / "README.md"))


def test_qlab_commands_of_the_readme_parse(root: Path):
    qlab_lines = [line for line in commands(root / "README.md") if re.match(r"(\.venv/bin/)?qlab ", line)]
    for line in qlab_lines:
        command = line.split()[1]
        help_page = run(str(Path(sys.executable).with_name("qlab")), command, "--help", cwd=root, COLUMNS="200")
        asked = re.findall(r"--[a-z-]+", line)
        assert help_page.returncode == 0, line
        assert [option for option in asked if option not in help_page.stdout] == [], line


def test_ci_runs_what_the_readme_says(root: Path):
    script = (root / ".ci" / "run").read_text()
    assert re.findall(r"^make .*$", script, re.MULTILINE) == ["make test </dev/null"]
    assert os.access(root / ".ci" / "run", os.X_OK)
    assert run("bash", "-n", ".ci/run", cwd=root).returncode == 0


def test_make_alone_lists_every_target(root: Path):
    listed = run("make", "--no-print-directory", cwd=root)
    assert {line.split()[0] for line in listed.stdout.splitlines()} == targets(root)


def test_make_demo_is_the_comparison_of_four_recipes(root: Path):
    recipe = run("make", "-n", "demo", cwd=root).stdout
    specs = "int8-g128-asym,int4-g32-asym,int4-g128-asym,int3-g128-asym"
    assert f"qlab compare reference --specs {specs}" in recipe


def test_versions_agree(root: Path, project: dict):
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    named = {project["project"]["version"], qlab.__version__, version("qlab"), citation["version"]}
    assert len(named) == 1


def test_licences_agree(root: Path, project: dict):
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert project["project"]["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (root / "LICENSE").read_text()


def test_constraints_are_exact_and_start_with_torch(root: Path):
    pins = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins[0] == "torch==2.13.0"
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []


def test_every_direct_dependency_is_pinned(root: Path, project: dict):
    groups = project["project"]["optional-dependencies"]
    wanted = [project["project"]["dependencies"], groups["lab"], groups["book"], groups["test"]]
    names = {normal(re.match(r"[\w.-]+", need).group()) for group in wanted for need in group}
    pinned = {normal(line.partition("==")[0]) for line in (root / "constraints.txt").read_text().splitlines()}
    assert names - pinned == set()


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_floors_hold(root: Path):
    result = run(str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache", cwd=root)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_kernels_folder_does_not_pass_for_the_package_of_that_name(root: Path, tmp_path: Path, elsewhere: bool):
    # An editable install puts the root on the path, so that the folder is found from anywhere, and yet not taken.
    code = """
import importlib.util, transformers.utils.import_utils as asked
print(importlib.util.find_spec("kernels") is not None, asked.is_kernels_available())"""
    answer = run(sys.executable, "-c", code, cwd=tmp_path if elsewhere else root)
    found, taken = answer.stdout.split()
    assert taken == "False", answer.stderr
    assert elsewhere or found == "True"


@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 error"), ("", "1 skipped")])
def test_without_a_browser_its_tests_skip_and_fail_in_ci(root: Path, tmp_path: Path, ci: str, outcome: str):
    (tmp_path / "conftest.py").write_text((root / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text("def test_it(chromium_path): pass\n")
    ran = run(
        *(sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_it.py"),
        cwd=tmp_path, CI=ci, QLAB_CHROMIUM="/nowhere/chromium",
    )  # fmt: skip
    assert outcome in ran.stdout
    assert "no Chromium found" in ran.stdout


def test_a_named_browser_is_used_and_no_other(root: Path, tmp_path: Path):
    named = tmp_path / "chromium"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    code = "import conftest; print(conftest.find_chromium())"
    assert run(sys.executable, "-c", code, cwd=root / "tests", QLAB_CHROMIUM=str(named)).stdout.strip() == str(named)
