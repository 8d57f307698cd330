"""The cache: whole or absent, checked, safe between processes."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qlab.cache import MANIFEST, atomic_folder, cache_dir, cached_folder, sha256, verify
from qlab.errors import QlabError


def write_two(folder: Path) -> None:
    (folder / "a.txt").write_text("alpha")
    (folder / "b.bin").write_bytes(b"\0\1")


def refuse(folder: Path) -> None:
    raise AssertionError(f"{folder} must not be built")


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("QLAB_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("QLAB_CACHE")
    assert cache_dir().name == "qlab"


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "abc").write_text("abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_built_once_then_reused(tmp_path):
    path = tmp_path / "deep" / "thing"
    assert cached_folder(path, write_two) == path
    assert set(json.loads((path / MANIFEST).read_text())) == {"a.txt", "b.bin"}
    assert cached_folder(path, refuse) == path


def test_failure_leaves_nothing(tmp_path):
    def write_and_fail() -> None:
        with atomic_folder(tmp_path / "thing") as folder:
            write_two(folder)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["change", "delete", "manifest", "no manifest"])
def test_damage_names_the_folder_and_the_remedy(tmp_path, damage):
    path = cached_folder(tmp_path / "thing", write_two)
    {
        "change": lambda: (path / "a.txt").write_text("alphA"),
        "delete": (path / "b.bin").unlink,
        "manifest": lambda: (path / MANIFEST).write_text("{"),
        "no manifest": (path / MANIFEST).unlink,
    }[damage]()
    with pytest.raises(QlabError, match="damaged.*thing; delete that folder") as error:
        cached_folder(path, refuse)
    assert "\n" not in str(error.value)


def test_a_killed_first_build_is_cleaned_and_built_again(tmp_path):
    path = tmp_path / "thing"
    script = (
        "import os, sys; from pathlib import Path; from qlab.cache import cached_folder\n"
        "def die(folder): (folder / 'half').write_text('x'); os.kill(os.getpid(), 9)\n"
        "cached_folder(Path(sys.argv[1]), die)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert not path.exists() and len(list(tmp_path.glob("thing.*.part"))) == 1
    verify(cached_folder(path, write_two))
    assert {entry.name for entry in tmp_path.iterdir()} == {"thing", "thing.lock"}


def test_processes_that_start_together_build_once(tmp_path):
    builds = tmp_path / "builds"
    script = (
        "import os, sys, time; from pathlib import Path; from qlab.cache import cached_folder\n"
        "def build(folder):\n"
        "    with open(sys.argv[2], 'a') as log: log.write('x')\n"
        "    time.sleep(0.5); (folder / 'a').write_text('a')\n"
        "cached_folder(Path(sys.argv[1]), build)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "thing"), str(builds)]
    assert [process.wait() for process in [subprocess.Popen(command) for _ in range(3)]] == [0, 0, 0]
    assert builds.read_text() == "x"


def test_threads_that_start_together_build_once(tmp_path):
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        write_two(folder)

    threads = [threading.Thread(target=cached_folder, args=(tmp_path / "thing", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    verify(tmp_path / "thing")


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(QlabError, match=r"cannot write the cache: .*thing: .*set QLAB_CACHE"):
        cached_folder(tmp_path / "file" / "thing", write_two)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(QlabError, match="Permission denied; .*set QLAB_CACHE"):
        cached_folder(tmp_path / "thing", write_two)


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    def full(folder: Path) -> None:
        write_two(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(QlabError, match="No space left on device; free some space"):
        cached_folder(tmp_path / "thing", full)
    assert {entry.name for entry in tmp_path.iterdir()} == {"thing.lock"}
