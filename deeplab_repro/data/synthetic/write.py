"""The drawn pictures as files."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image

from deeplab_repro.data.datasets import LIST_FOLDERS, write_lists
from deeplab_repro.data.parallel import cores
from deeplab_repro.data.synthetic.scenes import draw
from deeplab_repro.errors import InputError
from deeplab_repro.pictures.palette import write_label_png

__all__ = ["synthesize"]

_FEWEST: Final = 10
_QUALITY: Final = 92  # of the JPEGs, whose colours are kept at full resolution
_AT_A_TIME: Final = 16  # pictures that a process is handed


def synthesize(
    root: str | os.PathLike[str],
    pictures: int = 3000,
    *,
    seed: int = 0,
    workers: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Draw a set and write it as VOC 2012 is laid out.

    A picture follows from the seed and its number alone: a larger set begins with the smaller one,
    and any number of processes writes the same bytes.  Every tenth picture is held back as ``val``.

    Args:
        root: the folder to make, with JPEGImages, SegmentationClass (palette PNGs, 255 is void),
            the lists train, val and trainval of ids in ImageSets/Segmentation, and in Caffe's form
            in ImageSets/SegmentationAug.  It appears when all is written.
        pictures: how many, at least 10.
        seed: of the random numbers, 0 or more.
        workers: processes that draw; all cores by default.
        advance: called after each picture.

    Returns:
        list -> how many pictures it names.

    Raises:
        InputError: too few pictures, a negative seed, or a root that is there and not empty.
        OSError: a file cannot be written.
    """
    if pictures < _FEWEST:
        raise InputError("pictures", expected=f"{_FEWEST} or more", got=pictures)
    if seed < 0:
        raise InputError("seed", expected="0 or more", got=seed)
    names = [_name(number) for number in range(1, pictures + 1)]
    held_back = set(names[_FEWEST - 1 :: _FEWEST])
    splits = {
        "train": [name for name in names if name not in held_back],
        "val": [name for name in names if name in held_back],
        "trainval": names,
    }
    with _new_folder(Path(root)) as folder:
        for place in ("JPEGImages", "SegmentationClass", *LIST_FOLDERS):
            (folder / place).mkdir(parents=True)
        numbers = range(1, pictures + 1)
        work = partial(_write, folder, seed)
        workers = min(workers or cores(), -(-pictures // _AT_A_TIME))
        if workers == 1:
            for number in numbers:
                work(number)
                advance()
        else:
            # Drawing is Python's work, which threads would do one after the other.
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (0,))
            try:
                for _ in pool.map(work, numbers, chunksize=_AT_A_TIME):
                    advance()
            finally:
                pool.shutdown(cancel_futures=True)
        for split, ids in splits.items():
            text = "".join(f"{name}\n" for name in ids)
            (folder / LIST_FOLDERS[0] / f"{split}.txt").write_text(text, encoding="utf-8")
            write_lists(folder / LIST_FOLDERS[1], split, ids, "SegmentationClass")
    return {split: len(ids) for split, ids in splits.items()}


def _name(number: int) -> str:
    return f"drawn_{number:06d}"


def _write(folder: Path, seed: int, number: int) -> None:
    """Draw one picture and write its two files."""
    picture, labels = draw(np.random.default_rng([seed, number]))
    Image.fromarray(picture).save(
        folder / "JPEGImages" / f"{_name(number)}.jpg", quality=_QUALITY, subsampling=0
    )
    write_label_png(folder / "SegmentationClass" / f"{_name(number)}.png", labels)


@contextmanager
def _new_folder(root: Path) -> Iterator[Path]:
    """A folder beside `root` that takes its place at the end, or vanishes after an error."""
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise InputError("is there already", file=root, expected="a new or an empty folder")
    parent = root.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp's folder is for its owner alone; the one inside has the usual permissions.
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=parent))
    try:
        folder = temporary / "set"
        folder.mkdir()
        yield folder
        os.replace(folder, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
