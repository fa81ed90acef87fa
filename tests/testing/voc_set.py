"""A small data set in the shape of PASCAL VOC 2012 and SBD, made anew for a test."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray

from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.pictures.voc import IGNORE_LABEL, voc_palette

__all__ = ["draw_label", "make_sbd", "make_voc"]


def make_voc(
    root: Path, pictures: int = 30, size: tuple[int, int] = (72, 96), seed: int = 0
) -> Path:
    """Make ``root/VOCdevkit/VOC2012`` with pictures, palette labels and lists.

    A label has a few rectangles and ellipses of random classes, void borders three pixels wide
    around each, and together all 21 classes if there are enough pictures.  A picture shows each
    class in a colour of its own with noise over it.  Sizes differ a little from picture to picture,
    and every third is upright.  The same arguments make the same files.

    Args:
        root: where to make it.
        pictures: how many; two thirds are in ``val``, the others in ``train``.
        size: (height, width) of the largest.
        seed: of the random numbers.

    Returns:
        The folder VOC2012: JPEGImages, SegmentationClass, and train, val and trainval in
        ImageSets/Segmentation.
    """
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(seed)
    names = [f"2007_{number:06d}" for number in range(1, pictures + 1)]
    for number, name in enumerate(names):
        label = draw_label(random, _size(size, number), first_class=1 + number % 20)
        write_label_png(folder / "SegmentationClass" / f"{name}.png", label)
        _write_picture(folder / "JPEGImages" / f"{name}.jpg", label, random)
    splits = {"train": names[::3], "val": [n for i, n in enumerate(names) if i % 3]}
    for split, ids in {**splits, "trainval": names}.items():
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")
    return folder


def make_sbd(root: Path, voc: Path, pictures: int = 6, shared: int = 4, seed: int = 1) -> Path:
    """Make ``root/benchmark_RELEASE/dataset`` with ``cls/*.mat`` as SBD has them.

    Args:
        root: where to make it.
        voc: a folder of :func:`make_voc`; pictures that are in SBD alone are added to its
            JPEGImages, where VOC 2012 has them too.
        pictures: how many are in SBD alone.
        shared: how many of VOC's own are in SBD as well, with other labels than VOC's.
        seed: of the random numbers.

    Returns:
        The folder ``dataset``: cls, and train.txt and val.txt.
    """
    folder = root / "benchmark_RELEASE" / "dataset"
    (folder / "cls").mkdir(parents=True)
    random = np.random.default_rng(seed)
    of_voc = (voc / "ImageSets/Segmentation/trainval.txt").read_text().split()[:shared]
    own = [f"2008_{number:06d}" for number in range(1, pictures + 1)]
    for number, name in enumerate([*of_voc, *own]):
        if name in own:
            label = draw_label(random, _size((72, 96), number), 1 + number % 20, border=0)
            _write_picture(voc / "JPEGImages" / f"{name}.jpg", label, random)
        else:
            height, width = cv2.imread(str(voc / "JPEGImages" / f"{name}.jpg")).shape[:2]
            label = np.full((height, width), 7, np.uint8)
        content = {"Segmentation": label, "CategoriesPresent": np.unique(label[label > 0])}
        scipy.io.savemat(folder / "cls" / f"{name}.mat", {"GTcls": content})
    half = len(own) // 2
    (folder / "train.txt").write_text("\n".join([*of_voc, *own[:half]]) + "\n")
    (folder / "val.txt").write_text("\n".join(own[half:]) + "\n")
    return folder


def draw_label(
    random: np.random.Generator, size: tuple[int, int], first_class: int, border: int = 3
) -> NDArray[np.uint8]:
    """A label map: a few objects on background, each with a void border.

    Args:
        random: decides what is where.
        size: (height, width).
        first_class: class of the first object; the others are random.
        border: width of the void line, 0 for none.

    Returns:
        (height, width) uint8.
    """
    height, width = size
    label = np.zeros(size, np.uint8)
    for number in range(int(random.integers(2, 5))):
        kind = first_class if number == 0 else int(random.integers(1, 21))
        centre = int(random.integers(0, width)), int(random.integers(0, height))
        half = (
            int(random.integers(width // 10 + 1, width // 3 + 2)),
            int(random.integers(height // 10 + 1, height // 3 + 2)),
        )
        for colour, thickness in ((kind, cv2.FILLED), (IGNORE_LABEL, border)):
            if thickness == 0:
                continue
            if number % 2:
                corners = [
                    tuple(c + s * h for c, h in zip(centre, half, strict=True)) for s in (-1, 1)
                ]
                cv2.rectangle(label, *corners, colour, thickness)
            else:
                cv2.ellipse(label, centre, half, 0, 0, 360, colour, thickness)
    return label


def _size(largest: tuple[int, int], number: int) -> tuple[int, int]:
    height, width = largest[0] - number % 5, largest[1] - number % 7
    return (width, height) if number % 3 == 2 else (height, width)


def _write_picture(path: Path, label: NDArray[np.uint8], random: np.random.Generator) -> None:
    noise = random.normal(0, 12, (*label.shape, 3))
    pixels = voc_palette()[label][:, :, ::-1] * 0.7 + 40 + noise
    cv2.imwrite(str(path), pixels.clip(0, 255).astype(np.uint8))
