"""Feeds: which items come in which order, from lists and from arrays, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from deeplab_repro.caffe.layers.base import UnexpectedLabel
from deeplab_repro.caffe.net import load_caffe
from deeplab_repro.caffe.quirks import QuirkWarning
from deeplab_repro.errors import BadInput
from deeplab_repro.pictures.matlab import write_mat
from deeplab_repro.train.feeds import Feeds
from deeplab_repro.train.feeds.draws import Draws, Purpose
from prototxt_import import CaffeImportError, parse_net, read_net
from tests.testing.chance import evenness
from tests.train.feeding import feeds, seg_data, write_pair, write_pictures


def test_caffe_saw_these_batches(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last pass of iterations 0 and 1, two passes each, of a run of the v2 fork."""
    monkeypatch.chdir(data / "caffe" / "train_sgd_poly")
    net = read_net("train.prototxt", phase="TRAIN")
    fed = Feeds(net.data_layers, iter_size=2)
    batches = [fed.next() for _ in range(4)]
    with h5py.File("batches_sampled.h5") as file:
        for iteration in (0, 1):
            for name, ours in batches[2 * iteration + 1].items():
                recorded = file[f"iter{iteration}/{name}"]
                values = ours.numpy()
                assert values.shape == tuple(recorded.attrs["shape"])
                if "full" in recorded:
                    assert (values == recorded["full"][()]).all()
                    continue
                sampled = values.ravel()[recorded["index"][()]]
                assert np.abs(sampled - recorded["value"][()]).max() < 1e-6
                assert np.linalg.norm(values.astype(float)) == pytest.approx(recorded.attrs["l2"])
    assert [len(item) for item in fed.origins.values()] == [2]


# ---------------------------------------------------------------- pictures with label pictures


def test_a_list_in_order_again_and_again(tmp_path: Path) -> None:
    made = write_pictures(tmp_path, 3, palette=True)
    (tmp_path / "list.txt").write_text("0.png 0_l.png\r\n\n1.png\t1_l.png ignored\n2.png 2_l.png")
    fed = feeds(seg_data(tmp_path, transform="crop_size: 9 mean_value: 3"))
    for start in (0, 2, 4):
        batch = fed.next()
        for i in range(2):
            pixels, labels = made[(start + i) % 3]
            assert (batch["data"][i, :, :6, :8].numpy() == pixels.transpose(2, 0, 1) - 3.0).all()
            assert not batch["data"][i, :, 6:].any()
            assert (batch["label"][i, 0, :6, :8].numpy() == labels).all()
            assert (batch["label"][i, 0, :, 8:] == 255).all()
        assert batch["data_dim"].tolist() == [[[[6, 8]]]] * 2
    assert fed.origins == {"d": [f"1.png\t1_l.png ignored (line 3 of {tmp_path}/list.txt)",
                                 f"2.png 2_l.png (line 4 of {tmp_path}/list.txt)"]}  # fmt: skip


@pytest.mark.parametrize(
    ("label_type", "dialect", "wanted"),
    [("label_type: IMAGE", "dl2", 17), ("", "dl2", 17), ("label_type: NONE", "dl2", 254),
     ("has_label: false", "dl1", 254)],
)  # fmt: skip
def test_labels_of_whole_pictures(
    tmp_path: Path, label_type: str, dialect: str, wanted: int
) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "list.txt").write_text("0.png 17\n")
    text = seg_data(tmp_path, f"ignore_label: 254 batch_size: 1 {label_type}", "crop_size: 7")
    text = text.replace("label_type: PIXEL", "")
    if dialect == "dl1":
        text = text.replace("layer {", "layers {").replace('"ImageSegData"', "IMAGE_SEG_DATA")
    batch = feeds(text, dialect=dialect, phase="TEST").next()
    assert (batch["label"][0, 0, :6] == wanted).all()
    assert (batch["label"][0, 0, 6] == 254).all()
    assert batch["data_dim"].tolist() == [[[[6, 7]]]]


