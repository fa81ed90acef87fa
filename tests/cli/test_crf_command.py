"""`deeplab-repro crf` and `segment --crf`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
import torch

from deeplab_repro import load_caffe
from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.inference.segmentation import segment
from deeplab_repro.pictures.matlab import read_bin
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.scores import read_scores, write_scores
from deeplab_repro.pictures.voc import VOC_CLASSES
from tests.cli.test_segment_command import MODEL, PICTURE, SMALL, labels_in, write_picture
from tests.crf.recorded import Case

CAFFE = PICTURE.parent / "activations.h5"


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """(21, 97, 97): what Caffe computed for the bundled picture."""
    with h5py.File(CAFFE) as file:
        return file["blobs/fc8_interp"][0]


def marginals(unary: np.ndarray, picture: Path, params: CRFParams, **options) -> np.ndarray:
    rgb = read_picture(picture)[:, :, ::-1].transpose(2, 0, 1).copy()
    q = dense_crf(torch.from_numpy(unary)[None], torch.from_numpy(rgb)[None], params, **options)
    return q[0].numpy()


def test_one_picture(run, tmp_path, scores):
    report = tmp_path / "r.json"
    arguments = ("--image", PICTURE, "--scores", CAFFE, "--key", "fc8_interp", "-o", tmp_path / "o")
    options = ("--params", "deeplab_largefov", "--pos-xy-std", "3,2", "--bi-rgb-std", "5,6,7")
    code, out, _ = run("crf", *arguments, *options, "--iterations", 5, "--json", report)
    assert code == 0
    params = CRFParams(5, 3, (3, 2), 4, 121, (5, 6, 7))
    q = marginals(-scores, PICTURE, params)
    with np.load(tmp_path / "o" / "marginals" / "picture.npz") as file:
        assert np.array_equal(file["marginals"], q)
    labels = q.argmax(0)
    assert np.array_equal(labels_in(tmp_path / "o" / "labels" / "picture.png"), labels)
    for folder in ("overlays", "before_after"):
        assert cv2.imread(str(tmp_path / "o" / folder / "picture.png")).shape[0] >= 3 * 97
    content = json.loads(report.read_text())
    assert content["params"]["bi_rgb_std"] == [5, 6, 7]
    (picture,) = content["pictures"]
    assert picture["size"] == [97, 97]
    assert picture["changed"] == (labels != scores.argmax(0)).sum() > 0
    assert {entry["name"] for entry in picture["classes"]} <= set(VOC_CLASSES)
    assert (
        "1 of 1 pictures refined, 5 iterations, spatial 3 at 3,2, bilateral 4 at 121/5,6,7" in out
    )


def test_labels_of_the_program(run, tmp_path):
    """A recorded run of prog_refine_pascal, from its picture and probabilities."""
    case = Case("dl_prob_80x60_c6")
    cv2.imwrite(str(tmp_path / "p.png"), case.rgb[:, :, ::-1])
    np.save(tmp_path / "p.npy", case["prob"].transpose(2, 0, 1))
    files = ("--image", tmp_path / "p.png", "--scores", tmp_path / "p.npy")
    arguments = ("crf", *files, "-o", tmp_path / "o")
    code, _, err = run(*arguments, "--probabilities")
    assert code == 0
    assert "these are probabilities" not in err
    labels = labels_in(tmp_path / "o" / "labels" / "p.png")
    assert (labels != case["labels_prog_v1"]).mean() <= 1e-4
    code, _, err = run(*arguments)
    assert code == 0
    assert "these are probabilities, and are taken as scores: --probabilities" in err


@pytest.mark.slow
def test_kinds_of_score_files(run, tmp_path, scores):
    endings = (".npy", "4.npy", ".npz", "2.npz", ".h5", ".mat", ".bin")
    files = {name: tmp_path / f"s{name}" for name in endings}
    np.save(files[".npy"], scores)
    np.save(files["4.npy"], scores[None].astype(np.float64))
    np.savez(files[".npz"], scores)
    np.savez_compressed(files["2.npz"], other=scores[:1], mine=scores)
    with h5py.File(files[".h5"], "w") as file:
        file["a/b"] = scores
    scipy.io.savemat(files[".mat"], {"data": scores[None].T, "diff": scores[None].T})
    write_scores(files[".bin"], scores)
    seen = []
    for name, file in files.items():
        key = ("--key", "mine") if name == "2.npz" else ()
        arguments = ("--image", PICTURE, "--scores", file, *key, "-o", tmp_path / "o")
        assert run("crf", *arguments)[0] == 0, name
        seen.append(labels_in(tmp_path / "o" / "labels" / "picture.png"))
    assert all(np.array_equal(labels, seen[0]) for labels in seen)


def test_padded_scores(run, tmp_path, scores):
    write_picture(tmp_path / "p.png", 40, 60)
    np.save(tmp_path / "s.npy", scores)
    arguments = (
        "crf",
        "--image",
        tmp_path / "p.png",
        "--scores",
        tmp_path / "s.npy",
        "-o",
        tmp_path / "o",
    )
    code, _, err = run(*arguments)
    assert code == 2
    assert "scores and picture differ in size (--crop takes" in err
    assert run(*arguments, "--crop")[0] == 0
    part = np.ascontiguousarray(-scores[:, :40, :60])
    expected = marginals(part, tmp_path / "p.png", CRFParams()).argmax(0)
    assert np.array_equal(labels_in(tmp_path / "o" / "labels" / "p.png"), expected)


def test_a_folder_of_scores_that_is_not_there_is_one_line(run, tmp_path):
    write_picture(tmp_path / "a.png", 12, 10)
    code, _, err = run(
        *("crf", "--image", tmp_path, "--scores", tmp_path / "none", "-o", tmp_path / "o")
    )
    assert code == 2
    assert err == f"deeplab-repro: {tmp_path / 'none'}: there is no such file or folder\n"


def test_folders(run, tmp_path):
    pictures, maps = tmp_path / "pictures", tmp_path / "scores"
    pictures.mkdir()
    maps.mkdir()
    for i, name in enumerate("abc"):
        write_picture(pictures / f"{name}.png", 12, 10 + i, i)
        np.save(maps / f"{name}.npy", np.random.default_rng(i).normal(0, 3, (3, 12, 10 + i)))
    (maps / "b.npy").unlink()
    np.save(maps / "c.npy", np.full((3, 12, 12), np.nan))
    arguments = ("crf", "--image", pictures, "--scores", maps, "-o", tmp_path / "o")
    code, out, err = run(*arguments, "--json", tmp_path / "r.json")
    assert code == 2
    assert "1 of 3 pictures refined" in out
    missing, nan = err.splitlines()
    assert missing.startswith(f"deeplab-repro: {pictures}/b.png: has no scores; expected b with ")
    assert nan == f"deeplab-repro: {maps}/c.npy: the scores hold NaN"
    assert [path.name for path in (tmp_path / "o" / "labels").iterdir()] == ["a.png"]
    content = json.loads((tmp_path / "r.json").read_text())
    assert [Path(entry["file"]).name for entry in content["failed"]] == ["b.png", "c.png"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_folder_of_matlabs_files(run, tmp_path, workers):
    """As the MatWrite layer writes them, padded; labels as the densecrf program writes them."""
    pictures, maps, out = tmp_path / "pictures", tmp_path / "scores", tmp_path / "o"
    pictures.mkdir()
    maps.mkdir()
    expected = {}
    for i in range(5):
        name = f"2007_{i}"
        write_picture(pictures / f"{name}.png", 12, 10 + i, i)
        padded = np.random.default_rng(i).normal(0, 3, (3, 17, 17)).astype(np.float32)
        scipy.io.savemat(maps / f"{name}_blob_0.mat", {"data": padded[None].T})
        part = np.ascontiguousarray(-padded[:, :12, : 10 + i])
        expected[name] = marginals(part, pictures / f"{name}.png", CRFParams())
    arguments = ("crf", "--image", pictures, "--scores", maps, "-o", out, "--workers", workers)
    code, _, err = run(*arguments)
    assert code == 2
    assert err.count("(--crop takes the part of a padded picture)") == 5
    assert not out.exists()
    options = ("--crop", "--bin", "--marginals", ".mat", "--no-overlays")
    threads = torch.get_num_threads()
    code, shown, _ = run(*arguments, *options, "--json", tmp_path / "r.json")
    assert code == 0
    assert torch.get_num_threads() == threads
    assert "5 of 5 pictures refined" in shown
    assert sorted(path.name for path in out.iterdir()) == ["bin", "labels", "marginals"]
    for name, q in expected.items():
        labels = labels_in(out / "labels" / f"{name}.png")
        assert np.array_equal(labels, q.argmax(0))
        assert np.array_equal(read_bin(out / "bin" / f"{name}.bin")[0], labels)
        np.testing.assert_array_equal(read_scores(out / "marginals" / f"{name}.mat"), q)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["device"] == "cpu"
    assert [Path(entry["file"]).stem for entry in report["pictures"]] == list(expected)
    # What is there is left alone, and none of what was to be written is missing.
    (out / "bin" / "2007_3.bin").unlink()
    (out / "labels" / "2007_1.png").write_bytes(b"as it was")
    code, shown, _ = run(*arguments, *options, "--skip-existing", "--json", tmp_path / "r.json")
    assert code == 0
    assert "5 of 5 pictures (4 were there) refined" in shown
    assert (out / "bin" / "2007_3.bin").is_file()
    assert (out / "labels" / "2007_1.png").read_bytes() == b"as it was"
    report = json.loads((tmp_path / "r.json").read_text())
    assert [Path(entry["file"]).stem for entry in report["pictures"]] == ["2007_3"]
    assert run(*arguments, *options, "--skip-existing")[0] == 0


def test_pictures_with_other_numbers_of_classes(run, tmp_path):
    """The report names the classes of all of them."""
    for i, classes in enumerate((2, 5, 3)):
        write_picture(tmp_path / f"{i}.png", 5, 6, i)
        scores = np.zeros((classes, 5, 6), np.float32)
        scores[-1] = 9
        np.save(tmp_path / f"{i}.npy", scores)
    arguments = ("--image", tmp_path, "--scores", tmp_path, "-o", tmp_path / "o")
    assert run("crf", *arguments, "--json", tmp_path / "r.json")[0] == 0
    pictures = json.loads((tmp_path / "r.json").read_text())["pictures"]
    assert [picture["classes"][0]["id"] for picture in pictures] == [1, 4, 2]


def test_probabilities_of_many_pictures_are_one_warning(run, tmp_path):
    for i in range(3):
        write_picture(tmp_path / f"{i}.png", 5, 6, i)
        np.save(tmp_path / f"{i}.npy", np.full((4, 5, 6), 0.25))
    arguments = ("--image", tmp_path, "--scores", tmp_path, "-o", tmp_path / "o")
    code, _, err = run("crf", *arguments, "--marginals", "none")
    assert code == 0
    (line,) = err.splitlines()
    assert line.endswith("--probabilities (and those of 2 more pictures)")
    assert not (tmp_path / "o" / "marginals").exists()


def test_normalization_and_relaxation(run, tmp_path, scores):
    np.save(tmp_path / "s.npy", scores)
    options = ("--normalization", "symmetric", "--relaxation", "0.5")
    arguments = ("--image", PICTURE, "--scores", tmp_path / "s.npy", "-o", tmp_path / "o")
    assert run("crf", *arguments, *options)[0] == 0
    q = marginals(-scores, PICTURE, CRFParams(), normalization="symmetric", relaxation=0.5)
    with np.load(tmp_path / "o" / "marginals" / "picture.npz") as file:
        assert np.array_equal(file["marginals"], q)


def test_list_of_parameters(run):
    code, out, _ = run("crf", "--list-params")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(CRFParams.names())


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (np.zeros((3, 5, 7)), (), "expected (C, 6, 9), got (3, 5, 7)"),
        (np.zeros((3, 9, 6)), (), "differ in size: height and width are swapped"),
        (np.zeros((6, 9, 3)), (), "differ in size: the channels come last"),
        (np.zeros((6, 9)), (), "holds no scores of one picture"),
        (np.zeros((2, 3, 6, 9)), (), "holds no scores of one picture"),
        (np.zeros((0, 6, 9)), (), "holds no scores of one picture"),
        (np.array(["a"]), (), "is no .npy of numbers"),
        (np.full((3, 6, 9), 2.0), ("--probabilities",), "are no probabilities"),
        (np.full((3, 6, 9), np.inf), (), "unary holds -inf"),
        (np.zeros((3, 6, 9)), ("--params", "deeplab_v2_vgg"), "did you mean deeplab_v2_vgg16"),
        (np.zeros((3, 6, 9)), ("--bi-w", "x"), "--bi-w; expected weight of the bilateral"),
        (np.zeros((3, 6, 9)), ("--pos-xy-std", "0"), "pos_xy_std must be positive"),
        (np.zeros((3, 6, 9)), ("--pos-xy-std", "1e-5"), "use larger standard deviations"),
        (np.zeros((3, 6, 9)), ("--iterations", "-1"), "iterations must be at least 0"),
        (np.zeros((3, 6, 9)), ("--relaxation", "7"), "relaxation must be in 0..1"),
        (np.zeros((3, 6, 9)), ("--classes", __file__), "expected 3 lines"),
    ],
)
def test_bad_input(run, tmp_path, scores, options, message):
    write_picture(tmp_path / "p.png", 6, 9)
    np.save(tmp_path / "s.npy", scores)
    arguments = ("--image", tmp_path / "p.png", "--scores", tmp_path / "s.npy")
    code, _, err = run("crf", *arguments, "-o", tmp_path / "o", *options)
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert message in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "s.txt",
            b"1 2",
            "is no file of scores; expected .npy, .npz, .h5, .hdf5, .mat, .bin, got .txt",
        ),
        ("s.npy", b"1 2", "is no .npy"),
        ("s.npz", b"PK\x03\x04", "is no .npz"),
        ("s.npz", b"", "is no .npz"),
        ("s.h5", b"\x89HDF", "is no HDF5 file, or damaged"),
    ],
)
def test_bad_score_files(run, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    code, _, err = run("crf", "--image", PICTURE, "--scores", tmp_path / name, "-o", tmp_path / "o")
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert message in err


def test_which_array(run, tmp_path):
    arguments = ("--image", PICTURE, "--scores", CAFFE, "-o", tmp_path / "o")
    assert "--key with one of image_rgb_uint8, blobs/conv1_1" in run("crf", *arguments)[2]
    assert "/ holds no data set fc9" in run("crf", *arguments, "--key", "fc9")[2]
    np.savez(tmp_path / "s.npz", a=np.zeros(3), b=np.zeros(3))
    arguments = ("--image", PICTURE, "--scores", tmp_path / "s.npz", "-o", tmp_path / "o")
    assert "--key with one of a, b" in run("crf", *arguments)[2]
    assert (
        "holds no array c; expected --key with one of a, b"
        in run("crf", *arguments, "--key", "c")[2]
    )


def test_an_array_larger_than_memory(run, tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "s.npz", np.zeros((3, 400, 400)))
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_BLOB_BYTES", "1000000")
    arguments = ("--image", PICTURE, "--scores", tmp_path / "s.npz", "-o", tmp_path / "o")
    code, _, err = run("crf", *arguments)
    assert code == 2
    assert "arr_0 is too large, in bytes; expected at most 1000000" in err


def test_segment_with_a_crf(run, tmp_path):
    picture = write_picture(tmp_path / "p.png", 40, 60)
    arguments = ("segment", tmp_path / "p.png", *SMALL, "-o", tmp_path / "o")
    code, out, _ = run(*arguments, "--crf", "deeplab_largefov", "--json", tmp_path / "r.json")
    assert code == 0
    assert "refined by a CRF" in out
    net = load_caffe(MODEL)
    plain = segment(net, picture, pad_to=97)
    q = marginals(-plain.scores, tmp_path / "p.png", CRFParams.named("deeplab_largefov"))
    refined = labels_in(tmp_path / "o" / "labels" / "p.png")
    assert np.array_equal(refined, q.argmax(0))
    assert not np.array_equal(refined, plain.labels)
    assert json.loads((tmp_path / "r.json").read_text())["crf"]["bi_xy_std"] == 121
    code, _, err = run(*arguments, "--crf", "largefov")
    assert code == 2
    assert "no CRF parameters are named 'largefov'; did you mean deeplab_largefov" in err
