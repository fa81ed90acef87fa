"""`deeplab-repro reproduce`: one process, three, killed, resumed: the same numbers."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deeplab_repro.cli import main
from deeplab_repro.inference.segmentation import Segmenter
from deeplab_repro.reproduction import run as reproduction_run
from prototxt_import.files import replacing
from tests.reproduction.conftest import World
from tests.testing.warm import Warm

PICTURES = 30


def run(*words: object) -> int:
    """Exit code of the command in this process."""
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    return int(exit_.value.code or 0)


def reproduce(world: World, folder: Path, *words: object, name: str = "toy") -> int:
    """Exit code of reproducing the toy model into a folder."""
    return run("reproduce", name, "--voc", world.voc, "-o", folder, *words)


def report(folder: Path) -> dict[str, Any]:
    """What the run has written."""
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def labels(folder: Path) -> dict[str, bytes]:
    """Every label map of a run, by its name."""
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("labels*/*.png")
    }


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(warm, world, folder)[0].wait() == 1  # random weights reproduce nothing
    assert len(labels(folder)) == 2 * PICTURES
    return folder


def start(
    warm: Warm, world: World, folder: Path, processes: int = 1
) -> list[subprocess.Popen[bytes]]:
    """The command as a program of its own, on one thread a process."""
    return warm.team(
        processes,
        *("reproduce", "toy", "--voc", world.voc, "-o", folder),
        env=world.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
def test_scores_are_those_of_the_label_maps(whole: Path, world: World) -> None:
    """By sets of pixels, class by class: another way than a confusion matrix."""
    names = (world.voc / "ImageSets/Segmentation/val.txt").read_text().split()
    assert len(names) == PICTURES
    found = report(whole)
    for part, place in (("before_crf", "labels"), ("after_crf", "labels_crf")):
        truth, predicted = [], []
        for name in names:
            label = np.array(Image.open(world.voc / f"SegmentationClass/{name}.png"))
            truth.append(label[label != 255])
            predicted.append(np.array(Image.open(whole / place / f"{name}.png"))[label != 255])
        t, p = np.concatenate(truth), np.concatenate(predicted)
        ious = [
            ((t == c) & (p == c)).sum() / ((t == c) | (p == c)).sum()
            for c in range(21)
            if ((t == c) | (p == c)).any()
        ]
        assert len(set(p)) > 3  # the net is not one that says the same everywhere
        assert found["parts"][part]["mean_iou"] == pytest.approx(np.mean(ious), rel=1e-12)
        assert found["parts"][part]["pixel_accuracy"] == pytest.approx((t == p).mean(), rel=1e-12)
    assert not list((whole / "scores").iterdir())  # each went when its CRF was through
    for page in ("report.html", "before_crf.html", "after_crf.html"):
        assert "Toy" in (whole / page).read_text()


@pytest.mark.slow
def test_three_processes(whole: Path, world: World, tmp_path: Path, warm: Warm) -> None:
    team = start(warm, world, tmp_path / "run", processes=3)
    assert [process.wait() for process in team] == [1, 1, 1]
    assert labels(tmp_path / "run") == labels(whole)
    assert report(tmp_path / "run") == report(whole)


@pytest.mark.slow
def test_killed_ten_times(whole: Path, world: World, tmp_path: Path, warm: Warm) -> None:
    folder = tmp_path / "run"
    moments = random.Random(5)
    killed = 0
    seen: dict[str, int] = {}
    while killed < 10:
        (process,) = start(warm, world, folder)
        before = len(list(folder.glob("labels*/*.png")))
        wanted = before + moments.randint(1, 2 * PICTURES // 12)
        while process.poll() is None and len(list(folder.glob("labels*/*.png"))) < wanted:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.05))  # the time of a few pictures
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        now = {name: (folder / name).stat().st_mtime_ns for name in labels(folder)}
        assert all(now[name] == then for name, then in seen.items())  # nothing is done twice
        seen = now
        if (folder / "report.json").exists():
            break
    assert killed >= 8
    assert start(warm, world, folder)[0].wait() == 1
    assert labels(folder) == labels(whole)
    assert report(folder) == report(whole)
    assert not list(folder.glob("*/.*"))


@pytest.mark.slow
def test_what_is_done_is_not_done_again(
    toy: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a picture killed between network and CRF goes on at the CRF."""
    ran: list[int] = []
    scores = Segmenter.scores

    def counted(self: Segmenter, pictures: Any) -> Any:
        ran.append(len(pictures))
        return scores(self, pictures)

    monkeypatch.setattr(Segmenter, "scores", counted)
    assert reproduce(toy, tmp_path, "--limit", 2, "--keep-scores") == 0
    assert sum(ran) == 2
    first = labels(tmp_path)
    refined = sorted(tmp_path.glob("labels_crf/*.png"))
    refined[0].unlink()
    (tmp_path / "labels" / refined[1].name).unlink()
    assert reproduce(toy, tmp_path, "--limit", 3) == 0
    assert sum(ran) == 3
    assert {name: labels(tmp_path)[name] for name in first} == first
    rows = report(tmp_path)["rows"]
    assert {row["reason"] for row in rows} == {"only 3 of 30 pictures were run"}


