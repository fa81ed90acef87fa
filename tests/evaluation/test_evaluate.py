"""Files in, scores out: the same for any number of workers, and nothing counted that should not."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import scipy.io
from PIL import Image

from deeplab_repro.data import Dataset, Sample, read_label, voc
from deeplab_repro.errors import InputError
from deeplab_repro.evaluation import evaluate, warn_if_seen, was_seen
from deeplab_repro.evaluation.evaluate import pair_up
from deeplab_repro.evaluation.html import evaluation_page
from deeplab_repro.pictures.palette import write_label_png
from tests.data_sets.test_labels import write_bin
from tests.testing.html_tags import Tags
from tests.testing.voc_set import make_voc


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    """A val set, and a folder `predictions` beside it whose files are of every kind."""
    root = make_voc(tmp_path_factory.mktemp("set"), pictures=15, size=(40, 50))
    folder = root / "predictions"
    folder.mkdir()
    random = np.random.default_rng(8)
    dataset = voc(root)
    for number, sample in enumerate(dataset):
        guess = guess_at(read_label(sample.label), random)
        if number == 0:
            write_bin(folder / f"{sample.name}.bin", guess, "<i2")
        elif number == 1:
            padded = np.zeros((60, 60), np.float32)
            padded[: guess.shape[0], : guess.shape[1]] = guess
            blob = padded.T.reshape(60, 60, 1, 1)
            scipy.io.savemat(folder / f"{sample.name}_blob_0.mat", {"data": blob})
        elif number == 2:
            scores = np.eye(21, dtype=np.float32)[guess].transpose(2, 0, 1)
            np.save(folder / f"{sample.name}.npy", scores)
        elif number == 3:
            scores = np.eye(21, dtype=np.float32)[guess]
            write_bin(folder / f"{sample.name}.bin", scores, "<f4")
        else:
            write_label_png(folder / f"{sample.name}.png", guess)
    return dataset, folder


def guess_at(label, random):
    """A prediction that is right in places."""
    guess = np.roll(np.where(label == 255, 0, label), 2, axis=1)
    noise = random.random(label.shape) < 0.1
    guess[noise] = random.integers(0, 21, int(noise.sum()))
    return guess


def guesses(dataset):
    random = np.random.default_rng(8)
    return [guess_at(read_label(sample.label), random) for sample in dataset]


def test_scores_of_files_of_every_kind(val):
    from sklearn import metrics  # takes seconds, which no other test should wait for

    dataset, folder = val
    found = evaluate(pair_up(dataset, folder), crop=True)
    labels = [read_label(sample.label) for sample in dataset]
    truth = np.concatenate([label[label != 255] for label in labels])
    every = zip(guesses(dataset), labels, strict=True)
    guess = np.concatenate([guess[label != 255] for guess, label in every])
    np.testing.assert_array_equal(
        found.confusion.matrix, metrics.confusion_matrix(truth, guess, labels=range(21))
    )
    present = np.union1d(truth, guess)
    macro = metrics.jaccard_score(truth, guess, labels=present, average="macro")
    assert found.confusion.mean_iou == pytest.approx(macro)
    assert [score.name for score in found.pictures] == [sample.name for sample in dataset]
    own = []
    for label, prediction, score in zip(labels, guesses(dataset), found.pictures, strict=True):
        counted = label != 255
        t, g = label[counted], prediction[counted]
        own.append(metrics.jaccard_score(t, g, labels=np.unique(t), average="macro"))
        assert (score.size, score.pixels, score.correct) == (label.shape, t.size, (t == g).sum())
        assert score.mean_iou == pytest.approx(own[-1])
    assert found.mean_of_picture_iou == pytest.approx(np.mean(own))
    assert abs(found.mean_of_picture_iou - found.confusion.mean_iou) > 0.02  # another number
    assert [score.mean_iou for score in found.worst] == sorted(s.mean_iou for s in found.pictures)
    for workers in (1, 5):
        again = evaluate(pair_up(dataset, folder), crop=True, workers=workers)
        np.testing.assert_array_equal(again.confusion.matrix, found.confusion.matrix)
        np.testing.assert_array_equal(again.trimap.rings, found.trimap.rings)
        assert again.pictures == found.pictures
    assert evaluate(pair_up(dataset, folder), crop=True, trimap=False).trimap is None


def test_predictions_of_another_size_are_refused(val, tmp_path):
    """The trap of scoring at the size of a crop."""
    dataset, folder = val
    padded = pair_up(dataset, folder)[1].prediction
    with pytest.raises(InputError) as caught:
        evaluate(pair_up(dataset, folder))
    rows, columns = read_label(dataset[1].label).shape
    assert str(caught.value) == (
        f"{padded}: is not as large as its label, as if it were scored at the size of a crop or of"
        f" padding; expected {rows}x{columns} (--crop cuts from the top left), got 60x60"
    )
    for sample in dataset[4:]:
        write_label_png(tmp_path / f"{sample.name}.png", np.zeros((30, 30), np.uint8))
    with pytest.raises(InputError) as caught:
        evaluate(pair_up(dataset[4:], tmp_path), crop=True)
    assert re.search(r"got 30x30 \(and 5 more such files\)$", str(caught.value))


def test_predictions_that_hold_no_ids_are_refused(val, tmp_path):
    dataset, _ = val
    sample = dataset[0]
    label = read_label(sample.label)
    write_label_png(tmp_path / f"{sample.name}.png", label)  # with its void
    with pytest.raises(InputError, match=r"000002.png: .* every pixel of a prediction has a class"):
        evaluate(pair_up(dataset[:1], tmp_path))
    Image.open(sample.label).convert("RGB").save(tmp_path / f"{sample.name}.png")
    with pytest.raises(InputError, match=r"000002.png: is colour-coded in VOC's colours"):
        evaluate(pair_up(dataset[:1], tmp_path))
    (tmp_path / f"{sample.name}.png").unlink()
    write_bin(tmp_path / f"{sample.name}.bin", label, "<i2")
    with pytest.raises(InputError, match=r"000002.bin: .* every pixel of a prediction has a class"):
        evaluate(pair_up(dataset[:1], tmp_path))
    (tmp_path / f"{sample.name}.bin").unlink()
    np.save(tmp_path / f"{sample.name}.npy", np.zeros((20, *label.shape), np.float32))
    with pytest.raises(InputError, match=r"another number of classes; expected 21, got 20"):
        evaluate(pair_up(dataset[:1], tmp_path))


def test_what_is_missing_is_counted_and_named(val, tmp_path):
    dataset, folder = val
    with pytest.raises(InputError) as caught:
        pair_up(dataset, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: 10 of 10 pictures have no predictions here: 2007_000002, 2007_000003,"
        " 2007_000005, 2007_000006, 2007_000008, ..."
    )
    with pytest.raises(InputError, match=r"10 of 10 pictures have no labels here: 2007_000002"):
        pair_up(dataset, folder, tmp_path)
    unlabelled = [Sample(dataset[0].name, dataset[0].picture)]
    with pytest.raises(InputError, match="the list: 1 of 1 pictures have no labels"):
        pair_up(unlabelled, folder)
    with pytest.raises(InputError, match="more than once, which would count twice; got 2007"):
        pair_up([*dataset, dataset[0]], folder)
    with pytest.raises(InputError, match="is no folder"):
        pair_up(dataset, folder / "none")


def test_page_is_whole_and_alone(val):
    dataset, folder = val
    pairs = pair_up(dataset, folder)
    found = evaluate(pairs, crop=True)
    text = evaluation_page(
        found, pairs, dataset.classes, title="<b>x</b>", crop=True, warning="they have seen & so"
    )
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "they have seen &amp; so" in text
    assert f"mean IoU {100 * found.confusion.mean_iou:.2f} %" in text
    assert f"{100 * found.mean_of_picture_iou:.2f} %, the mean over pictures" in text
    tags = Tags()
    tags.feed(text)
    assert (tags.open, tags.wrong) == ([], [])
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in tags.addresses)
    assert "url(" not in text
    assert text.count("<img") == 4 * len(dataset)
    assert text.index(found.worst[0].name) < text.index(found.worst[1].name)
    assert text.count("<title>width ") == 2 * 40
    for name in dataset.classes.names:
        assert name in text


def test_weights_that_saw_the_pictures():
    """Trap 1 of the published numbers: train2 weights on val."""
    with pytest.warns(UserWarning, match="trained on trainval_aug and have seen val: the score"):
        assert warn_if_seen("trainval_aug", "val")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_if_seen("train_aug", "val")
    seen = {
        (trained, scored)
        for trained in ("train", "val", "trainval", "train_aug", "trainval_aug", "coco")
        for scored in ("train", "val", "test")
        if was_seen(trained, scored)
    }
    assert seen == {
        *(("train", "train"), ("val", "val"), ("trainval", "train"), ("trainval", "val")),
        *(("train_aug", "train"), ("trainval_aug", "train"), ("trainval_aug", "val")),
    }
    assert was_seen("coco+trainval_aug", "val")


def test_weights_that_saw_the_pictures_of_a_list(val, tmp_path):
    dataset, _ = val
    assert was_seen("trainval_aug", dataset)
    assert not was_seen("train_aug", dataset)
    assert was_seen("trainval_aug", dataset[:3])
    own = Dataset("mine", dataset.samples)
    assert not was_seen("trainval_aug", own)
    file = tmp_path / "list.txt"
    file.write_text(f"JPEGImages/{dataset[2].name}.jpg label.png\nother\n")
    assert "1 of the 10 pictures (2007_000005)" in was_seen(str(file), own)
    assert was_seen(str(file), [dataset[2].name])
    assert not was_seen(str(file), dataset[:2])
