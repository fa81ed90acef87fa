"""``deeplab-repro train --flagfile``: pictures in, checkpoints out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deeplab_repro import tensorflow
from deeplab_repro.cli import main
from deeplab_repro.errors import InputError
from deeplab_repro.tensorflow.flags import read_flags
from deeplab_repro.train.feeds.crops import CropFeed
from deeplab_repro.train.trainer import Trainer
from tensorflow_import import read_variables

FLAGS = """
--model_variant="mobilenet_v2"
--depth_multiplier=0.1
--train_crop_size="33,33"
--train_batch_size=2
--base_learning_rate=0.01
--training_number_of_steps=4
--train_list=train.txt
--root_folder=pictures
--train_logdir=run
--save_interval_steps=2
--log_steps=1
--seed=5
"""
OPTIONS = {"model_variant": "mobilenet_v2", "depth_multiplier": 0.1}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    Path("pictures").mkdir()
    lines = []
    for i in range(3):
        picture = random.integers(0, 256, (40, 30 + i, 3), np.uint8)
        label = random.integers(0, 21, (40, 30 + i), np.uint8)
        cv2.imwrite(f"pictures/p{i}.png", picture)
        cv2.imwrite(f"pictures/l{i}.png", label)
        lines.append(f"/p{i}.png /l{i}.png\n")
    Path("train.txt").write_text("".join(lines))
    Path("train.flags").write_text(FLAGS)


def train(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--flagfile", "train.flags", "--workers", "0", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_training_and_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--log", "log") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("iteration 1, loss ")
    assert lines[-2] == "snapshot: run/model.ckpt-4"
    assert lines[-1].startswith("done: 4 iterations, loss ")
    assert Path("log/log.jsonl").read_text().count('"weight_decay"') == 4
    net = tensorflow.load(read_flags("train.flags").network, "run")
    assert net(torch.zeros(1, 3, 33, 33)).shape == (1, 21, 33, 33)
    assert train() == 2
    assert "a training lies there already; expected another folder, or --resume" in (
        capsys.readouterr().err
    )


def test_a_training_that_goes_on_ends_as_one_that_did_not_stop(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train() == 0
    whole = read_variables("run")
    # The checkpoint of step 2, in a folder that names no other.
    assert train("--set", "train_logdir=again", "--snapshot", "run/model.ckpt-2") == 0
    assert "going on from run/model.ckpt-2, iteration 2" in capsys.readouterr().out
    again = read_variables("again")
    assert whole.keys() == again.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    assert train("--resume") == 0
    assert "going on from run/model.ckpt-4, iteration 4" in capsys.readouterr().out


def test_resume_takes_the_newest_whole_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a solver: a warning tells of each that is left out."""
    assert train() == 0
    data = "run/model.ckpt-{}.data-00000-of-00001"
    Path(data.format(4)).write_bytes(Path(data.format(4)).read_bytes()[:-9])
    capsys.readouterr()
    assert train("--resume") == 0
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"deeplab-repro: warning: {data.format(4)}: ")
    assert line.endswith(": this snapshot is left out")
    assert printed.out.startswith("going on from run/model.ckpt-2, iteration 2\n")
    # The list of checkpoints is damaged, and the newest one is not all there.
    Path("run/checkpoint").write_text("{")
    Path(data.format(4)).unlink()
    assert train("--resume") == 0
    printed = capsys.readouterr()
    assert [line.split(": ")[2] for line in printed.err.splitlines()] == [
        "run/checkpoint", data.format(4),
    ]  # fmt: skip
    assert printed.out.startswith("going on from run/model.ckpt-2, iteration 2\n")
    for step in (2, 4):
        Path(f"run/model.ckpt-{step}.index").write_bytes(b"no index")
    assert train("--resume") == 0
    printed = capsys.readouterr()
    assert printed.err.count("left out") == 2
    assert printed.out.startswith("iteration 1, ")


#: Without what looks at a batch as a whole, or draws: normalization, dropout, void at the border.
OF_PARTS = """
--nofine_tune_batch_norm
--noaspp_with_batch_norm
--noadd_image_level_feature
--min_scale_factor=2
--max_scale_factor=2
"""


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    """With equal parts of a batch; and a resumed training is the one that was not."""
    Path("train.flags").write_text(FLAGS + OF_PARTS)
    assert train() == 0

    def team(*arguments: str) -> tuple[str, str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", "-m", "deeplab_repro", "train", "--workers", "0"]
        command += ["--flagfile", "train.flags", "--set", "train_logdir=team", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    team()
    one, two = read_variables("run"), read_variables("team")
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], rtol=1e-4, atol=1e-6, err_msg=name)
    data = Path("team/model.ckpt-4.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-9])
    out, errors = team("--resume")
    assert errors.count("left out") == 1
    assert "going on from team/model.ckpt-2, iteration 2" in out
    again = read_variables("team")
    for name, array in two.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)


def test_a_training_that_was_stopped_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Trainer._iterate

    def watched(trainer: Trainer) -> None:
        iterate(trainer)
        if trainer.iter == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_iterate", watched)
    assert train() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "snapshot: run/model.ckpt-3",
        "stopped after iteration 3; --resume goes on from there",
    ]
    assert train("--resume") == 0
    assert "going on from run/model.ckpt-3, iteration 3" in capsys.readouterr().out


