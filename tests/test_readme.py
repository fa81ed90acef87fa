"""The README's numbers are those of the committed results, and its commands exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from deeplab_repro.cli import _COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_numbers_come_from_the_results():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert "| --- |" in README.split("<!-- numbers -->")[1]
    assert tables.filled(README) == README, "run python benchmarks/_tables.py"


def test_every_command_named_exists():
    named = set(re.findall(r"deeplab-repro ([a-z]+)\b", README))
    assert named
    assert named <= set(_COMMANDS)


def test_every_file_named_exists():
    named = re.findall(r"\]\(([^)#:]+)\)|`((?:benchmarks|tests|docs|weights)/[\w./-]+)`", README)
    for link, code in named:
        assert (ROOT / (link or code)).exists(), link or code
