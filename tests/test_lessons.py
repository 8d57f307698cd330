"""Every lesson has the same ten parts, says what it costs, keeps its cells small, and ran without an error."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest

LESSONS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PARTS = [
    "At a glance", "Predict", "Play", "By hand", "From scratch", "Check", "Break it", "Exercise", "Measure", "Close",
]  # fmt: skip
FIELD = re.compile(r"^  (\w+) = \{(.+)\},$", re.M)
BIBLIOGRAPHY = [
    fields
    for entry in (Path(__file__).resolve().parents[1] / "book" / "references.bib").read_text().split("\n@")
    if "url" in (fields := dict(FIELD.findall(entry)))
]
MAX_BYTES = 300_000
MAX_LINES, MEDIAN_LINES = 25, 6
MAX_SCRATCH_LINES = {"05": 40}  # GPTQ, the one longer method
EXERCISES = {"15": 3}  # three short puzzles; elsewhere there is one


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def lesson(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def number(path):
    return path.name[:2]


def code(lesson):
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def prose(lesson):
    return "\n\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")


def parts(lesson):
    """Cells of each part; a cell belongs to the last heading at or before its end."""
    found, current = {}, None
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^## (.+)$", cell.source, re.M)
            current = headings[-1] if headings else current
        found.setdefault(current, []).append(cell)
    return found


def lines(cell):
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def tagged(lesson, tag):
    return [i for i, cell in enumerate(lesson.cells) if tag in cell.metadata.get("tags", [])]


def verdict(cell):
    """What an exercise's check said in this cell."""
    outputs = cell.get("outputs", [])
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    return [text for text in texts if text[:1] in ("✓", "✗")]


def test_there_are_lessons():
    assert LESSONS


def test_ten_parts_in_order(lesson):
    assert re.findall(r"^## (.+)$", prose(lesson), re.M) == PARTS


def test_one_title_with_the_number_of_the_file(lesson, path):
    titles = [
        line
        for cell in lesson.cells
        if cell.cell_type == "markdown"
        for line in re.findall(r"^# .+$", cell.source, re.M)
    ]
    assert len(titles) == 1
    assert titles[0].startswith(f"# {number(path)} · ")


def test_the_header_says_question_time_device_and_downloads(lesson):
    header = lesson.cells[0].source
    assert "**The question.**" in header
    assert "| before you start | time | device | downloads |" in header
    assert re.search(r"\| \d+ minutes \|", header)


def test_ids_are_words_that_stay(lesson):
    ids = [cell.id for cell in lesson.cells]
    assert len(set(ids)) == len(ids)
    assert [
        name for name in ids if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", name)
    ] == []  # what Jupyter draws at random


def test_every_cell_ran_once_in_order_without_an_error(lesson):
    assert [cell.execution_count for cell in code(lesson)] == list(range(1, len(code(lesson)) + 1))
    outputs = [output for cell in code(lesson) for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_cells_are_small(lesson, path):
    longest = MAX_SCRATCH_LINES.get(number(path), MAX_LINES)
    sizes = [lines(cell) for cell in code(lesson)]
    assert max(sizes) <= longest
    assert statistics.median(sizes) <= MEDIAN_LINES


def test_every_part_that_acts_has_code(lesson):
    kinds = {part: {cell.cell_type for cell in cells} for part, cells in parts(lesson).items()}
    assert [part for part in PARTS[1:-1] if "code" not in kinds[part]] == []


def test_predictions_are_plain_and_come_back_at_the_end(lesson):
    by_part = {
        part: "\n".join(c.source for c in cells if c.cell_type == "code") for part, cells in parts(lesson).items()
    }
    asked = re.findall(r'predict\(\s*"([^"]+)"', by_part["Predict"])
    assert asked
    assert len(re.findall(r"= .+# change me", by_part["Predict"])) == len(asked)
    everything = "\n".join(by_part.values())
    assert set(re.findall(r'reveal\(\s*"([^"]+)"', everything)) == set(asked)


def test_the_widget_is_alive_without_a_kernel(lesson):
    play = parts(lesson)["Play"]
    views = [
        o
        for cell in play
        for o in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in o.get("data", {})
    ]
    assert len(views) == 1
    state = lesson.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert views[0]["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] in state


def test_exercise_has_stub_hints_solution_and_a_check_after_each(lesson, path):
    stubs, solutions = tagged(lesson, "exercise-stub"), tagged(lesson, "exercise-solution")
    assert len(stubs) == len(solutions) == EXERCISES.get(number(path), 1)
    ends = [*stubs[1:], len(lesson.cells)]
    for first, second, end in zip(stubs, solutions, ends, strict=True):
        stub, solution = lesson.cells[first], lesson.cells[second]
        assert "NotImplementedError" in stub.source and "->" in stub.source
        assert "hide-cell" in solution.metadata.tags and solution.metadata["jupyter"]["source_hidden"]
        verdicts = {text[0]: i for i in range(first, end) for text in verdict(lesson.cells[i])}
        assert first < verdicts["✗"] < second < verdicts["✓"]
        between = "\n".join(cell.source for cell in lesson.cells[first:second])
        assert between.count("<details>") == 2


def test_it_asserts_equality_with_the_library(lesson):
    scratch = "\n".join(cell.source for cell in parts(lesson)["From scratch"] if cell.cell_type == "code")
    assert re.search(r"\bassert\b|assert_close", scratch)


def test_the_file_is_small_and_free_of_absolute_paths(lesson, path):
    text = path.read_text()
    assert len(text.encode()) < MAX_BYTES
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    assert "FigureWidget" not in text


def test_nothing_volatile_is_committed(lesson):
    assert lesson.metadata.language_info == {"name": "python"}
    assert not [cell.id for cell in lesson.cells if "execution" in cell.metadata]


def test_citations_are_links_to_the_bibliography(lesson):
    cited = re.findall(r"\[([^\]]+)\]\((https?://[^)]+)\)", prose(lesson))
    assert cited
    assert [text for text, url in cited if not any(cites(text, url, entry) for entry in BIBLIOGRAPHY)] == []


def cites(text, url, entry):
    """Whether a link leads to an entry's page or below it, and names the author and year if it names a year."""
    if not (url + "/").startswith(entry["url"] + "/"):
        return False
    year = re.search(r", (\d{4})$", text)
    return not year or (entry["year"] == year[1] and entry["author"].startswith(re.split(r"[ ,]", text)[0] + ","))


def test_prose_reads_the_same_in_every_viewer(lesson):
    marks = r"\{[\w:]+\}`|\$\$ *\([\w-]+\)|^:::|^`{3,}\{"  # roles, labels and directives: MyST's alone, raw elsewhere
    assert re.findall(marks, prose(lesson), re.M) == []


def test_equations_are_numbered_in_order_and_references_meet_one(lesson):
    numbers = [int(n) for n in re.findall(r"\\tag\{(\d+)\}", prose(lesson))]
    assert numbers == list(range(1, len(numbers) + 1))
    references = re.findall(r"equations? \((\d+)\)(?: and \((\d+)\))?", prose(lesson))
    assert {int(n) for pair in references for n in pair if n} <= set(numbers)
