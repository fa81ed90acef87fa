"""VOC's colours, label pictures that every reader agrees on, and class files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.overlay import draw_overlay
from deeplab_repro.pictures.palette import (
    Classes,
    class_shares,
    read_classes,
    write_label_png,
)
from deeplab_repro.pictures.voc import VOC_CLASSES, voc_palette


def test_colours_of_voc() -> None:
    """As the VOC 2012 development kit's documentation shows them."""
    palette = voc_palette()
    assert palette[[0, 1, 2, 3, 4, 8, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
        [64, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(palette, axis=0)) == 256
    assert np.array_equal(voc_palette(300)[256:], palette[:44])


def a_label_map() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (13, 29), np.uint8)


def test_label_png_as_opencv_reads_it(tmp_path: Path) -> None:
    """OpenCV gives the palette's colours, whatever the flag; they tell the ids."""
    labels = a_label_map()
    write_label_png(tmp_path / "l.png", labels)
    for flag in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR):
        seen = cv2.imread(str(tmp_path / "l.png"), flag)
        assert np.array_equal(seen[:, :, ::-1], voc_palette()[labels])


@pytest.mark.parametrize("shape", [(13, 29), (1, 1), (1, 300), (300, 1)])
def test_label_png_as_pil_reads_it(tmp_path: Path, shape: tuple[int, int]) -> None:
    """PIL and Matlab give the ids."""
    labels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_label_png(tmp_path / "l.png", labels)
    with Image.open(tmp_path / "l.png") as seen:
        assert seen.mode == "P"
        assert np.array_equal(np.asarray(seen), labels)
        assert np.array_equal(np.asarray(seen.convert("RGB")), voc_palette()[labels])
        assert seen.getpalette() == voc_palette().ravel().tolist()  # all 256, used or not


def test_label_png_of_own_colours(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2, 255]])
    write_label_png(tmp_path / "l.png", labels, np.array([[9, 8, 7], [1, 2, 3]], np.uint8))
    seen = cv2.imread(str(tmp_path / "l.png"))[:, :, ::-1]
    assert seen.tolist() == [[[9, 8, 7], [1, 2, 3], [0, 128, 0], [224, 224, 192]]]


def test_more_than_256_classes(tmp_path: Path) -> None:
    labels = np.array([[0, 300], [255, 7]], np.int16)
    write_label_png(tmp_path / "l.png", labels, voc_palette(301))
    seen = cv2.imread(str(tmp_path / "l.png"), cv2.IMREAD_UNCHANGED)
    assert seen.dtype == np.uint16
    assert np.array_equal(seen, labels)


def test_class_files(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("void\nroad #804080\r\n\nthe sky #70G0FF\n\n", encoding="utf-8")
    classes = read_classes(path, 4)
    assert classes.names == ("void", "road", "2", "the sky #70G0FF")
    assert classes.colours.tolist() == [[0, 0, 0], [128, 64, 128], [0, 128, 0], [128, 128, 0]]
    with pytest.raises(InputError, match=r"classes.txt.*expected 21 lines, got 4"):
        read_classes(path, 21)
    with pytest.raises(BadInput, match="No such file"):
        read_classes(tmp_path / "none.txt", 4)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        BadInput, match="is no text; expected a text file in UTF-8, one class a line"
    ):
        read_classes(path, 1)


def test_default_names() -> None:
    assert Classes.default(21).names == VOC_CLASSES
    assert Classes.default(3).names == ("0", "1", "2")


def test_shares() -> None:
    assert class_shares(np.array([[2, 2, 0], [0, 2, 5]]), "abcdef") == [(2, 3), (0, 2), (5, 1)]


# ---------------------------------------------------------------- overlay


def test_overlay() -> None:
    picture = np.full((400, 600, 3), 100, np.uint8)
    labels = np.zeros((400, 600), np.uint8)
    labels[100:300, 100:300] = 15
    drawn = draw_overlay(picture, labels, Classes.default(21))
    assert drawn.shape[0] == 400
    assert drawn.shape[1] > 600
    assert drawn[50, 50].tolist() == [100] * 3  # the background as it was
    assert drawn[200, 200].tolist() == [114, 114, 146]  # half of (128, 128, 192), BGR
    assert (drawn[100, 100:300] > 200).all()  # the border is light
    legend = drawn[:, 600:]
    assert (legend == [128, 128, 192]).all(2).sum() > 100  # person's swatch
    assert (legend == [0, 0, 0]).all(2).sum() > 100  # background's


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3), (97, 97)])
def test_overlay_of_any_size(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 50, np.uint8)
    labels = np.random.default_rng(0).integers(0, 60, size)
    drawn = draw_overlay(picture, labels, Classes.default(60))
    zoom = max(1, 360 // max(size))
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] >= size[0] * zoom
    assert drawn.shape[1] > size[1] * zoom


def test_names_that_opencv_cannot_write() -> None:
    names = Classes(("Straße", "空"), voc_palette(2))
    labels = np.array([[0, 1]])
    assert draw_overlay(np.zeros((1, 2, 3), np.uint8), labels, names).shape[2] == 3
