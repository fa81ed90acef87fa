"""The written prototxts stay what they are, byte for byte.

`prototxt_sha256.txt` holds the SHA-256 of every text below.  To change the texts on purpose, run
`python -m tests.models.test_written_texts` and say in the commit what changed in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from deeplab_repro.models import NETWORKS, PHASES, write_network

_RECORDED = Path(__file__).with_name("prototxt_sha256.txt")


def combinations(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is written of one network: a title for each text and the arguments that give it."""
    step, rest = NETWORKS[name].input_rule
    small, wide = step * 3 + rest, step * 5 + rest
    for format in NETWORKS[name].formats:
        for phase in PHASES:
            for width in (1, 8):
                yield (
                    f"{name} {format} {phase} width={width}",
                    {
                        "format": format,
                        "phase": phase,
                        "width": width,
                    },
                )
            yield (
                f"{name} {format} {phase} changed",
                {
                    "format": format,
                    "phase": phase,
                    "width": 64,
                    "num_labels": 7,
                    "input_size": small,
                    "batch": 3,
                    "exp": 'c"o\\co',
                    "data_root": "/data",
                    "train_set": "t",
                    "test_set": "v",
                    "feature_dir": "f",
                },
            )
        yield f"{name} {format} DEPLOY oblong", {"format": format, "input_size": (small, wide)}
    yield f"{name} v2 TRAIN oblong", {"phase": "TRAIN", "input_size": (small, wide)}


def digests(name: str) -> dict[str, str]:
    return {
        title: sha256(write_network(name, **options).encode()).hexdigest()
        for title, options in combinations(name)
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sampled(4)
def test_texts_are_unchanged(name: str) -> None:
    lines = (line.split("  ", 1) for line in _RECORDED.read_text().splitlines())
    recorded = {title: digest for digest, title in lines if title.split()[0] == name}
    assert digests(name) == recorded


if __name__ == "__main__":
    _RECORDED.write_text(
        "".join(
            f"{digest}  {title}\n" for name in NETWORKS for title, digest in digests(name).items()
        )
    )
