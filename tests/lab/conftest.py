"""A real JupyterLab on this machine, its settings and its notebooks in temporary folders."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import chromium, stay_inside
from playwright.sync_api import Browser, Page

START_SECONDS = 60

SETTINGS = {
    # No question about news, and every cell in the page: by default those out of sight are taken from it.
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


@dataclass(frozen=True)
class Lab:
    """A running server."""

    host: str
    token: str
    root: Path  # the folder it serves

    def address(self, notebook: str) -> str:
        """Where a notebook opens in a fresh workspace."""
        return f"{self.host}/lab/tree/{notebook}?reset&token={self.token}"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server that is ready to answer, ended with the session."""
    config = tmp_path_factory.mktemp("config")
    folder = tmp_path_factory.mktemp("notebooks")
    running = Lab(f"http://127.0.0.1:{free_port()}", secrets.token_hex(16), folder)
    with (config / "log").open("w") as log:
        process = subprocess.Popen(command(running, config), env=environment(config), stdout=log, stderr=log)
    try:
        wait_until_it_answers(running, process, config / "log")
        yield running
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(lab: Lab, config: Path) -> list[str]:
    """The server's command line; its settings are written beside its log."""
    overrides = config / "overrides"
    overrides.mkdir()
    (overrides / "overrides.json").write_text(json.dumps(SETTINGS))
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--port={lab.host.rpartition(':')[2]}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={lab.root}"),
        *(f"--LabApp.app_settings_dir={overrides}", "--LabApp.extension_manager=readonly"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]


def environment(config: Path) -> dict[str, str]:
    """This process's environment without progress bars, and with Jupyter's folders of its own."""
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    own = {name: str(config / folder) for name, folder in folders.items()}
    return {**os.environ, **own, "QLAB_PROGRESS": "0", "QLAB_PREDICTIONS": str(config / "predictions.json")}


def wait_until_it_answers(lab: Lab, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server's API answers; fail with the end of its log when it died or took too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{lab.host}/api?token={lab.token}", timeout=1).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser(chromium_path: str | Path) -> Iterator[Browser]:
    """One Chromium for all lessons; closed with the module, since two Playwrights cannot run at once."""
    with chromium(str(chromium_path)) as running:
        yield running


@pytest.fixture
def page(lab: Lab, browser: Browser) -> Iterator[Page]:
    """A tab that reaches this server and nothing else."""
    tab = browser.new_page(viewport={"width": 1300, "height": 1000})
    stay_inside(tab, lab.host)
    yield tab
    tab.close()