def test_grey_pictures_of_a_new_size(tmp_path: Path) -> None:
    labels = write_pictures(tmp_path, 2)[0][1]
    image = "new_height: 12 new_width: 4 is_color: false"
    with pytest.warns(QuirkWarning, match="resize label pictures bilinearly.*quirks=False"):
        batch = feeds(seg_data(tmp_path, image)).next()
    grey = cv2.imread(str(tmp_path / "0.png"), cv2.IMREAD_GRAYSCALE)  # the decoder makes it grey
    assert (batch["data"][0, 0].numpy() == cv2.resize(grey, (4, 12))).all()
    assert (batch["label"][0, 0].numpy() == cv2.resize(labels, (4, 12))).all()
    assert batch["data_dim"][0].flatten().tolist() == [12, 4]
    meant = feeds(seg_data(tmp_path, image), quirks=False).next()["label"]
    assert set(meant[0].flatten().tolist()) <= set(labels.flatten().tolist())
    assert not torch.equal(meant, batch["label"])


def test_shuffled_anew_each_time_with_every_order_alike(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3, (2, 2))
    fed = feeds(seg_data(tmp_path, "shuffle: true batch_size: 3", tops=1))
    orders: Counter[str] = Counter()
    for _ in range(240):
        fed.next()
        names = [origin[0] for origin in fed.origins["d"]]
        assert sorted(names) == ["0", "1", "2"]
        orders["".join(names)] += 1
    assert len(orders) == 6
    assert evenness(orders.values()) > 0.01


def test_rand_skip_leaves_out_the_first_time_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4, (2, 2))
    starts: Counter[str] = Counter()
    for seed in range(90):
        fed = feeds(seg_data(tmp_path, "rand_skip: 3 batch_size: 8", tops=1), seed=seed)
        fed.next()
        names = "".join(origin[0] for origin in fed.origins["d"])
        assert names in "012301230123"
        starts[names[0]] += 1
    assert set(starts) == {"0", "1", "2"}
    assert evenness(starts.values()) > 0.01
    unlucky = next(s for s in range(90) if Draws(s).generator(Purpose.SKIP).integers(50) > 3)
    with pytest.raises(BadInput, match="too few pictures for rand_skip"):
        feeds(seg_data(tmp_path, "rand_skip: 50"), seed=unlucky)


RANDOM = "crop_size: 5 mirror: true scale_factors: 0.75 scale_factors: 1 scale_factors: 1.5"


def test_the_same_batches_after_seek_and_from_parts(tmp_path: Path) -> None:
    """A function of seed and number: resumed, or shared by processes, it is the same."""
    write_pictures(tmp_path, 7)
    text = seg_data(tmp_path, "shuffle: true batch_size: 5", RANDOM)
    fed = feeds(text)
    batches = [fed.next() for _ in range(6)]
    assert not torch.equal(batches[0]["data"], feeds(text, seed=1).next()["data"])
    fed.seek(2)
    assert torch.equal(fed.next()["data"], batches[2]["data"])
    resumed = feeds(text)
    resumed.seek(4)
    assert torch.equal(resumed.next()["label"], batches[4]["label"])
    parts = [feeds(text, rank=rank, count=3) for rank in range(3)]
    assert [part.passes for part in parts] == [1, 1, 1]
    for batch in batches:
        shares = [part.next() for part in parts]
        for name, whole in batch.items():
            assert torch.equal(torch.cat([share[name] for share in shares]), whole)
    assert [len(share["data"]) for share in shares] == [1, 2, 2]


