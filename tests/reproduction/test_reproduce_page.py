"""The section "Reproduce the paper" of docs/reproduce.md, as typed, on a small made-up set."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplab_repro.models import write_network
from deeplab_repro.released import read_manifest
from prototxt_import import write_weights
from tests.models.narrow import narrow
from tests.released.server import Page, serving
from tests.testing.voc_set import make_voc

ROOT = Path(__file__).parents[2]
MODEL = "deeplab_v2_resnet101"
WIDTH = 32


def commands() -> list[str]:
    """The lines of the section that start with "$"."""
    text = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
    section = text.split("## Reproduce the paper\n")[1].split("\n## ")[0]
    return [line.strip() for line in re.findall(r"^    \$ (.*?)(?:  +#.*)?$", section, re.M)]


def archive(folder: Path) -> bytes:
    """prototxt_and_model.zip with a narrow network in it."""
    torch.manual_seed(2)
    model = narrow("resnet101-msc-aspp", num_classes=21, width=WIDTH)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(0.1)
    write_weights(folder / "a.caffemodel", model.caffe_weights())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as out:
        for name in ("init", "train_iter_20000", "train2_iter_20000"):
            out.write(folder / "a.caffemodel", f"model/{name}.caffemodel")
        out.writestr("model/test.prototxt", write_network("resnet101-msc-aspp", "TEST"))
    return content.getvalue()


def manifest(address: str) -> dict[str, Any]:
    """The package's own, but for the width of the model and its addresses."""
    content: dict[str, Any] = json.loads(read_manifest().path.read_text(encoding="utf-8"))
    model = content["models"][MODEL]
    model["width"] = WIDTH
    for download in model["downloads"].values():
        download["sources"] = [{"url": address}]
    return content


@pytest.mark.slow
def test_every_command_works_as_printed(tmp_path: Path) -> None:
    lines = commands()
    assert [line.split()[1] for line in lines if line.startswith("deeplab-repro")] == [
        *("weights", "weights", "data", "reproduce"),
        *("segment", "crf", "evaluate"),
    ]
    make_voc(tmp_path, pictures=5, size=(60, 80))
    with serving() as server:
        address = server.url("/prototxt_and_model.zip", Page(archive(tmp_path)))
        (tmp_path / "manifest.json").write_text(json.dumps(manifest(address)))
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "DEEPLAB_REPRO_MANIFEST": str(tmp_path / "manifest.json"),
            "DEEPLAB_REPRO_WEIGHTS": str(tmp_path / "store"),
        }
        said = {}
        for line in lines:
            done = subprocess.run(
                line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            # A narrow network of random weights reproduces nothing, and says so by 1.
            expected = 1 if " reproduce " in line else 0
            assert (done.returncode != 0) == expected, f"{line}\n{done.stdout}\n{done.stderr}"
            said[line] = done.stdout
    assert "76.35" in said[lines[0]]
    (reproduce,) = (line for line in lines if line.startswith("deeplab-repro reproduce"))
    assert "76.35" in said[reproduce]
    assert "not reproduced" in said[reproduce]
    one, two = (json.loads((tmp_path / run / "report.json").read_text()) for run in ("run", "run2"))
    assert one == two
    # The steps by themselves give what `reproduce` gives.
    for step, folder in (("before", "labels"), ("after", "labels_crf")):
        ours = sorted((tmp_path / step / "labels").iterdir())
        theirs = sorted((tmp_path / "run" / folder).iterdir())
        assert [file.name for file in ours] == [file.name for file in theirs]
        assert len(ours) == 3
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(ours, theirs, strict=True))
    scores = np.load(next(iter((tmp_path / "after" / "marginals").glob("*.npz"))))
    assert scores["marginals"].shape[0] == 21
    assert "mean IoU" in (tmp_path / "after.html").read_text()