def test_a_start_from_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--set", "training_number_of_steps=1") == 0
    capsys.readouterr()
    options = ("--set", "train_logdir=next", "--set", "num_classes=3")
    assert train("--weights", "run", *options) == 2
    assert "variable logits/semantic/" in capsys.readouterr().err
    Path("next/x").parent.mkdir(exist_ok=True)
    changes = ("--set", "initialize_last_layer=false", "--set", "ignore_label=20")
    assert train("--weights", "run", "--set", "train_logdir=next", *changes) == 0
    assert "variables loaded" in capsys.readouterr().out.splitlines()[0]
    # Its optimizer's memory is taken too, and not left over.
    assert train("--weights", "run", "--set", "train_logdir=third") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "272 variables loaded, 164 slots (MobilenetV2/Conv/" in line
    assert line.endswith(", 1 left over (global_step)")


def test_the_flag_file_says_which_network_a_checkpoint_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No variable tells the output stride; pictures need not be of the crop of the training."""
    with Path("train.flags").open("a") as file:
        file.write("--output_stride=8\n")
    assert train("--set", "training_number_of_steps=1") == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("segment", "pictures/p0.png", "--model", "run", "--options", "train.flags"),
                *("-o", "out", "--save-scores", ".npy"),
            ]
        )
    assert (ended.value.code, capsys.readouterr().err) == (0, "")
    net = tensorflow.load({**OPTIONS, "output_stride": 8}, "run")
    rgb = cv2.imread("pictures/p0.png")[:, :, ::-1].transpose(2, 0, 1)
    with torch.inference_mode():
        expected = net(torch.from_numpy(rgb.astype(np.float32))[None])[0].numpy()
    np.testing.assert_allclose(np.load("out/scores/p0.npy"), expected, rtol=0, atol=1e-4)


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    def line(*arguments: str) -> str:
        assert train(*arguments) == 2
        (found,) = capsys.readouterr().err.splitlines()
        return found

    assert "either --solver or --flagfile" in line("--solver", "solver.prototxt")
    assert "expected --solver, not --flagfile" in line("--no-quirks")
    assert "train.flags: flag momentum; expected a number, got x" in line("--set", "momentum=x")
    assert "root_folder; did you mean atrous_rates?" in line("--set", "atrous_rate=6")
    assert "flags: the network of these options has too many bytes" in line(
        *("--set", "num_classes=2000000000", "--set", "train_logdir=nowhere")
    )
    assert not Path("nowhere").exists()
    assert "train.txt names it" in line("--set", "root_folder=elsewhere")
    assert "none.ckpt" in line("--weights", "none.ckpt")
    Path("train.txt").write_text("/p0.png\n")
    assert "expected PICTURE LABEL, got /p0.png" in line()


# ---------------------------------------------------------------------------------- the batches


def test_batches_are_functions_of_their_number() -> None:
    recipe = read_flags("train.flags")
    with CropFeed(recipe, seed=5) as feed:
        batches = [feed.next() for _ in range(4)]
        feed.seek(2)
        again = feed.next()
    assert batches[0]["data"].shape == (2, 3, 33, 33)
    assert batches[0]["label"].shape == (2, 1, 33, 33)
    for key in ("data", "label"):
        assert torch.equal(again[key], batches[2][key])
        assert not torch.equal(batches[0][key], batches[1][key])


def test_processes_share_each_batch() -> None:
    recipe = read_flags("train.flags", {"train_batch_size": "4"})
    with CropFeed(recipe, seed=5) as feed:
        whole = [feed.next()["data"] for _ in range(2)]
    parts = []
    for rank in range(2):
        with CropFeed(recipe, seed=5, rank=rank, count=2) as feed:
            parts.append([feed.next()["data"] for _ in range(2)])
    for step in range(2):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole[step])
    with pytest.raises(InputError, match="a multiple of the 3 processes, got 4"):
        CropFeed(recipe, seed=5, count=3)


def test_pictures_are_red_green_blue() -> None:
    cv2.imwrite("pictures/p0.png", np.full((40, 40, 3), (10, 20, 30), np.uint8))  # blue first
    cv2.imwrite("pictures/l0.png", np.full((40, 40), 7, np.uint8))
    Path("train.txt").write_text("/p0.png /l0.png\n")
    with CropFeed(read_flags("train.flags", {"min_scale_factor": "1"}), seed=0) as feed:
        batch = feed.next()
    assert batch["data"][0, :, 5, 5].tolist() == [30, 20, 10]
    assert batch["label"].unique().tolist() == [7]


def test_a_picture_that_cannot_be_read_is_named() -> None:
    Path("pictures/p1.png").write_bytes(b"nothing")
    Path("train.txt").write_text("/p0.png /l0.png\n/p1.png /l1.png\n")
    with (
        CropFeed(read_flags("train.flags"), seed=0) as feed,
        pytest.raises(InputError, match=r"pictures/p1\.png.*line 2 of train\.txt"),
    ):
        feed.next()
