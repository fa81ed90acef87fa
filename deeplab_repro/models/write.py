"""A network of the catalogue as prototxt, and how it was trained."""

from __future__ import annotations

from collections.abc import Sequence

from deeplab_repro.models.architectures import expand
from deeplab_repro.models.catalogue import FORMATS, PHASES, check_whole, check_width, find
from deeplab_repro.models.graph import Settings, net_message
from deeplab_repro.models.prototxt import Enum, Value, to_text

#: The lists of pictures that the two stages of training read.
TRAIN_SETS = ("train_aug", "trainval_aug")
_MAX_VALUES = 2**31 - 1  # of one blob in Caffe (blob.cpp, Reshape)


def write_network(
    name: str,
    phase: str = "DEPLOY",
    format: str = "v2",
    num_labels: int = 21,
    width: int = 1,
    input_size: int | tuple[int, int] | None = None,
    batch: int | None = None,
    output_stride: int | None = None,
    **placeholders: str,
) -> str:
    """A network of `NETWORKS` as prototxt text.

    Args:
        name: Its name or full name.
        phase: TRAIN and TEST read pictures by an ImageSegData layer; DEPLOY is the test graph from
            an input blob `data` to the full-size scores.
        format: "v1" (`layers {}`, the DeepLab v1 fork) or "v2" (`layer {}`, the v2 fork).
        num_labels: Channels of the scores.
        width: Divides the published channel counts: a small net of the same shape.
        input_size: Height and width, or one number for both; the published size by default.
        batch: Pictures per pass; the published number in TRAIN and 1 otherwise by default.
        output_stride: Pixels of the input for a row or column of scores; 8 as published by default.
            At another one the rates are such that the field of view stays.
        **placeholders: What the released files call ${EXP}, ${DATA_ROOT}, ${TRAIN_SET}, ${TEST_SET}
            and ${FEATURE_DIR}, in small letters: exp="voc12", data_root="VOC2012", ...

    Where the released files name no filler there is none here, and Caffe's default holds: constant
    0.  So a network starts from weights: without any, ResNet-101's scores are all zero.

    >>> print(write_network("largefov", width=8, input_size=97)[:61])
    name: "DeepLab-LargeFOV"
    input: "data"
    input_shape {
      dim: 1

    Raises:
        ValueError: One of the arguments is none of those, or they do not fit each other.
    """
    network = find(name)
    architecture = network.architecture
    _check_choice("phase", phase, PHASES)
    _check_choice("format", format, FORMATS)
    check_whole("num_labels", num_labels)
    if output_stride is not None:
        check_whole("output_stride", output_stride)
    check_width(width)
    training = phase == "TRAIN"
    if batch is None:
        batch = network.batch if training else 1
    check_whole("batch", batch)
    if input_size is None:
        input_size = network.train_size if training else network.test_size
    if isinstance(input_size, int):
        input_size = (input_size, input_size)
    settings = Settings(phase, format, input_size, batch, **placeholders)
    expansion = expand(
        architecture,
        num_classes=num_labels,
        training=training,
        output_stride=output_stride,
        width=width,
        exp=settings.exp,
    )
    step, rest = architecture.input_rule(output_stride)
    for side in input_size:
        if side < step + rest or side % step != rest:
            raise ValueError(
                f"input_size {input_size[0]}x{input_size[1]}: {name} takes "
                f"{architecture.rule_for(side, output_stride)}"
            )
    if 3 * batch * input_size[0] * input_size[1] > _MAX_VALUES:
        raise ValueError(
            f"batch {batch} of {input_size[0]}x{input_size[1]}: the blobs of Caffe hold at most "
            f"{_MAX_VALUES:,} values"
        )
    return to_text(
        net_message(network.title, architecture.stem, expansion, network.random_scales, settings)
    )


def write_solver(
    name: str,
    stage: int = 1,
    train_net: str | None = None,
    snapshot_prefix: str | None = None,
    exp: str = "voc12",
    net_id: str | None = None,
    train_set: str | None = None,
) -> str:
    """How a network of `NETWORKS` was trained, as solver prototxt text.

    Args:
        name: Its name or full name.
        stage: 1 is the training on train_aug; 2 goes on from there on trainval_aug.
        train_net: The file of the TRAIN phase; the released files' name by default,
            ${EXP}/config/${NET_ID}/train_${TRAIN_SET}.prototxt.
        snapshot_prefix: The start of the names of snapshots; the released files' by default,
            ${EXP}/model/${NET_ID}/train, or train2 in the second stage.
        exp, net_id, train_set: What the released files call ${EXP}, ${NET_ID} and ${TRAIN_SET}; the
            second is the name in the releases, or the full name, by default.

    >>> print(write_solver("aspp-l", train_net="train.prototxt")[:64])
    train_net: "train.prototxt"
    lr_policy: "poly"
    power: 0.9
    base_lr

    Raises:
        ValueError: There is no such network or stage.
    """
    network = find(name)
    if stage not in (1, 2):
        raise ValueError(f"stage: expected 1 or 2, got {stage}")
    schedule = network.schedules[stage - 1]
    net_id = net_id or network.released or network.full_name
    train_set = train_set or TRAIN_SETS[stage - 1]
    message: dict[str, Value] = {
        "train_net": train_net or f"{exp}/config/{net_id}/train_{train_set}.prototxt"
    }
    if schedule.iter_size > 1:
        message["iter_size"] = schedule.iter_size
    message["lr_policy"] = schedule.policy
    if schedule.policy == "step":
        message.update(gamma=0.1, stepsize=schedule.stepsize)
    else:
        message["power"] = 0.9
    message["base_lr"] = schedule.base_lr
    if schedule.average_loss > 1:
        message["average_loss"] = schedule.average_loss
    message.update(
        display=schedule.display,
        max_iter=schedule.max_iter,
        momentum=0.9,
        weight_decay=0.0005,
        snapshot=schedule.snapshot,
        snapshot_prefix=snapshot_prefix or f"{exp}/model/{net_id}/train{'2' * (stage == 2)}",
        solver_mode=Enum("GPU"),
    )
    return to_text(message)


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{what}: expected one of {', '.join(choices)}; got {value!r}")
