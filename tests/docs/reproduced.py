"""What the commands of docs/reproduce.md must have made, one beside the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

__all__ = ["check_reproduced"]


def check_reproduced(folder: Path, said: dict[str, list[str]]) -> None:
    """Look at the folder after all blocks of the page.

    Args:
        folder: where they ran.
        said: command -> what it printed.
    """
    assert "76.35" in " ".join(said["deeplab-repro weights list"])
    reproduce = "deeplab-repro reproduce deeplab_v2_resnet101 --voc VOCdevkit -o run"
    assert "76.35" in " ".join(said[reproduce])
    assert "not reproduced" in " ".join(said[reproduce])
    one, two = (json.loads((folder / run / "report.json").read_text()) for run in ("run", "run2"))
    assert one == two
    # The steps by themselves give what `reproduce` gives.
    for step, labels in (("before", "labels"), ("after", "labels_crf")):
        ours = sorted((folder / step / "labels").iterdir())
        theirs = sorted((folder / "run" / labels).iterdir())
        assert [file.name for file in ours] == [file.name for file in theirs]
        assert len(ours) == 3
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(ours, theirs, strict=True))
    scores = np.load(next(iter((folder / "after" / "marginals").glob("*.npz"))))
    assert scores["marginals"].shape[0] == 21
    assert "mean IoU" in (folder / "after.html").read_text()
