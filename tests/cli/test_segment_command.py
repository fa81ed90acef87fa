"""``segment`` as people call it: pictures in, label maps, overlays and a report out."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.caffe.layers.conv import Convolution
from deeplab_repro.inference.segmentation import segment
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.scores import read_scores
from deeplab_repro.pictures.voc import VOC_CLASSES, voc_palette

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "weights" / "largefov_v1_w8"
MODEL = BUNDLED / "weights.caffemodel"
PICTURE = BUNDLED / "picture.png"
CAFFE = BUNDLED / "activations.h5"
TRAINED = ROOT / "tests" / "data" / "caffe" / "train_sgd_poly" / "snap_iter_10.caffemodel"
SMALL = ("--model", MODEL, "--pad-to", 97)


def labels_in(path: Path) -> np.ndarray:
    """Class ids of a label picture, from its colours."""
    palette = voc_palette().astype(int)
    key = {tuple(colour): i for i, colour in enumerate(palette.tolist())}
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, :, ::-1]
    return np.array([[key[tuple(pixel)] for pixel in row] for row in pixels.tolist()])


def write_picture(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(path), picture)
    return picture


@pytest.fixture(scope="module")
def net():
    return load_caffe(MODEL)


def test_labels_are_caffes(run, tmp_path):
    report = tmp_path / "r.json"
    code, out, err = run("segment", PICTURE, *SMALL, "-o", tmp_path / "o", "--json", report)
    assert (code, err) == (0, "")
    with h5py.File(CAFFE) as file:
        expected = file["blobs/fc8_interp"][0].argmax(0)
    assert np.array_equal(labels_in(tmp_path / "o" / "labels" / "picture.png"), expected)
    overlay = cv2.imread(str(tmp_path / "o" / "overlays" / "picture.png"))
    assert overlay.shape[0] == 3 * 97
    content = json.loads(report.read_text())
    (picture,) = content["pictures"]
    assert picture["size"] == [97, 97]
    assert picture["input_sizes"] == [[97, 97]]
    assert content["blob"] == "fc8_interp"
    counts = np.bincount(expected.ravel(), minlength=21)
    for entry in picture["classes"]:
        assert entry["name"] == VOC_CLASSES[entry["id"]]
        assert entry["pixels"] == counts[entry["id"]]
        assert entry["share"] == counts[entry["id"]] / 97**2
    assert sum(entry["pixels"] for entry in picture["classes"]) == 97**2
    assert "12  #400080  dog          49.2 %" in out
    assert "1 of 1 pictures labelled by blob 'fc8_interp'" in out


def test_the_accuracy_reaches_the_network(run, tmp_path, monkeypatch):
    seen = []
    original = Convolution.forward

    def forward(layer, *bottoms):
        seen.append(layer.accuracy)
        return original(layer, *bottoms)

    monkeypatch.setattr(Convolution, "forward", forward)
    for options, expected in ([(), "exact"], [("--accuracy", "fast"), "fast"]):
        seen.clear()
        report = tmp_path / "r.json"
        arguments = ("segment", PICTURE, *SMALL, "-o", tmp_path / expected, "--json", report)
        assert run(*arguments, *options)[0] == 0
        assert set(seen) == {expected}
        assert json.loads(report.read_text())["accuracy"] == expected


@pytest.mark.slow
def test_a_folder_with_a_batch(run, tmp_path, net):
    folder = tmp_path / "in"
    folder.mkdir()
    sizes = {"a.png": (40, 60), "b.JPG": (97, 97), "c.bmp": (5, 97), "d.png": (20, 20)}
    for seed, (name, size) in enumerate(sizes.items()):
        write_picture(folder / name, *size, seed)
    (folder / "notes.txt").write_text("no picture")
    arguments = ("segment", folder, *SMALL, "--batch", 3, "--json", tmp_path / "r.json")
    code, out, _ = run(*arguments, "-o", tmp_path / "o")
    assert code == 0
    assert "4 of 4 pictures" in out
    assert [p["file"] for p in json.loads((tmp_path / "r.json").read_text())["pictures"]] == [
        str(folder / name) for name in sizes
    ]
    for name, size in sizes.items():
        expected = segment(net, read_picture(folder / name), pad_to=97).labels
        ours = labels_in(tmp_path / "o" / "labels" / f"{Path(name).stem}.png")
        assert ours.shape == size
        assert np.array_equal(ours, expected)


def test_pictures_of_several_padded_sizes(run, tmp_path, net):
    """Buckets of equal size: nothing is lost, whatever is left over."""
    sizes = [(9, 530), (9, 9), (530, 9), (9, 9), (9, 531), (9, 9)]
    files = []
    for i, size in enumerate(sizes):
        files.append(tmp_path / f"p{i}.png")
        write_picture(files[-1], *size, i)
    declared = tmp_path / "n.prototxt"
    declared.write_text(
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9 '
        'layer { name: "s" type: "Power" bottom: "data" top: "s" power_param { scale: 2 } }'
    )
    code, _, _ = run("segment", *files, "--model", declared, "--batch", 2, "-o", tmp_path / "o")
    assert code == 0
    for file in files:
        picture = read_picture(file)
        expected = (picture - np.float32([104.008, 116.669, 122.675])).argmax(2)
        assert np.array_equal(labels_in(tmp_path / "o" / "labels" / file.name), expected)


def test_kinds_of_pictures(run, tmp_path):
    """Grey, with transparency, 16 bits: all as 8-bit colour, like OpenCV gave them to Caffe."""
    picture = write_picture(tmp_path / "colour.png", 20, 30)
    cv2.imwrite(str(tmp_path / "rgba.png"), np.dstack([picture, np.full((20, 30), 7, np.uint8)]))
    cv2.imwrite(str(tmp_path / "deep.png"), picture.astype(np.uint16) * 256 + 3)
    cv2.imwrite(str(tmp_path / "grey.png"), picture[:, :, 0])
    cv2.imwrite(str(tmp_path / "grey3.png"), picture[:, :, :1].repeat(3, 2))
    for name in ("rgba", "deep"):
        assert np.array_equal(read_picture(tmp_path / f"{name}.png"), picture)
    assert np.array_equal(read_picture(tmp_path / "grey.png"), picture[:, :, :1].repeat(3, 2))
    assert run("segment", tmp_path, *SMALL, "-o", tmp_path / "o")[0] == 0
    seen = {p.stem: labels_in(p) for p in (tmp_path / "o" / "labels").iterdir()}
    assert np.array_equal(seen["colour"], seen["rgba"])
    assert np.array_equal(seen["colour"], seen["deep"])
    assert np.array_equal(seen["grey"], seen["grey3"])


def turned_jpeg(path: Path) -> np.ndarray:
    """A JPEG of 20x30 whose EXIF data say: turn me by 90 degrees (orientation 6)."""
    picture = write_picture(path, 20, 30)
    content = path.read_bytes()
    tags = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
    exif = b"Exif\x00\x00" + tags
    segment_ = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    path.write_bytes(content[:2] + segment_ + content[2:])
    return picture


def test_exif_orientation(run, tmp_path):
    turned_jpeg(tmp_path / "p.jpg")
    assert cv2.imread(str(tmp_path / "p.jpg")).shape == (30, 20, 3)
    arguments = ("segment", tmp_path / "p.jpg", *SMALL, "-o", tmp_path / "o")
    assert run(*arguments)[0] == 0
    assert labels_in(tmp_path / "o" / "labels" / "p.png").shape == (20, 30)
    assert run(*arguments, "--upright")[0] == 0
    assert labels_in(tmp_path / "o" / "labels" / "p.png").shape == (30, 20)


def test_what_cannot_be_read_does_not_stop_the_rest(run, tmp_path):
    whole = write_picture(tmp_path / "good.png", 20, 30)
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    sizes = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    (tmp_path / "bomb.png").write_bytes(content[:16] + sizes + content[24:])
    write_picture(tmp_path / "large.png", 98, 30)
    os.mkfifo(tmp_path / "pipe.png")
    names = ["half", "empty", "text", "good", "bomb", "large", "pipe", "none"]
    files = [tmp_path / f"{name}.png" for name in names]
    report = tmp_path / "r.json"
    arguments = ("segment", *files, *SMALL, "--batch", 4, "-o", tmp_path / "o", "--json", report)
    code, out, err = run(*arguments)
    assert code == 2
    assert "1 of 8 pictures labelled" in out
    lines = err.splitlines()
    assert len(lines) == 7
    for line, name in zip(lines, [n for n in names if n != "good"], strict=True):
        assert line.startswith(f"deeplab-repro: {tmp_path / name}.png: ")
    assert "at most 97x97, got 98x30" in lines[4]
    assert "is a pipe or a device" in lines[5]
    assert "No such file" in lines[6]
    assert labels_in(tmp_path / "o" / "labels" / "good.png").shape == whole.shape[:2]
    assert [p.name for p in (tmp_path / "o" / "labels").iterdir()] == ["good.png"]
    failed = json.loads(report.read_text())["failed"]
    assert [entry["file"] for entry in failed] == [str(f) for f in files if f.stem != "good"]


@pytest.mark.slow
def test_too_many_pixels(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_PIXELS", "9408")  # 97x97 - 1
    code, _, err = run("segment", PICTURE, *SMALL, "-o", tmp_path)
    assert code == 2
    assert "--pad-to: too many pixels; expected at most 9408 (DEEPLAB_REPRO_MAX_PIXELS" in err
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_PIXELS", "9409")
    monkeypatch.delenv("OPENCV_IO_MAX_IMAGE_PIXELS")  # which this process has set for itself
    # In a process of its own OpenCV refuses what the header claims before it allocates.
    write_picture(tmp_path / "p.png", 20, 30)
    content = (tmp_path / "p.png").read_bytes()
    header = content[12:16] + struct.pack(">II", 9410, 1) + content[24:29]
    checksum = struct.pack(">I", zlib.crc32(header))
    (tmp_path / "p.png").write_bytes(content[:12] + header + checksum + content[33:])
    arguments = ["segment", tmp_path / "p.png", *SMALL, "-o", tmp_path]
    command = "import sys; from deeplab_repro.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", command, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "p.png: has too many pixels; expected at most 9409" in done.stderr


@pytest.mark.parametrize("options", [("--scales", "0.5", "1"), ("--scales=0.5", "--scales", "1")])
@pytest.mark.slow
def test_scales(run, tmp_path, net, options):
    picture = write_picture(tmp_path / "p.png", 40, 60)
    arguments = ("segment", tmp_path / "p.png", *options, *SMALL, "-o", tmp_path / "o")
    code, out, _ = run(*arguments)
    assert code == 0
    assert "max over scales 0.5, 1" in out
    expected = segment(net, picture, pad_to=97, scales=[0.5, 1]).labels
    assert not np.array_equal(expected, segment(net, picture, pad_to=97).labels)
    assert np.array_equal(labels_in(tmp_path / "o" / "labels" / "p.png"), expected)
    assert run(*arguments, "--fuse", "mean")[0] == 0
    expected = segment(net, picture, pad_to=97, scales=[0.5, 1], fuse="mean").labels
    assert np.array_equal(labels_in(tmp_path / "o" / "labels" / "p.png"), expected)


def test_a_train_network_is_said_to_be_one(run, tmp_path):
    arguments = ("segment", PICTURE, "--model", TRAINED, "--pad-to", 97, "-o", tmp_path)
    code, _, err = run(*arguments)
    assert code == 0
    assert "zoomed by 8 here" in err
    names = [f"stuff [{i}]" for i in range(21)]
    (tmp_path / "names.txt").write_text("\n".join(names).replace("[0]", "[0] #102030"))
    arguments += ("--classes", tmp_path / "names.txt", "--json", tmp_path / "r.json")
    code, out, _ = run(*arguments)
    assert code == 0
    assert json.loads((tmp_path / "r.json").read_text())["classes"] == names
    assert "0  #102030  stuff [0]" in out


def test_mean_and_blob(run, tmp_path, net):
    picture = write_picture(tmp_path / "p.png", 40, 60)
    arguments = ("segment", tmp_path / "p.png", *SMALL, "-o", tmp_path / "o")
    assert run(*arguments, "--mean", "none", "--blob", "fc8_interp")[0] == 0
    expected = segment(net, picture, pad_to=97, mean=None).labels
    assert np.array_equal(labels_in(tmp_path / "o" / "labels" / "p.png"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--model'"),
        (
            ["--model", MODEL],
            "which pictures; expected one of: pictures or folders, --voc, --list with --root",
        ),
        ([PICTURE, "--model", MODEL, "--voc", ROOT], "got pictures and --voc"),
        ([PICTURE, "--model", MODEL, "--split", "val"], "--split; expected --voc beside it"),
        (["--model", MODEL, "--list", __file__, "--root", __file__], "is no folder"),
        (["--model", MODEL, "--list", __file__], "--list and --root; expected both"),
        ([PICTURE, "--model", "none.caffemodel"], "No such file"),
        ([PICTURE, "--model", MODEL, "--scales", "big"], "--scales; expected positive numbers"),
        ([PICTURE, "--model", MODEL, "--scales", "-1"], "--scales; expected positive numbers"),
        ([PICTURE, "--model", MODEL, "--scales", "nan"], "--scales; expected positive numbers"),
        ([PICTURE, "--model", MODEL, "--blob", "x"], "no blob 'x' can be computed"),
        ([PICTURE, "--model", MODEL, "--blob", "conv1_1", "--classes", PICTURE], "is no text"),
        ([PICTURE, "--model", MODEL, "--classes", __file__], "expected 21 lines"),
        ([PICTURE, "--model", MODEL, "--mean", "1,2"], "1,2"),
        (
            [PICTURE, "--model", MODEL, "--accuracy", "quick"],
            "'quick' is not one of 'exact', 'fast'",
        ),
        ([PICTURE, "--model", MODEL, "--autotune", "--tile", 65], "expected no --tile beside it"),
        ([PICTURE, "--model", MODEL, "--batch", "0"], "0 is not in the range"),
        ([PICTURE, PICTURE.parent / "../largefov_v1_w8/picture.png", "--model", MODEL], "twice"),
        ([ROOT / "tests" / "cli", "--model", MODEL], "holds no pictures"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments(run, tmp_path, arguments, message):
    out = tmp_path / "o"
    code, _, err = run("segment", *arguments, "-o", out)
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert message in err
    assert not out.exists()


def test_an_input_is_not_overwritten(run, tmp_path):
    (tmp_path / "labels").mkdir()
    write_picture(tmp_path / "labels" / "p.png", 20, 30)
    before = (tmp_path / "labels" / "p.png").read_bytes()
    code, _, err = run("segment", tmp_path / "labels", *SMALL, "-o", tmp_path)
    assert code == 2
    assert "is an input, and would be overwritten" in err
    assert (tmp_path / "labels" / "p.png").read_bytes() == before


def test_output_that_cannot_be_a_folder(run, tmp_path):
    (tmp_path / "o").write_text("a file")
    code, _, err = run("segment", PICTURE, *SMALL, "-o", tmp_path / "o")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert (tmp_path / "o").read_text() == "a file"


def test_a_picture_that_is_not_there_leaves_no_folders(run, tmp_path):
    code, _, err = run("segment", tmp_path / "none.png", *SMALL, "-o", tmp_path / "o")
    assert code == 2
    assert "none.png: No such file" in err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- scores, and what is there


@pytest.mark.slow
def test_scores_go_on_to_crf(run, tmp_path, net):
    """In every kind of file; what is refined later is what --crf refines at once."""
    picture = write_picture(tmp_path / "p.png", 40, 60)
    expected = segment(net, picture, pad_to=97).scores
    crf = ("--crf", "deeplab_largefov")
    assert run("segment", tmp_path / "p.png", *SMALL, *crf, "-o", tmp_path / "at_once")[0] == 0
    at_once = (tmp_path / "at_once" / "labels" / "p.png").read_bytes()
    for kind in (".npy", ".npz", ".h5", ".mat", ".bin"):
        out = tmp_path / kind[1:]
        arguments = ("segment", tmp_path / "p.png", *SMALL, *crf, "--no-overlays", "-o", out)
        code, shown, _ = run(*arguments, "--save-scores", kind, "--json", tmp_path / "r.json")
        assert code == 0
        assert f"written: {out}/scores" in shown
        (file,) = (out / "scores").iterdir()
        assert file.name == ("p_blob_0.mat" if kind == ".mat" else f"p{kind}")
        np.testing.assert_array_equal(read_scores(file), expected)  # those before the CRF
        assert not (out / "overlays").exists()
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["device"] == "cpu"
        assert report["pictures"][0]["scores"] == str(file)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        write_picture(tmp_path / "pictures" / "p.png", 40, 60)
        arguments = ("--image", tmp_path / "pictures", "--scores", out / "scores", "-o", out)
        assert run("crf", *arguments, "--params", "deeplab_largefov")[0] == 0
        assert (out / "labels" / "p.png").read_bytes() == at_once


def test_what_is_there_is_left_alone(run, tmp_path):
    for name in "abc":
        write_picture(tmp_path / f"{name}.png", 20, 30)
    arguments = ("segment", tmp_path, *SMALL, "-o", tmp_path / "o", "--skip-existing")
    assert run(*arguments)[0] == 0
    for file in ("labels/a.png", "overlays/b.png"):
        (tmp_path / "o" / file).unlink()
    (tmp_path / "o" / "labels" / "c.png").write_bytes(b"as it was")
    code, out, _ = run(*arguments, "--json", tmp_path / "r.json")
    assert code == 0
    assert "3 of 3 pictures (1 was there) labelled" in out
    assert (tmp_path / "o" / "labels" / "c.png").read_bytes() == b"as it was"
    report = json.loads((tmp_path / "r.json").read_text())
    assert [Path(p["file"]).name for p in report["pictures"]] == ["a.png", "b.png"]
    assert report["skipped"] == [str(tmp_path / "c.png")]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "3 of 3 pictures (3 were there) labelled" in out


def test_a_size_that_does_not_suit(run, tmp_path):
    picture = ("segment", PICTURE, "--model", MODEL, "--pad-to", 100, "-o", tmp_path)
    code, _, err = run(*picture)
    assert code == 0
    assert "warning: an input of 100x100 does not suit the network" in err
    assert "sides of 8k + 1 suit it" in err


# ---------------------------------------------------------------- processes


def in_processes(warm, count, *arguments):
    """What they print, one behind the other, and the exit codes."""
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    team = warm.team(count, *arguments, **said)
    out, err = zip(*(process.communicate() for process in team), strict=True)
    return "".join(out), "".join(err), [process.returncode for process in team]


@pytest.mark.slow
def test_several_processes(run, tmp_path, warm):
    """Every file and every line as from one process, the errors of all of them too."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(5):
        write_picture(folder / f"p{i}.png", 20 + i, 30, i)
    (folder / "p1.png").write_text("no picture")
    shared = ("segment", folder, *SMALL, "--save-scores", ".mat")
    # torch's own convolutions may sum in another order on another number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    code, out, err = run(*shared, "-o", tmp_path / "o", "--json", tmp_path / "r.json")
    torch.set_num_threads(threads)
    assert code == 2
    alone = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for path in alone:
        if folder not in path.parents:
            path.unlink()
    to = ("-o", tmp_path / "o", "--json", tmp_path / "r.json")
    assert in_processes(warm, 3, *shared, *to) == (out, err, [2, 2, 2])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == alone
    scores = ("crf", "--image", folder, "--scores", tmp_path / "o" / "scores")
    code, out, _ = run(*scores, "-o", tmp_path / "1", "--json", tmp_path / "1.json")
    assert code == 2
    to = ("-o", tmp_path / "2", "--json", tmp_path / "2.json")
    printed, _, codes = in_processes(warm, 2, *scores, *to)
    assert printed == out.replace(str(tmp_path / "1"), str(tmp_path / "2"))
    assert codes == [2, 2]
    for path in (tmp_path / "1").rglob("*.png"):
        other = tmp_path / "2" / path.relative_to(tmp_path / "1")
        assert other.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_ctrl_c(run, tmp_path):
    """One line, exit code 130; what is written is whole, and nothing else is there."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(100):
        write_picture(folder / f"p{i:03}.png", 97, 97, i)
    arguments = ("segment", folder, *SMALL, "-o", tmp_path / "o")
    process = subprocess.Popen(
        [sys.executable, "-m", "deeplab_repro", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    labels = tmp_path / "o" / "labels"
    while process.poll() is None and not (labels.is_dir() and len(list(labels.iterdir())) > 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "deeplab-repro: stopped")
    written = sorted(path for path in (tmp_path / "o").rglob("*") if path.is_file())
    assert 3 < len(written) < 200
    for path in written:
        assert cv2.imread(str(path)) is not None
    # The next run does the rest.
    assert run(*arguments, "--skip-existing", "--json", tmp_path / "r.json")[0] == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["skipped"]) > 0
    assert len(report["skipped"]) + len(report["pictures"]) == 100
    assert len(list(labels.iterdir())) == 100


@pytest.mark.slow
def test_complaints_of_decoders_and_of_python(tmp_path, warm):
    """libjpeg's go nowhere, in whichever thread it runs; ours are shown."""
    write_picture(tmp_path / "p.jpg", 97, 97)
    content = (tmp_path / "p.jpg").read_bytes()
    half = len(content) // 2
    (tmp_path / "p.jpg").write_bytes(content[:half] + b"\xff\xd9" * 20 + content[half + 40 :])
    arguments = ("segment", tmp_path / "p.jpg", "--model", TRAINED, "--pad-to", 97)
    process = warm.start(*arguments, "-o", tmp_path, stderr=subprocess.PIPE, text=True)
    (line,) = process.communicate()[1].splitlines()
    assert line.startswith("deeplab-repro: warning: the network ends before its scores are zoomed")
    assert process.returncode == 0
