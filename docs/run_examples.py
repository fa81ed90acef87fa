"""Runs the examples of docs/command-line.md and puts what they print below them.

    python docs/run_examples.py

In a ``console`` block every line that starts with "$ " is a command, run by bash in a temporary
folder that holds the bundled model as ``model.caffemodel``, its picture as ``picture.png`` and
Caffe's activations as ``caffe.h5``; the lines up to the next one are its output.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "command-line.md"
BUNDLED = ROOT / "weights" / "largefov_v1_w8"
FILES = {
    "weights.caffemodel": "model.caffemodel",
    "picture.png": "picture.png",
    "activations.h5": "caffe.h5",
}
BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)


def main() -> None:
    """Fill the page in."""
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for source, name in FILES.items():
            shutil.copy(BUNDLED / source, Path(folder, name))
        filled = BLOCK.sub(lambda block: "".join(map(run(folder), commands(block[0]))), page)
    PAGE.write_text(filled, encoding="utf-8")


def commands(block: str) -> list[str]:
    """The command lines of a block."""
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


def run(folder: str) -> Callable[[str], str]:
    """A function from a command line to what a terminal would show of it."""
    program = f"'{sys.executable}' -c 'from deeplab_repro.cli import main; main()'"
    setup = f'deeplab-repro() {{ {program} "$@"; }}\n'
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}

    def shown(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1\n{setup}{command}"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        if "Traceback" in done.stdout:
            sys.exit(f"{command}\n{done.stdout}")
        lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
        return "\n".join([f"$ {command}", *lines]) + "\n"

    return shown


if __name__ == "__main__":
    main()
