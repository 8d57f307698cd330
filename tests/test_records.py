"""Records: read by name, written in one step, always with how they were made."""

import json

import pytest

from qlab import records
from qlab.errors import QlabError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDERS", (tmp_path / "packaged", tmp_path / "records"))
    return tmp_path / "records"


def test_a_record_comes_back_as_it_was_saved(folder):
    record = {"about": "é", "rows": [{"name": "a", "sums": [1.5, 2]}, {"name": "b", "sums": []}], "none": None}
    assert records.save_record("demo", record) == folder / "demo.json"
    assert records.load_record("demo") == record
    assert [file.name for file in folder.iterdir()] == ["demo.json"]


def test_lists_of_numbers_stay_on_one_line(folder):
    text = records.save_record("demo", {"rows": [{"sums": [1, 2, 3]}]}).read_text()
    assert '"sums": [1, 2, 3]' in text
    assert json.loads(text) == {"rows": [{"sums": [1, 2, 3]}]}


def test_nan_is_not_json(folder):
    with pytest.raises(ValueError, match="JSON compliant"):
        records.save_record("demo", {"x": float("nan")})
    assert not (folder / "demo.json").exists()


def test_an_unknown_record_names_the_known(folder):
    records.save_record("demo", {})
    with pytest.raises(QlabError, match=r"no record 'x' in data/records: use one of demo"):
        records.load_record("x")


def test_provenance_names_command_machine_and_commit():
    made = records.provenance("make record")
    assert set(made) == {"command", "date", "hardware", "versions", "commit"}
    assert made["hardware"].endswith("cores")
    assert set(made["versions"]) == {"python", "torch", "transformers"}
    assert made["date"] in records.made({"made": made})
    assert "make record" in records.made({"made": made})
