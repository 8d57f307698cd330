"""What every test may ask for. Without a browser its tests are skipped, except under CI=true, where they fail."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

# A deadline per example would be a timed test, and fail on a busy machine.
hypothesis.settings.register_profile("qlab", deadline=None)
hypothesis.settings.load_profile("qlab")


def find_chromium() -> str | None:
    """The browser named by QLAB_CHROMIUM, else the one on PATH."""
    named = os.environ.get("QLAB_CHROMIUM")
    return shutil.which(named or "chromium") or (None if named else shutil.which("chromium-browser"))


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of a Chromium to drive."""
    path = find_chromium()
    if path is None:
        notice = "no Chromium found: install it (Debian: apt-get install chromium) or name it in QLAB_CHROMIUM"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(notice)
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent
