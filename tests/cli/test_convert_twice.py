"""Equal files of two conversions: whatever Python's hashes, and whenever they were made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "weights" / "largefov_v1_w8" / "weights.caffemodel"
ENDINGS = (".safetensors", ".pt", ".caffemodel", ".caffemodel.h5")
CONVERT = """
import sys
from deeplab_repro.cli import main
for out in sys.argv[2:]:
    try:
        main(["convert", sys.argv[1], "-o", out])
    except SystemExit as stopped:
        assert stopped.code == 0
"""


@pytest.mark.slow
def test_two_conversions_give_the_same_bytes(tmp_path):
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        subprocess.run(
            [sys.executable, "-c", CONVERT, MODEL, *(f"{seed}/w{ending}" for ending in ENDINGS)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    for ending in ENDINGS:
        first, second = (tmp_path / seed / f"w{ending}" for seed in ("1", "2"))
        assert first.read_bytes() == second.read_bytes(), ending
