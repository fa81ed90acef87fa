"""What is done to a picture and its labels: in Caffe's order, with OpenCV's interpolation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeplab_repro.errors import InputError
from deeplab_repro.train.feeds.draws import Draws, Purpose
from deeplab_repro.train.feeds.transform import Transformer
from prototxt_import import Phase
from prototxt_import.layers import Transformation
from tests.testing.chance import evenness

LABELS = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)


def transformer(phase: Phase = "TEST", channels: int = 1, **settings: Any) -> Transformer:
    return Transformer(Transformation(**settings), phase, channels)


def generator(number: int = 0) -> np.random.Generator:
    return Draws(3).generator(Purpose.PICTURE, number)


def both(
    worker: Transformer, pixels: np.ndarray, labels: np.ndarray = LABELS, number: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    data, target = worker.picture_and_labels(pixels, labels, 255, generator(number))
    return data[0], target[0]


def test_a_picture_of_3x3_through_every_step() -> None:
    """Worked by hand: scaled to 4x4, padded to 5x5, mirrored, minus 1, times 2."""
    pixels = np.array([[0, 48, 96], [48, 96, 144], [96, 144, 192]], np.uint8)
    worker = transformer(scale_factors=(1.4,), crop_size=5, mirror=True, mean_value=(1,), scale=2)
    number = next(n for n in range(8) if generator(n).integers(2))  # the first that is mirrored
    data, labels = both(worker, pixels, number=number)
    # 3 * 1.4 is cut to 4. Nearest: places 0, 3/4, 6/4, 9/4 of the row, cut. Linear: the centres
    # lie at -1/8, 5/8, 11/8, 17/8, which is left of the first and right of the last pixel.
    assert labels.tolist() == [
        [255, 3, 2, 1, 1],
        [255, 3, 2, 1, 1],
        [255, 6, 5, 4, 4],
        [255, 9, 8, 7, 7],
        [255, 255, 255, 255, 255],
    ]
    assert data.tolist() == [
        [0, 190, 130, 58, -2],
        [0, 250, 190, 118, 58],
        [0, 322, 262, 190, 130],
        [0, 382, 322, 250, 190],
        [0, 0, 0, 0, 0],
    ]
    unmirrored = transformer(scale_factors=(1.4,), crop_size=5, mean_value=(1,), scale=2)
    assert (both(unmirrored, pixels)[0] == data[:, ::-1]).all()


@pytest.mark.parametrize(
    ("phase", "crop", "corner"), [("TEST", 2, (0, 0)), ("TEST", 1, (1, 1)), ("TRAIN", 3, (0, 0))]
)
def test_the_crop_is_central_in_tests(phase: Phase, crop: int, corner: tuple[int, int]) -> None:
    """(n - crop) / 2, a whole number: 0 of 1 and 1 of 2."""
    data, labels = both(transformer(phase, crop_size=crop), LABELS * 10)
    top, left = corner
    assert (labels == LABELS[top : top + crop, left : left + crop]).all()
    assert (data == labels * 10).all()


def test_mean_and_scale_are_float32_as_caffe_computes_them() -> None:
    pixels = np.full((2, 2, 3), (7, 200, 255), np.uint8)
    mean = (104.008, 116.669, 122.675)
    worker = transformer(channels=3, mean_value=mean, scale=0.017, crop_height=3, crop_width=2)
    data, labels = worker.picture_and_labels(pixels, LABELS[:2, :2], 7, generator())
    f = np.float32
    for channel, value in enumerate((7, 200, 255)):
        assert (data[channel, :2] == (f(value) - f(mean[channel])) * f(0.017)).all()
    assert data.shape == (3, 3, 2)
    assert not data[:, 2].any()
    assert (labels[0, 2] == 7).all()
    one = transformer(channels=3, mean_value=(5,)).picture(pixels, generator())
    assert (one == pixels.transpose(2, 0, 1) - f(5)).all()
    with pytest.raises(InputError, match="mean values than channels; expected 1 or 3, got 2"):
        transformer(channels=3, mean_value=(1, 2))


def test_a_mean_picture_is_cropped_with_the_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mean, pixels = rng.random((3, 5, 6), np.float32), rng.integers(0, 255, (5, 6, 3), np.uint8)
    np.save(tmp_path / "mean.npy", mean)
    worker = transformer("TRAIN", 3, mean_file=str(tmp_path / "mean.npy"), crop_size=4)
    whole = pixels.transpose(2, 0, 1) - mean
    seen = set()
    for number in range(30):
        data = worker.picture(pixels, generator(number))
        windows = {(y, x): whole[:, y : y + 4, x : x + 4] for y in range(2) for x in range(3)}
        seen |= {place for place, window in windows.items() if (window == data).all()}
    assert len(seen) == 6
    with pytest.raises(InputError, match="not of the size of the mean picture .*3x5x6, got 3x6x6"):
        worker.picture(np.zeros((6, 6, 3), np.uint8), generator())
    with pytest.raises(InputError, match="smaller than the crop; expected at least 4x4, got 3x9"):
        worker.picture(np.zeros((3, 9, 3), np.uint8), generator())


def opencv_linear(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """OpenCV's INTER_LINEAR on bytes, from its definition: weights of 11 bits, sums cut twice."""

    def taps(old: int, new: int) -> tuple[np.ndarray, ...]:
        place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        first = np.floor(place).astype(int)
        part = (place - first).astype(np.float32)
        weights = [np.rint(w * 2048).astype(int) for w in (1 - part, part)]
        return (*(np.clip(first + i, 0, old - 1) for i in (0, 1)), *weights)

    top, bottom, up, down = taps(picture.shape[0], size[0])
    left, right, near, far = taps(picture.shape[1], size[1])
    rows = picture.astype(int)
    rows = rows[:, left] * near[:, None] + rows[:, right] * far[:, None]
    sums = [(w[:, None, None] * (rows[y] >> 4)) >> 16 for w, y in ((up, top), (down, bottom))]
    return (sums[0] + sums[1] + 2) >> 2


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 1.5])
def test_scaling_is_that_of_opencv_to_the_bit(factor: float) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (37, 50, 3), np.uint8)
    labels = rng.integers(0, 21, (37, 50), np.uint8)
    worker = transformer(channels=3, scale_factors=(factor,))
    data, target = worker.picture_and_labels(pixels, labels, 255, generator())
    height, width = int(37 * factor), int(50 * factor)
    assert (data.transpose(1, 2, 0) == opencv_linear(pixels, (height, width))).all()
    rows = np.floor(np.arange(height) * (37 / height)).astype(int)
    columns = np.floor(np.arange(width) * (50 / width)).astype(int)
    assert (target[0] == labels[rows][:, columns]).all()


