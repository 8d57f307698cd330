"""Calibration: windows drawn by seed, without overlap, and never fewer than asked for."""

import pytest
import torch

from qlab.calibration import Calibration, calibration
from qlab.errors import QlabError


class Letters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "numbers.txt"
    file.write_text("".join(chr(1000 + i) for i in range(105)), encoding="utf-8")
    return file


def test_windows_come_from_the_text_without_overlap(text) -> None:
    drawn = calibration(Letters(), text, samples=6, seqlen=10)
    starts = (drawn.ids[:, 0] - 1000).tolist()
    assert len(set(starts)) == 6 and all(s % 10 == 0 and s < 100 for s in starts)
    assert torch.equal(drawn.ids, drawn.ids[:, :1] + torch.arange(10))
    assert drawn.title == "6 × 10 tokens of numbers.txt, seed 0"


def test_the_seed_decides_and_leaves_the_global_one_alone(text) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, same, other = (calibration(Letters(), text, samples=4, seqlen=10, seed=s).ids for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.rand(3), expected)


def test_too_little_text_is_said(text) -> None:
    with pytest.raises(QlabError, match="has 105 tokens, a window 200"):
        calibration(Letters(), text, samples=1, seqlen=200)
    with pytest.raises(QlabError, match="holds 10 windows of 10 tokens, not 11: ask for 10"):
        calibration(Letters(), text, samples=11, seqlen=10)
    with pytest.raises(QlabError, match="both must be 1 or more"):
        calibration(Letters(), text, samples=0)
    with pytest.raises(QlabError, match=r"give token ids \[samples, seqlen\]"):
        Calibration(torch.arange(5))