@pytest.mark.slow
def test_another_run_is_not_mixed_in(
    toy: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(toy, tmp_path, "--limit", 1) == 0
    assert reproduce(toy, tmp_path, "--limit", 1, "--no-crf") == 2
    assert "belongs to a run with another 'crf'" in capsys.readouterr().err
    assert reproduce(toy, tmp_path, "--limit", 1, name="toy/train2_iter_10") == 2
    assert "belongs to a run with another 'weights'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_results_of_something_else_are_not_taken_for_ours(
    toy: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The truth as a prediction would make 100 % of any model."""
    (tmp_path / "labels").mkdir()
    for label in (toy.voc / "SegmentationClass").iterdir():
        (tmp_path / "labels" / label.name).write_bytes(label.read_bytes())
    assert reproduce(toy, tmp_path, "--limit", 1, "--no-crf") == 2
    assert "holds results of something else" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists()


@pytest.mark.slow
def test_a_report_is_not_replaced_by_one_of_fewer_pictures(
    toy: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(toy, tmp_path, "--limit", 2, "--no-crf") == 0
    assert not (tmp_path / "labels_crf").exists()
    before = (tmp_path / "report.json").read_bytes()
    assert reproduce(toy, tmp_path, "--limit", 1, "--no-crf") == 2
    assert "is the report of 2 pictures" in capsys.readouterr().err
    assert (tmp_path / "report.json").read_bytes() == before


@pytest.mark.slow
def test_a_full_disk_ends_the_run_at_once(
    toy: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What is done stays; the network does not run on the other pictures for nothing."""
    written = []

    def full(path: Path, *_: object) -> None:
        written.append(path)
        with replacing(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reproduction_run, "write_scores", full)
    assert reproduce(toy, tmp_path) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert said.count("\n") == 1
    assert len(written) < 8
    monkeypatch.undo()


@pytest.mark.slow
def test_weights_that_saw_the_pictures(
    toy: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(toy, tmp_path, "--limit", 1, "--no-crf", name="toy/train2_iter_10") == 0
    assert "trained on trainval_aug and have seen val" in capsys.readouterr().err
    assert report(tmp_path)["rows"][0]["verdict"] == "no verdict"


@pytest.mark.slow
def test_a_damaged_picture(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It is named before anything is run, and so is a damaged label."""
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    voc = tmp_path / "VOC2012"
    names = (world.voc / "ImageSets/Segmentation/val.txt").read_text().split()[:3]
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (voc / folder).mkdir(parents=True)
        for name in names:
            content = (world.voc / folder / f"{name}.{ending}").read_bytes()
            (voc / folder / f"{name}.{ending}").write_bytes(content)
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    picture = voc / "JPEGImages" / f"{names[1]}.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    own = World(voc, world.variables)
    folder = tmp_path / "run"
    assert reproduce(own, folder) == 2
    said = capsys.readouterr().err
    assert f"{picture}: is no picture" in said
    assert "1 of the pictures and labels cannot be used" in said
    assert not folder.exists()
    picture.write_bytes(whole)
    assert reproduce(own, folder) == 1
    assert len(labels(folder)) == 6
    # One of our own that is damaged later: what to do is said, and the run makes it anew.
    first = labels(folder)
    (folder / "labels" / f"{names[0]}.png").write_bytes(b"garbage")
    assert reproduce(own, folder) == 2
    assert "delete it, and the run makes it anew" in capsys.readouterr().err
    (folder / "labels" / f"{names[0]}.png").unlink()
    assert reproduce(own, folder) == 1
    assert labels(folder) == first


def test_bad_input_is_one_line(
    toy: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, line in (
        (("reproduce", "toi", "--voc", toy.voc), "no released model is named 'toi'"),
        (("reproduce", "toy", "--voc", tmp_path), "is no PASCAL VOC"),
        (("reproduce", "toy", "--voc", toy.voc, "--split", "vla"), "has no list 'vla'"),
        (("reproduce", "toy/x", "--voc", toy.voc), "no weights of this name"),
    ):
        assert run(*words, "-o", tmp_path / "run") == 2
        said = capsys.readouterr().err
        assert line in said
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