def test_sizes_are_products_of_float32_cut_to_whole_numbers() -> None:
    """10 * 0.7 is 7 in float32, and less than 7 with 0.7 rounded to float32 first."""
    as_read = float(np.float32(0.7))
    assert int(10 * as_read) == 6
    data, _ = both(transformer(scale_factors=(as_read,)), np.zeros((10, 20), np.uint8),
                   np.zeros((10, 20), np.uint8))  # fmt: skip
    assert data.shape == (7, 14)
    with pytest.raises(InputError, match="no pixel left when it is scaled by 0.3; got 3x3"):
        both(transformer(scale_factors=(0.3,)), LABELS)


def test_scale_crop_and_mirror_are_drawn_evenly_and_independently() -> None:
    """Each of the 5 factors, of the places of the crop, and of the two sides."""
    factors, crop = (0.5, 0.75, 1.0, 1.25, 1.5), 8
    labels = np.arange(144, dtype=np.uint8).reshape(12, 12)
    pixels = np.zeros((12, 12, 3), np.uint8)
    worker = transformer("TRAIN", 3, scale_factors=factors, crop_size=crop, mirror=True)
    scales: Counter[float] = Counter()
    places: dict[float, Counter[tuple[bool, int, int]]] = {f: Counter() for f in factors}
    sides: Counter[bool] = Counter()
    choices = dict(crops(labels, factors, crop))
    for number in range(4000):
        factor, place = choices[both(worker, pixels, labels, number)[1].tobytes()]
        scales[factor] += 1
        places[factor][place] += 1
        sides[place[0]] += 1
    assert evenness([scales[f] for f in factors]) > 0.01
    assert evenness([sides[False], sides[True]]) > 0.01
    for factor in factors:
        room = max(0, int(12 * factor) - crop) + 1
        counts = [places[factor][m, y, x]
                  for m in (False, True) for y in range(room) for x in range(room)]  # fmt: skip
        assert sum(counts) == scales[factor]
        assert evenness(counts) > 0.01, factor


def crops(
    labels: np.ndarray, factors: tuple[float, ...], crop: int
) -> Iterator[tuple[bytes, tuple[float, tuple[bool, int, int]]]]:
    """Each crop that the choices of factor, side and place lead to, and the choices."""
    for factor in factors:
        size = int(12 * factor)
        steps = np.floor(np.arange(size) * (12 / size)).astype(int)
        scaled = np.full((max(size, crop),) * 2, 255, np.float32)
        scaled[:size, :size] = labels[steps][:, steps]
        for y in range(len(scaled) - crop + 1):
            for x in range(len(scaled) - crop + 1):
                window = scaled[y : y + crop, x : x + crop]
                yield window.tobytes(), (factor, (False, y, x))
                yield window[:, ::-1].tobytes(), (factor, (True, y, x))
