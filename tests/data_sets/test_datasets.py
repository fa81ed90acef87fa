"""Lists in all their forms, VOC's layout, the augmented set, and the look through a data set."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from deeplab_repro.data import Sample, read_label, read_list, voc
from deeplab_repro.data.check import check
from deeplab_repro.data.parallel import cores, over
from deeplab_repro.data.prepare import COUNTS, plan_voc, prepare_voc
from deeplab_repro.errors import InputError
from deeplab_repro.pictures.palette import Classes, write_label_png
from tests.testing.voc_set import make_sbd, make_voc


@pytest.fixture
def root(tmp_path):
    """VOC and SBD, made anew."""
    folder = make_voc(tmp_path, pictures=9, size=(40, 50))
    make_sbd(tmp_path, folder, pictures=3, shared=2)
    return folder


def test_lists_in_their_forms(root, tmp_path):
    file = tmp_path / "train_id.txt"
    file.write_text(
        "/JPEGImages/2007_000001.jpg /SegmentationClassAug/2007_000001.png\n"
        "other/b.png\tlabels/b.png\r\n"
        "\n"
        "/JPEGImages/test.jpg\n"
        "2007_000004\n"
        "nowhere"
    )
    dataset = read_list(file, root, Classes.default(3))
    assert dataset.name == "train"
    assert len(dataset.classes.names) == 3
    assert list(dataset) == [
        Sample(
            "2007_000001",
            root / "JPEGImages/2007_000001.jpg",
            root / "SegmentationClassAug/2007_000001.png",
        ),
        Sample("b", root / "other/b.png", root / "labels/b.png"),
        Sample("test", root / "JPEGImages/test.jpg", None),
        Sample(
            "2007_000004",
            root / "JPEGImages/2007_000004.jpg",
            root / "SegmentationClass/2007_000004.png",
        ),
        Sample("nowhere", root / "JPEGImages/nowhere.jpg", None),
    ]
    part = dataset[1:3]
    assert [sample.name for sample in part] == ["b", "test"]
    assert part.name == "train"
    for text, says in (
        ("a b c", "line 1 is no picture and its"),
        ("\n", "names no pictures"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=says):
            read_list(file, root)


def test_voc_is_found_from_above(root, tmp_path):
    for place in (root, root.parent, tmp_path):
        val = voc(place)
        assert (val.name, len(val)) == ("val", 6)
        assert val[0].label == root / "SegmentationClass/2007_000002.png"
    with pytest.raises(InputError, match="no list 'valid'; expected one of train, trainval, val"):
        voc(root, "valid")
    with pytest.raises(InputError, match="data prepare-voc` makes it"):
        voc(root, "train_aug")
    with pytest.raises(InputError, match="is no PASCAL VOC"):
        voc(root / "JPEGImages")


def test_augmented_set(root, tmp_path):
    plan = plan_voc(tmp_path, tmp_path)
    assert {split: len(names) for split, names in plan.splits.items()} == {
        "train": 3,
        "val": 6,
        "trainval": 9,
        "train_aug": 6,  # one shared picture of SBD is in val, and left out
        "trainval_aug": 12,
    }
    assert len(plan.problems) == len(COUNTS)
    assert plan.problems[3] == "train_aug has 6 pictures, the released list has 10,582"
    out = tmp_path / "out"
    assert prepare_voc(plan, out, workers=2) == {"made": 12, "kept": 0}
    assert voc(out, "train_aug")[0].picture.is_file()  # JPEGImages is a link
    lists = out / "ImageSets/SegmentationAug"
    assert (lists / "train_aug.txt").read_text().splitlines()[0] == (
        "/JPEGImages/2007_000001.jpg /SegmentationClassAug/2007_000001.png"
    )
    assert (lists / "train_aug_id.txt").read_text().split() == [
        *("2007_000001", "2007_000004", "2007_000007"),
        *("2008_000001", "2008_000002", "2008_000003"),
    ]
    assert len(list(lists.iterdir())) == 10
    # VOC's labels win over SBD's, which are all of class 7, and keep their void.
    shared = read_label(out / "SegmentationClassAug/2007_000001.png")
    np.testing.assert_array_equal(shared, read_label(root / "SegmentationClass/2007_000001.png"))
    assert 255 in shared
    new = out / "SegmentationClassAug/2008_000001.png"
    assert 255 not in read_label(new)
    assert Image.open(new).mode == "P"
    # A second run makes what is not there, and other PNGs only where they are asked for.
    new.unlink()
    shared_file = out / "SegmentationClassAug/2007_000001.png"
    stamp = os.stat(shared_file).st_mtime_ns
    assert prepare_voc(plan, out) == {"made": 1, "kept": 11}
    assert os.stat(shared_file).st_mtime_ns == stamp
    assert prepare_voc(plan, out, palette=False) == {"made": 12, "kept": 0}
    assert Image.open(new).mode == "L"
    np.testing.assert_array_equal(  # what Caffe's data layer reads
        cv2.imread(str(shared_file), cv2.IMREAD_GRAYSCALE), shared
    )


def test_a_link_to_a_label_of_vocs_is_replaced_and_not_followed(root, tmp_path):
    own = root / "SegmentationClass/2007_000001.png"
    before = own.read_bytes()
    made = tmp_path / "out/SegmentationClassAug/2007_000001.png"
    made.parent.mkdir(parents=True)
    made.symlink_to(own)
    prepare_voc(plan_voc(tmp_path, tmp_path), tmp_path / "out", palette=False)
    assert own.read_bytes() == before
    assert Image.open(made).mode == "L"


def test_plan_names_what_is_missing(root, tmp_path):
    (root / "SegmentationClass/2007_000002.png").unlink()
    (root / "JPEGImages/2008_000003.jpg").unlink()
    (tmp_path / "benchmark_RELEASE/dataset/cls/2008_000001.mat").unlink()
    plan = plan_voc(root, tmp_path / "benchmark_RELEASE")
    assert plan.problems[:3] == [
        "1 labels of VOC's lists in SegmentationClass are missing: 2007_000002",
        "1 labels of SBD's lists in cls are missing: 2008_000001",
        "1 pictures in JPEGImages are missing: 2008_000003",
    ]
    assert sum(prepare_voc(plan).values()) == 9
    assert "2008_000003" not in {sample.name for sample in voc(root, "trainval_aug")}
    with pytest.raises(InputError, match="is no Semantic Boundaries Dataset"):
        plan_voc(root, root)


def test_a_bad_label_stops_the_making_and_leaves_nothing_half_written(root, tmp_path):
    (root / "SegmentationClass/2007_000003.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"2007_000003.png: is no label picture, or damaged"):
        prepare_voc(plan_voc(root, tmp_path), workers=1)
    made = list((root / "SegmentationClassAug").iterdir())
    assert made
    for file in made:
        read_label(file)
    assert not list((root / "ImageSets/SegmentationAug").iterdir())


def test_check(root):
    found = check(voc(root, "trainval"))
    assert found.problems == ()
    assert found.labelled == 9
    assert found.without_void == 0
    assert (found.smallest[0] * found.smallest[1]) < (found.largest[0] * found.largest[1])
    labels = [read_label(sample.label) for sample in voc(root, "trainval") if sample.label]
    everything = np.concatenate([label.ravel() for label in labels])
    np.testing.assert_array_equal(found.pixels, [(everything == i).sum() for i in range(21)])
    np.testing.assert_array_equal(found.pictures, [sum(i in x for x in labels) for i in range(21)])
    assert found.void == (everything == 255).sum()


def test_check_reports_everything_that_is_wrong(root):
    names = [sample.name for sample in voc(root, "trainval")]
    labels, pictures = root / "SegmentationClass", root / "JPEGImages"
    write_label_png(labels / f"{names[0]}.png", np.zeros((5, 4), np.uint8))
    write_label_png(labels / f"{names[1]}.png", read_label(labels / f"{names[1]}.png").T)
    label = read_label(labels / f"{names[2]}.png")
    label[0, 0] = 77
    write_label_png(labels / f"{names[2]}.png", label)
    (pictures / f"{names[3]}.jpg").write_bytes(b"no picture")
    (pictures / f"{names[4]}.jpg").unlink()
    file = root / "list.txt"
    lines = [f"JPEGImages/{name}.jpg SegmentationClass/{name}.png" for name in names]
    file.write_text("\n".join([*lines[:6], lines[5], f"JPEGImages/{names[6]}.jpg no_label.png"]))
    for workers in (1, 3):
        texts = [problem.text for problem in check(read_list(file, root), workers=workers).problems]
        assert len(texts) == 7
        assert texts[0] == f"{names[5]}: listed more than once"
        assert texts[1].startswith(
            f"{labels / names[0]}.png: is not as large as its picture; expected"
        )
        assert texts[1].endswith(", got 5x4")
        assert "rows and columns are swapped" in texts[2]
        assert texts[3].endswith("expected 0 to 20 and 255 for void, got 77")
        assert texts[4].startswith(f"{pictures / names[3]}.jpg: is no picture")
        assert texts[5] == f"{pictures / names[4]}.jpg: No such file or directory"
        assert texts[6] == f"{root / 'no_label.png'}: No such file or directory"


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores() == 8
    for processes, share in (("3", 2), ("20", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert cores() == share


def test_work_keeps_its_order_and_its_first_error():
    steps = []
    assert over(str, range(20), 3, advance=lambda: steps.append(1)) == list(map(str, range(20)))
    assert len(steps) == 20
    assert over(abs, []) == []
    for workers in (1, 4):
        with pytest.raises(ZeroDivisionError):
            over(lambda x: 1 // x, [1, 2, 0, 3], workers)
