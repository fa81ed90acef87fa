"""Which kind of error says what, and that all of them are one printable line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import deeplab_repro
from deeplab_repro import load_caffe
from deeplab_repro.caffe.scoring import scoring_net
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.inference.segmentation import Segmenter
from deeplab_repro.parity.recordings import find_recordings
from deeplab_repro.pictures.palette import read_classes
from deeplab_repro.pictures.reading import Preparation, read_picture
from deeplab_repro.pictures.scores import energies, read_scores
from prototxt_import import CaffeImportError, parse_net

NETWORK = (
    'input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9 '
    'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }'
)


def test_an_error_that_is_no_import_error_has_the_same_form() -> None:
    error = InputError("is\x1b[31m bad\nnews", file="f", layer="l", expected=1, got=2)
    assert str(error) == "f: layer 'l': is\\x1b[31m bad news; expected 1, got 2"
    assert error.with_file("g") is error
    assert error.file == "f"
    assert isinstance(error, ValueError)
    assert not issubclass(InputError, CaffeImportError)
    assert issubclass(CaffeImportError, BadInput)
    assert (deeplab_repro.InputError, deeplab_repro.BadInput) == (InputError, BadInput)


def _text(folder: Path) -> Path:
    path = folder / "text.npy"
    path.write_text("nothing of use")
    return path


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: read_picture(_text(folder)),
        lambda folder: read_scores(_text(folder)),
        lambda folder: read_scores(folder / "x.doc"),
        lambda folder: energies(np.zeros((2, 3, 3), np.float32), (4, 4)),
        lambda folder: read_classes(_text(folder), 2),
        lambda folder: find_recordings(folder, Path("m"), None),
        lambda folder: Preparation(pad_to=1).apply(np.zeros((2, 2, 3), np.uint8)),
        lambda folder: Segmenter(load_caffe(parse_net(NETWORK)), scales=[]),
    ],
)
def test_what_imports_nothing_raises_an_input_error(
    tmp_path: Path, use: Callable[[Path], object]
) -> None:
    with pytest.raises(InputError):
        use(tmp_path)


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: load_caffe(folder / "none.prototxt"),
        lambda folder: load_caffe(_text(folder)),
        lambda folder: scoring_net(parse_net(NETWORK), "elsewhere"),
    ],
)
def test_networks_raise_an_import_error(tmp_path: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(CaffeImportError):
        use(tmp_path)
