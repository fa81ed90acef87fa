"""Commands of the pages, run as a user's shell would run them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Final

from tests.docs.pages import ROOT

__all__ = ["environment", "run"]

#: Serves until it is stopped, and says where.
_SERVES: Final = " crf-tune "


def environment(folder: Path) -> dict[str, str]:
    """The variables of a user who has made the environment and activated it.

    Args:
        folder: stands for the user's home.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": path,
        "HOME": str(folder),
        "CHECKOUT": str(ROOT),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "NO_PROXY": "127.0.0.1",
        "BROWSER": "true",  # the command: opens nothing
    }


def run(command: str, folder: Path, variables: dict[str, str]) -> tuple[int, list[str]]:
    """Run a command line.

    Args:
        command: for bash.
        folder: where.
        variables: of the environment.

    Returns:
        The exit code, and the lines that a terminal would show.
    """
    shell = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail\n{command}"],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert shell.stdout is not None
    shown = _visited(shell) if _SERVES in command else ""
    shown += shell.communicate(timeout=300)[0]
    return shell.returncode, [line.rstrip() for line in shown.strip("\n").splitlines()]


def _visited(shell: subprocess.Popen[str]) -> str:
    """Wait for the address, look at the page once, and press Ctrl-C."""
    assert shell.stdout is not None
    shown = ""
    for line in shell.stdout:
        shown += line
        if address := re.search(r"http://127\.0\.0\.1:\d+/", line):
            # Not by way of a proxy that the environment may name.
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(address[0], timeout=60) as page:
                assert page.status == 200
            break
    os.killpg(shell.pid, signal.SIGINT)
    return shown