def test_one_picture_is_cropped_differently_each_time(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    batch = feeds(seg_data(tmp_path, "batch_size: 40", RANDOM)).next()
    assert len({item.numpy().tobytes() for item in batch["data"]}) > 20
    assert len({item.numpy().tobytes() for item in batch["label"]}) > 20


def test_passes_are_dealt_out_where_batches_are_too_small(tmp_path: Path) -> None:
    """ResNet's batch of 1 and iter_size of 10, here 6, for 3 processes: two passes each."""
    write_pictures(tmp_path, 4)
    text = seg_data(tmp_path, "shuffle: true batch_size: 1", RANDOM)
    alone = feeds(text, iter_size=6)
    wanted = [[alone.next()["data"] for _ in range(6)] for _ in range(3)]
    for start in (0, 1):
        parts = [feeds(text, rank=rank, count=3, iter_size=6) for rank in range(3)]
        assert [part.passes for part in parts] == [2, 2, 2]
        for part in parts:
            part.seek(6 * start)
        for iteration in wanted[start:]:
            got = [part.next()["data"] for _ in range(2) for part in parts]
            assert all(torch.equal(a, b) for a, b in zip(got, iteration, strict=True))
    with pytest.raises(BadInput, match="cannot be shared among the processes; expected batch_size"):
        feeds(text, rank=0, count=4, iter_size=6)
    with pytest.raises(BadInput, match="several processes need one seed"):
        feeds(text, rank=0, count=3, iter_size=6, seed=None)


def test_a_seed_is_drawn_and_told(tmp_path: Path) -> None:
    write_pictures(tmp_path, 7)
    text = seg_data(tmp_path, "shuffle: true", RANDOM)
    fed = feeds(text, seed=None)
    assert torch.equal(fed.next()["data"], feeds(text, seed=fed.seed).next()["data"])
    assert fed.seed != feeds(text, seed=None).seed


def test_two_layers_make_choices_of_their_own(tmp_path: Path) -> None:
    write_pictures(tmp_path, 9)
    one = seg_data(tmp_path, "shuffle: true batch_size: 9", tops=1)
    other = one.replace('"data"', '"more"').replace('name: "d"', 'name: "e"')
    batch = (fed := feeds(one + other)).next()
    assert list(batch) == ["data", "more"]
    assert sorted(fed.origins["d"]) == sorted(fed.origins["e"])
    assert fed.origins["d"] != fed.origins["e"]


@pytest.mark.parametrize(
    ("lines", "image", "wanted"),
    [
        ("0.png\n", "", "layer 'd': line 1 holds no label of label_type PIXEL; expected a picture "
                        "and its label picture, got 0.png"),
        ("0.png 0_l.png\n", "label_type: IMAGE", "label_type: PIXEL|a number from 0 to 255"),
        ("0.png 256\n", "label_type: IMAGE", "a number from 0 to 255, got 0.png 256"),
        ("0.png 0_l.png\nno.png 0_l.png\n", "",
         "no.png: layer 'd': is not there, and line 2 of .*list.txt names it"),
        ("\n", "", "list.txt: layer 'd': is empty"),
        ("0.png 0_l.png\n", "batch_size: 0", "layer 'd': batch_size must be positive; got 0"),
        ("0.png 0_l.png\n", "ignore_label: 300", "layer 'd': ignore_label; expected 0 to 255"),
    ],
)  # fmt: skip
def test_bad_lists_are_refused_at_once(tmp_path: Path, lines: str, image: str, wanted: str) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(BadInput, match=wanted):
        feeds(seg_data(tmp_path, image))


def test_bad_pictures_name_file_and_line_and_the_next_batch_comes(tmp_path: Path) -> None:
    write_pictures(tmp_path, 6, (4, 4))
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    (tmp_path / "1_l.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "2_l.png")
    cv2.imwrite(str(tmp_path / "3_l.png"), np.full((4, 4, 3), (1, 2, 3), np.uint8))
    write_pair(tmp_path, 4, np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8))
    text = seg_data(tmp_path, "batch_size: 1")
    fed = feeds(text)
    wrong = {
        "0.png": "is no picture that OpenCV reads, or damaged",
        "1_l.png": "is no label picture",
        "2_l.png": f"not of the size of its picture {tmp_path}/2.png .*expected 4x4, got 4x5",
        "3_l.png": "is colour-coded",
    }
    for i, (file, wanted) in enumerate(wrong.items()):
        with pytest.raises(BadInput, match=rf"/{file}: layer 'd': .*{wanted}") as caught:
            fed.next()
        assert f"(line {i + 1} of {tmp_path}/list.txt)" in str(caught.value)
    assert fed.next()["data"].shape == (1, 3, 4, 5)
    pairs = feeds(text.replace("batch_size: 1", "batch_size: 2"))
    pairs.seek(2)
    with pytest.raises(BadInput, match="'data' of 5.png .*line 6.* the first of its batch"):
        pairs.next()


def test_a_label_of_no_class_is_traced_to_its_line(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4, (4, 4))
    for i in (1, 2):
        labels = np.full((4, 4), 3, np.uint8)
        labels[i, 0] = 37
        write_pair(tmp_path, i, np.full((4, 4, 3), 37, np.uint8), labels)
    net = load_caffe(
        parse_net(
            seg_data(tmp_path, "batch_size: 3", "crop_size: 4", tops=2)
            + """
            layer { name: "conv" type: "Convolution" bottom: "data" top: "score"
                    convolution_param { num_output: 21 kernel_size: 1 } }
            layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" }
            """,
            phase="TRAIN",
            dialect="dl2",
        )
    )
    fed = Feeds(net.net.data_layers)
    with pytest.raises(UnexpectedLabel) as caught:
        net(**fed.next())
    assert str(fed.blame(caught.value)) == (
        "layer 'loss': SoftmaxWithLoss: unexpected label 37; expected 0..20; it is in"
        f" 1.png 1_l.png (line 2 of {tmp_path}/list.txt),"
        f" 2.png 2_l.png (line 3 of {tmp_path}/list.txt)"
    )


@pytest.mark.parametrize(
    ("image", "transform", "wanted"),
    [("new_height: 3", "", "new_height and new_width must be given together"),
     ("", "mean_file: 'm'", "takes no mean_file"),
     ("", "crop_height: 3", "both crop_height and crop_width"),
     ("", "crop_size: 2 crop_height: 3 crop_width: 3", "crop_size, or both")],
)  # fmt: skip
def test_what_caffe_refuses_in_a_prototxt(
    tmp_path: Path, image: str, transform: str, wanted: str
) -> None:
    with pytest.raises(CaffeImportError, match=f"layer 'd': ImageSegData: .*{wanted}"):
        feeds(seg_data(tmp_path, image, transform))


# ---------------------------------------------------------------- other layers


@pytest.mark.parametrize(("dialect", "shape"), [("bvlc", (2,)), ("dl1", (2, 1, 1, 1))])
def test_image_data(tmp_path: Path, dialect: str, shape: tuple[int, ...]) -> None:
    made = write_pictures(tmp_path, 2)
    (tmp_path / "with blanks.png").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "list.txt").write_text("0.png 1000\nwith blanks.png -3 \n")
    body = (
        f'top: "data" top: "label" image_data_param {{ source: "{tmp_path}/list.txt" batch_size: 2'
        f' root_folder: "{tmp_path}/" crop_size: 4 }} transform_param {{ scale: 0.5 }} }}'
    )
    kind = "layers { type: IMAGE_DATA" if dialect == "dl1" else 'layer { type: "ImageData"'
    batch = feeds(f'{kind} name: "d" {body}', phase="TEST", dialect=dialect).next()
    assert batch["label"].shape == shape
    assert batch["label"].flatten().tolist() == [1000, -3]
    for i in range(2):
        crop = made[i][0].transpose(2, 0, 1)[:, 1:5, 2:6]
        assert (batch["data"][i].numpy() == crop * 0.5).all()
    (tmp_path / "list.txt").write_text("0.png one\n")
    with pytest.raises(BadInput, match="line 1 is no picture and its label; .*got 0.png one"):
        feeds(f'{kind} name: "d" {body}', dialect=dialect)


