"""Drawn sets: the same bytes for the same seed, VOC's layout, exact labels, thin parts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from deeplab_repro.data import read_label, read_list, voc
from deeplab_repro.data.check import check
from deeplab_repro.data.synthetic import CLASSES, draw, synthesize
from deeplab_repro.errors import InputError
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.voc import IGNORE_LABEL, VOC_CLASSES


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_set_is_laid_out_as_voc_is(tmp_path):
    root = tmp_path / "new" / "set"
    done = []
    lists = synthesize(root, 10, workers=1, advance=lambda: done.append(1))
    assert lists == {"train": 9, "val": 1, "trainval": 10}
    assert len(done) == 10
    assert [file.name for file in root.parent.iterdir()] == ["set"]
    train, val, both = (voc(root, split) for split in lists)
    assert {*train.samples} | {*val.samples} == {*both.samples}
    assert not {*train.samples} & {*val.samples}
    in_caffes_form = read_list(root / "ImageSets/SegmentationAug/train.txt", root)
    assert in_caffes_form.samples == train.samples
    found = check(both)
    assert not found.problems
    assert found.labelled == 10
    assert found.without_void == 0


@pytest.mark.slow
def test_a_picture_follows_from_seed_and_number(tmp_path):
    synthesize(tmp_path / "a", 10, workers=1)
    synthesize(tmp_path / "b", 11, workers=1)
    synthesize(tmp_path / "c", 10, seed=1, workers=1)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    pictures = {name for name in a if not name.startswith("ImageSets")}
    assert len(pictures) == 20
    assert all(a[name] == b[name] for name in pictures)
    assert not any(a[name] == c[name] for name in pictures if name.endswith("jpg"))


@pytest.mark.slow
def test_several_processes_write_what_one_writes(tmp_path):
    synthesize(tmp_path / "one", 40, seed=3, workers=1)
    synthesize(tmp_path / "three", 40, seed=3, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_pictures_and_labels():
    seen, horses, thin = set(), 0, 0
    for number in range(24):
        picture, labels = draw(np.random.default_rng([2, number]))
        assert picture.shape == (*labels.shape, 3)
        assert picture.dtype == labels.dtype == np.uint8
        seen |= {*np.unique(labels).tolist()}
        # Two classes never touch: there is void between them.
        for axis in (0, 1):
            pairs = np.stack([labels, np.roll(labels, 1, axis)]).take(
                range(1, labels.shape[axis]), axis + 1
            )
            differ = pairs[0] != pairs[1]
            assert (pairs[:, differ] == IGNORE_LABEL).any(0).all()
        horse = (labels == VOC_CLASSES.index("horse")).astype(np.uint8)
        horses += int(horse.sum())
        thin += int((horse - cv2.morphologyEx(horse, cv2.MORPH_OPEN, np.ones((9, 9)))).sum())
    assert seen == {0, IGNORE_LABEL, *map(VOC_CLASSES.index, CLASSES)}
    # Legs and tails are narrower than the 8 pixels between the scores of a network.
    assert 0.1 < thin / horses < 0.5


def test_colours_change_at_the_borders():
    """Else a CRF could not find them."""
    inside, across = [], []
    for number in range(8):
        picture, labels = draw(np.random.default_rng([8, number]))
        values = picture.astype(np.float64)
        step = np.abs(values[:, 2:] - values[:, :-2]).sum(2)
        left, right = labels[:, :-2], labels[:, 2:]
        known = (left != IGNORE_LABEL) & (right != IGNORE_LABEL)
        across.append(step[known & (left != right)])
        inside.append(step[known & (left == right)])
    assert np.median(np.concatenate(across)) > 8 * np.median(np.concatenate(inside))


def test_jpegs_show_what_was_drawn(tmp_path):
    synthesize(tmp_path / "set", 10, seed=5, workers=1)
    picture, labels = draw(np.random.default_rng([5, 3]))
    sample = voc(tmp_path / "set", "train")[2]
    assert np.array_equal(read_label(sample.label), labels)
    stored = read_picture(sample.picture)[:, :, ::-1].astype(int)
    assert np.abs(stored - picture).mean() < 3


def test_nothing_is_written_over_and_nothing_is_left_half(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(InputError, match="there already"):
        synthesize(tmp_path / "there", 10)
    for wrong in ({"pictures": 9}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            synthesize(tmp_path / "new", **{"pictures": 10, **wrong})

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "new", 10, workers=1, advance=stop)
    assert [file.name for file in tmp_path.iterdir()] == ["there"]
