"""The solver prototxts: every row of the table of published training settings, as literals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from deeplab_repro.models import NETWORKS, write_network, write_solver
from prototxt_import import read_net
from prototxt_import.schema import DIALECTS, message_class

#: network -> policy, base_lr, step or power, max_iter, pictures a pass, passes an iteration,
#: average_loss, and of the second stage: base_lr, step or power, max_iter.
TABLE: dict[str, tuple[Any, ...]] = {
    "plain": ("step", 0.001, 2000, 6000, 20, 1, 1, 0.01, 3000, 12000),
    "msc": ("step", 0.001, 2000, 6000, 20, 1, 1, 0.001, 2000, 8000),
    "coco": ("step", 0.001, 2000, 6000, 20, 1, 1, 0.001, 2000, 8000),
    "4x4": ("step", 0.001, 2000, 6000, 20, 1, 1, 0.001, 2000, 8000),
    "7x7": ("step", 0.001, 2000, 6000, 20, 1, 1, 0.001, 2000, 8000),
    "largefov": ("step", 0.001, 2000, 6000, 30, 1, 1, 0.001, 2000, 8000),
    "coco-largefov": ("step", 0.001, 2000, 6000, 30, 1, 1, 0.001, 2000, 8000),
    "msc-largefov": ("step", 0.001, 2000, 6000, 30, 1, 10, 0.001, 2000, 8000),
    "msc-coco-largefov": ("step", 0.001, 2000, 6000, 30, 1, 10, 0.001, 2000, 8000),
    "aspp-s": ("poly", 0.001, 0.9, 20000, 10, 1, 20, 0.001, 0.9, 20000),
    "aspp-l": ("poly", 0.001, 0.9, 20000, 10, 1, 20, 0.001, 0.9, 20000),
    **dict.fromkeys(
        (
            "resnet101",
            "resnet101-largefov",
            "resnet101-aspp",
            "resnet101-msc",
            "resnet101-msc-largefov",
            "resnet101-msc-aspp",
        ),
        ("poly", 0.00025, 0.9, 20000, 1, 10, 20, 0.00025, 0.9, 20000),
    ),
}
FORKS = {"step": DIALECTS, "poly": ("bvlc", "dl2")}  # the v1 fork has no iter_size


def read(text: str, dialect: str) -> Any:
    """The solver as one of the programs reads it, which refuses fields that it does not have."""
    message: Any = message_class(dialect, "SolverParameter")()
    text_format.Parse(text, message)
    return message


def test_the_table_has_every_network() -> None:
    assert list(TABLE) == list(NETWORKS)


@pytest.mark.parametrize("name", TABLE)
def test_every_row(name: str) -> None:
    policy, base_lr, number, max_iter, batch, iter_size, average, *second = TABLE[name]
    assert NETWORKS[name].batch == batch
    for stage, (lr, step_or_power, iterations) in enumerate(
        ((base_lr, number, max_iter), second), 1
    ):
        text = write_solver(name, stage)
        for dialect in FORKS[policy]:
            solver = read(text, dialect)
            assert solver.lr_policy == policy
            assert solver.base_lr == pytest.approx(lr, rel=1e-7)
            assert solver.max_iter == iterations
            assert solver.average_loss == average
            assert (solver.momentum, solver.weight_decay) == pytest.approx((0.9, 0.0005))
            if policy == "step":
                assert solver.stepsize == step_or_power
                assert solver.gamma == pytest.approx(0.1)
                assert (solver.display, solver.snapshot) == (10, 2000)
            else:
                assert solver.power == pytest.approx(step_or_power)
                assert solver.iter_size == iter_size
                assert (solver.display, solver.snapshot) == (20, 10000)
            assert text_format.MessageToString(solver).count("\n") == text.count("\n")


def test_a_whole_text() -> None:
    assert write_solver("resnet101-msc-aspp", stage=2).splitlines() == [
        'train_net: "voc12/config/DeepLabv2_ResNet101/train_trainval_aug.prototxt"',
        "iter_size: 10",
        'lr_policy: "poly"',
        "power: 0.9",
        "base_lr: 0.00025",
        "average_loss: 20",
        "display: 20",
        "max_iter: 20000",
        "momentum: 0.9",
        "weight_decay: 0.0005",
        "snapshot: 10000",
        'snapshot_prefix: "voc12/model/DeepLabv2_ResNet101/train2"',
        "solver_mode: GPU",
    ]
    with pytest.raises(ValueError, match="stage: expected 1 or 2, got 3"):
        write_solver("plain", stage=3)


def test_both_files_into_a_folder(run: Any, tmp_path: Path) -> None:
    """What is written names each other and reads the lists of its stage."""
    folder = tmp_path / "new" / "run"
    arguments = ("networks", "write", "largefov", "--train", "--solver", "--width", 16)
    for format_ in ("v1", "v2"):
        assert run(*arguments, "--format", format_, "-o", folder)[0] == 0
        net = read_net(folder / "train.prototxt", "TRAIN")
        assert net.dialect == {"v1": "dl1", "v2": "dl2"}[format_]
        source = net.data_layers[0].spec.image_data_param.source
        assert source == "voc12/list/train_aug.txt"
    code, out, _ = run(*arguments, "--stage", 2, "-o", folder, "--set", "EXP=mine")
    assert (code, out.count("written: ")) == (0, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "solver.prototxt",
        "solver2.prototxt",
        "train.prototxt",
        "train2.prototxt",
    ]
    solver = read((folder / "solver2.prototxt").read_text(), "dl2")
    assert solver.train_net == f"{folder}/train2.prototxt"
    assert solver.snapshot_prefix == f"{folder}/train2"
    assert solver.max_iter == 8000
    second = read_net(folder / "train2.prototxt", "TRAIN").data_layers[0]
    assert second.spec.image_data_param.source == "mine/list/trainval_aug.txt"


def test_each_alone(run: Any) -> None:
    arguments = ("networks", "write", "aspp-l", "--solver", "--set")
    code, out, _ = run(*arguments, "NET_ID=mine", "--set", "TRAIN_SET=t")
    assert (code, out) == (0, write_solver("aspp-l", net_id="mine", train_set="t"))
    code, out, _ = run("networks", "write", "largefov", "--train", "--stage", 2, "--width", 64)
    expected = write_network("largefov", "TRAIN", width=64, train_set="trainval_aug")
    assert (code, out) == (0, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "--solver"], "--train --solver writes two files; expected -o FOLDER"),
        (["--stage", 2], "--stage 2; expected --train or --solver beside it"),
        (["--stage", 3], "3 is not in the range 1<=x<=2"),
        (["--train", "--phase", "TEST"], "--train; expected no --phase beside it, or TRAIN"),
        (["--solver", "--phase", "TEST"], "--solver; expected no --phase beside it, or TRAIN"),
        (["--train", "--set", "NET_ID=x"], "--set; expected NAME=VALUE with NAME one of EXP,"),
    ],
)
def test_bad_options(run: Any, arguments: list[object], message: str) -> None:
    code, out, err = run("networks", "write", "largefov", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_file_in_place_of_the_folder(run: Any, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    code, _, err = run("networks", "write", "plain", "--train", "--solver", "-o", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tmp_path}/run: File exists" in err
    assert (tmp_path / "run").read_text() == "mine"