def hdf5_layer(folder: Path, extra: str = "", batch: int = 4) -> str:
    return (
        'layer { name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param '
        f'{{ source: "{folder}/list.txt" batch_size: {batch} {extra} }} }}'
    )


def write_rows(folder: Path, *counts: int) -> None:
    start = 0
    for i, rows in enumerate(counts):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            numbers = np.arange(start, start + rows, dtype=np.float32)
            file["data"] = numbers[:, None, None] * np.ones((1, 2, 3))
            file["label"] = numbers.astype(np.int32)
        start += rows
    names = [f"{folder}/{i}.h5" for i in range(len(counts))]
    (folder / "list.txt").write_text(f"{names[0]}\n{' '.join(names[1:])}\n")


def test_hdf5_rows_across_files(tmp_path: Path) -> None:
    write_rows(tmp_path, 3, 1, 2)
    fed = feeds(hdf5_layer(tmp_path))
    batches = [fed.next() for _ in range(3)]
    assert [b["label"].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    assert batches[0]["data"].shape == (4, 2, 3)
    assert (batches[0]["data"][:, 1, 2] == batches[0]["label"]).all()
    assert fed.origins["d"][0] == f"row 2 of {tmp_path}/0.h5"

    shuffled = feeds(hdf5_layer(tmp_path, "shuffle: true", batch=6))
    files: Counter[str] = Counter()
    rows_of_first: Counter[str] = Counter()
    for _ in range(120):
        rows = "".join(f"{row:.0f}" for row in shuffled.next()["label"])
        assert sorted(rows) == sorted("012345")
        first = "".join(row for row in rows if row in "012")
        assert first in rows, "the rows of a file stay together"
        rows_of_first[first] += 1
        files[rows.replace(first, "a").replace("54", "45")] += 1
    for counts in (files, rows_of_first):
        assert len(counts) == 6
        assert evenness(counts.values()) > 0.01


def test_bad_hdf5(tmp_path: Path) -> None:
    write_rows(tmp_path, 3, 1)
    with h5py.File(tmp_path / "1.h5", "a") as file:
        del file["data"]
        file["data"] = np.zeros((1, 3, 2))
    with pytest.raises(BadInput, match="1.h5: .*'data' has rows of another shape .*2x3, got 3x2"):
        feeds(hdf5_layer(tmp_path))
    with h5py.File(tmp_path / "1.h5", "a") as file:
        del file["label"]
        file["label"] = np.zeros(2)
    with pytest.raises(BadInput, match="different lengths .line 2 .*got data 1x3x2, label 2"):
        feeds(hdf5_layer(tmp_path))
    with h5py.File(tmp_path / "1.h5", "a") as file:
        del file["label"]
    with pytest.raises(BadInput, match="1.h5: .*holds no data set label"):
        feeds(hdf5_layer(tmp_path))
    with pytest.raises(CaffeImportError, match="does not transform data"):
        feeds(hdf5_layer(tmp_path)[:-1] + "transform_param { scale: 2 } }")


def mat_read(source: str) -> str:
    return (
        'layer { name: "d" type: "MatRead" top: "a" top: "b" mat_read_param '
        f'{{ prefix: "in/" batch_size: 2 {source} }} }}'
    )


@pytest.mark.parametrize("source", ["", 'source: "list.txt" strip: 4'])
def test_mat_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    names = ["iter_0", "iter_1", "iter_2"]
    if source:
        names = ["x", "y", "z"]
        (tmp_path / "list.txt").write_text("x.jpg more\ny.jpg\nz.jpg\n")
    rng = np.random.default_rng(0)
    made = [rng.random((2, 1, 3, 4, 5), np.float32) for _ in names]
    for name, (a, b) in zip(names, made, strict=True):
        write_mat(f"in/{name}_blob_0.mat", a)
        write_mat(f"in/{name}_blob_1.mat", b)
    fed = feeds(mat_read(source))
    first = fed.next()
    assert (first["a"].numpy() == np.concatenate([made[0][0], made[1][0]])).all()
    assert (first["b"].numpy() == np.concatenate([made[0][1], made[1][1]])).all()
    if source:
        assert (fed.next()["a"][1].numpy() == made[0][0][0]).all()
        Path("in/z_blob_1.mat").unlink()
        with pytest.raises(BadInput, match="z_blob_1.mat: .*line 3 of list.txt names it"):
            feeds(mat_read(source))
    else:
        with pytest.raises(BadInput, match="in/iter_3_blob_0.mat: layer 'd': No such file"):
            fed.next()


def test_memory_data() -> None:
    text = (
        'layer { name: "d" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 2 channels: 3 height: 2 width: 1 } }"
    )
    rows, labels = np.arange(24.0).reshape(4, 3, 2, 1), np.arange(4)
    fed = feeds(text, arrays={"d": (rows, labels)})
    for start in (0, 2, 0):
        batch = fed.next()
        assert (batch["data"].numpy() == rows[start : start + 2]).all()
        assert batch["label"].tolist() == [start, start + 1]
    with pytest.raises(BadInput, match="layer 'd': MemoryData has no files"):
        feeds(text)
    with pytest.raises(BadInput, match="a multiple of 2 rows of 3x2x1, got 3x3x2x1"):
        feeds(text, arrays={"d": (rows[:3], labels)})
    with pytest.raises(BadInput, match="arrays are given for what is no MemoryData layer; got e"):
        feeds(text, arrays={"d": (rows, labels), "e": (rows, labels)})
