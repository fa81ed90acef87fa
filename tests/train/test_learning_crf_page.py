"""Every block of docs/learning_crf.md runs, one after the other, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "learning_crf.md"
#: Names that the page gives to its prototxts, in their order.
FILES = "crf.prototxt", "data.prototxt", "solver.prototxt"


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names = iter(FILES)
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    program = f'deeplab-repro() {{ "{sys.executable}" -m deeplab_repro "$@"; }}\nset -e\n'
    ran = 0
    for kind, text in blocks:
        if kind == "prototxt":
            (tmp_path / next(names)).write_text(text)
            continue
        command = ["bash", "-c", program + text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran == 5
    assert next(names, None) is None
