"""Flag files of the original's train.py."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from deeplab_repro.errors import InputError
from deeplab_repro.tensorflow.flags import Recipe, read_flags
from deeplab_repro.tensorflow.preprocessing import Augmentation, Resizing

#: As in local_test.sh of the original, and what stands for its TFRecords.
SCRIPT = """
# Xception-65 on VOC
  --model_variant="xception_65" \\
  --atrous_rates=6 \\
  --atrous_rates=12 \\
  --atrous_rates=18 \\
  --output_stride=16 \\
  --decoder_output_stride=4 \\
  --train_crop_size="321,385" \\
  --train_batch_size=4 \\
  --training_number_of_steps=10 \\
  --nofine_tune_batch_norm \\
  --last_layers_contain_logits_only
  --hard_example_mining_step=100
  --top_k_percent_pixels=0.25
  --base_learning_rate=7e-3
  --tf_initial_checkpoint='init/model.ckpt'
  --min_scale_factor=0.75
  --min_resize_value=513
  --train_list=train.txt
  --train_logdir=run
"""


def recipe(folder: Path, text: str, **changes: str) -> Recipe:
    (folder / "train.flags").write_text(text)
    return read_flags(folder / "train.flags", changes)


def test_a_script_of_the_original(tmp_path: Path) -> None:
    found = recipe(tmp_path, SCRIPT)
    network = found.network
    assert (network.model_variant, network.num_classes) == ("xception_65", 21)
    assert network.atrous_rates == (6, 12, 18)
    assert network.decoder_output_stride == (4,)
    assert network.crop_size == (321, 385)
    assert network.fine_tune_batch_norm is False
    training = found.training
    assert training.last_layers_contain_logits_only is True
    assert training.learning_rate.base_learning_rate == 0.007
    assert training.learning_rate.training_number_of_steps == 10
    assert training.loss.top_k_percent_pixels == 0.25
    assert training.weight_decay == 0.00004
    assert found.data.tf_initial_checkpoint == "init/model.ckpt"
    assert found.augmentation == Augmentation(min_scale_factor=0.75)
    assert found.resizing == Resizing(513)


SHORT = "--train_list=a.txt\n--train_logdir=run\n"


def test_defaults_are_those_of_the_original(tmp_path: Path) -> None:
    found = recipe(tmp_path, SHORT)
    assert found.network.model_variant == "mobilenet_v2"
    assert found.network.crop_size == (513, 513)
    assert found.data.train_batch_size == 8
    assert found.training.learning_rate.base_learning_rate == 0.0001
    assert found.augmentation == Augmentation(0.5, 2.0, 0.25)


def test_data_sets_have_classes_and_a_void_label(tmp_path: Path) -> None:
    for name, classes, void in (("cityscapes", 19, 255), ("ade20k", 151, 0)):
        found = recipe(tmp_path, SHORT, dataset=name)
        assert (found.network.num_classes, found.training.loss.ignore_label) == (classes, void)
    found = recipe(tmp_path, SHORT, num_classes="7", ignore_label="3")
    assert (found.network.num_classes, found.training.loss.ignore_label) == (7, 3)


def test_changes_and_lists(tmp_path: Path) -> None:
    text = SHORT + "--atrous_rates=6\n--atrous_rates=12\n--image_pyramid=0.5\n--image_pyramid=1\n"
    found = recipe(tmp_path, text, atrous_rates="12,24", label_weights="0.5, 2")
    assert found.network.atrous_rates == (12, 24)
    assert found.network.image_pyramid == (0.5, 1.0)
    assert found.training.loss.label_weights == (0.5, 2.0)
    assert recipe(tmp_path, SHORT, label_weights="0.5").training.loss.label_weights == 0.5


def test_a_dense_prediction_cell(tmp_path: Path) -> None:
    cell = [{"kernel": 3, "rate": [1, 6], "op": "conv", "input": -1}]
    (tmp_path / "cell.json").write_text(json.dumps(cell))
    found = recipe(tmp_path, SHORT, dense_prediction_cell_json=str(tmp_path / "cell.json"))
    assert found.network.dense_prediction_cell_config is not None
    assert found.network.dense_prediction_cell_config[0]["rate"] == [1, 6]


@pytest.mark.parametrize("flag", ["num_clones=4", "noclone_on_cpu"])
def test_flags_of_machines_have_no_effect(tmp_path: Path, flag: str) -> None:
    name = flag.partition("=")[0]
    with pytest.warns(UserWarning, match=rf"train.flags: flag {name} has no effect here"):
        recipe(tmp_path, f"{SHORT}--{flag}\n")


def test_flags_about_logging_are_read_over(tmp_path: Path) -> None:
    flags = ("logtostderr", "noalsologtostderr", "stderrthreshold=info", "verbosity=1", "v=0")
    text = SHORT + "".join(f"--{flag}\n" for flag in (*flags, "log_dir=logs"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recipe(tmp_path, text).data.train_list == "a.txt"


def test_a_cell_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"cell\.json: is no JSON"):
        recipe(tmp_path, SHORT, dense_prediction_cell_json=str(tmp_path / "cell.json"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("--momentun=0.9", "flag momentun; expected a flag of train.py"),
        ("--momentum=much", "flag momentum; expected a number, got much"),
        ("--output_stride=16.5", "flag output_stride; expected a whole number, got 16.5"),
        ("--upsample_logits=maybe", "flag upsample_logits; expected true or false, got maybe"),
        ("--momentum", "flag momentum; expected a number, got nothing"),
        ("momentum=0.9", "line 3; expected --FLAG=VALUE, got momentum=0.9"),
        ("--dataset=coco", "flag dataset; expected pascal_voc_seg or cityscapes or ade20k, got"),
        ("--dataset_dir=tfrecord", "flag dataset_dir; expected train_list and root_folder"),
        ("--train_crop_size=513", "flag train_crop_size; expected HEIGHT,WIDTH, got [513]"),
        ("--train_batch_size=0", "flag train_batch_size; expected 1 or more, got 0"),
        ("--output_stride=5", "option output_stride of mobilenet_v2; expected one of"),
        ("--noupsample_logits=false", "flag noupsample_logits; expected no value, or --upsample"),
        ("--train_logdir=", "train.flags"),
    ],
)
def test_flags_that_cannot_be_used(tmp_path: Path, text: str, line: str) -> None:
    if text == "--train_logdir=":
        with pytest.raises(InputError, match=r"train\.flags: lacks the flag train_list"):
            recipe(tmp_path, "--train_logdir=run")
        return
    with pytest.raises(InputError) as error:
        recipe(tmp_path, SHORT + text)
    assert line in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "train.flags"))


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("--noupsample_logits", {}, False),
        ("--upsample_logits", {}, True),
        ("--noupsample_logits\n--upsample_logits", {}, True),
        ("--upsample_logits\n--noupsample_logits", {}, False),
        ("--noupsample_logits", {"upsample_logits": "true"}, True),
        ("--upsample_logits", {"noupsample_logits": ""}, False),
    ],
)
def test_both_spellings_of_a_switch(
    tmp_path: Path, text: str, changes: dict[str, str], expected: bool
) -> None:
    """The later one holds, and a change before both."""
    assert recipe(tmp_path, SHORT + text, **changes).training.loss.upsample_logits is expected


def test_values_of_every_kind_survive(tmp_path: Path) -> None:
    """Each flag of the dataclasses can be set by text."""
    changes: dict[str, Any] = {
        "learning_policy": "multi_steps",
        "boundaries": "10,20",
        "boundary_learning_rates": "0.1,0.01,0.001",
        "optimizer": "adam",
        "keep_aspect_ratio": "false",
        "min_resize_value": "65",
        "decoder_output_stride": "8,4",
        "image_pooling_crop_size": "65,65",
    }
    found = recipe(tmp_path, SHORT, **changes)
    assert found.training.learning_rate.boundaries == (10, 20)
    assert found.training.learning_rate.boundary_learning_rates == (0.1, 0.01, 0.001)
    assert found.training.optimizer == "adam"
    assert found.resizing == Resizing(65, keep_aspect_ratio=False)
    assert found.network.decoder_output_stride == (8, 4)
