"""The flags of the original's train.py as a file: everything that a training is made of.

A flag file is what the original's programs take as ``--flagfile``: one flag on each line.  Lines of
a shell script may be pasted as they are, quotes and all.

    --model_variant="xception_65" \\
    --atrous_rates=6
    --atrous_rates=12
    --atrous_rates=18
    --decoder_output_stride=4
    --train_crop_size="513,513"
    --nofine_tune_batch_norm
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from deeplab_repro.errors import InputError
from deeplab_repro.models.catalogue import hint
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.tensorflow.loss import LossOptions
from deeplab_repro.tensorflow.preprocessing import Augmentation, Resizing
from deeplab_repro.tensorflow.schedule import LearningRate
from deeplab_repro.tensorflow.training import TrainingOptions
from prototxt_import.files import read_text

__all__ = ["Data", "Recipe", "read_flags"]

_Part = TypeVar("_Part")

#: Classes and void label of the original's data sets.
_DATA_SETS: Final = {
    "pascal_voc_seg": (21, 255),
    "cityscapes": (19, 255),
    "ade20k": (151, 0),
}
#: Flags of train.py about machines and summaries, which change nothing that is computed.
_WITHOUT_EFFECT: Final = frozenset(
    {
        *("num_clones", "clone_on_cpu", "num_replicas", "startup_delay_steps", "num_ps_tasks"),
        *("master", "task", "save_interval_secs", "save_summaries_secs", "profile_logdir"),
        *("save_summaries_images", "drop_path_keep_prob"),
    }
)
#: Flags of absl, which every program of the original has, about what it logs.
_OF_LOGGING: Final = frozenset(
    {"alsologtostderr", "log_dir", "logtostderr", "stderrthreshold", "v", "verbosity"}
)
#: Flags of train.py for what is not done here -> what does it.
_INSTEAD: Final = {
    "dataset_dir": "train_list and root_folder, for pictures and label pictures, not TFRecords",
    "train_split": "train_list, a file of lines PICTURE LABEL",
    "quantize_delay_step": "training without quantization",
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a training reads and writes.

    Attributes:
        train_list: a file of lines PICTURE LABEL.
        root_folder: put before every name in it.
        dataset: ``"pascal_voc_seg"``, ``"cityscapes"`` or ``"ade20k"``, for the number of classes
            and the label that is ignored.
        train_crop_size: height and width of what the network is given.
        train_batch_size: pictures of each step, of all processes together.
        tf_initial_checkpoint: what the training starts from.
        train_logdir: folder for checkpoints.
        log_steps: how often the loss is told, in steps.
        save_interval_steps: how often to write a checkpoint, in steps; 0 for the end alone.
        seed: of all random numbers; None for a different one in every run.
    """

    train_list: str
    root_folder: str = ""
    dataset: str = "pascal_voc_seg"
    train_crop_size: tuple[int, ...] = (513, 513)
    train_batch_size: int = 8
    tf_initial_checkpoint: str | None = None
    train_logdir: str
    log_steps: int = 10
    save_interval_steps: int = 1000
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.dataset not in _DATA_SETS:
            raise InputError("flag dataset", expected=" or ".join(_DATA_SETS), got=self.dataset)
        if len(self.train_crop_size) != 2 or min(self.train_crop_size) < 1:
            raise InputError(
                "flag train_crop_size", expected="HEIGHT,WIDTH", got=list(self.train_crop_size)
            )
        for name, least in (("train_batch_size", 1), ("log_steps", 0), ("save_interval_steps", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"flag {name}", expected=f"{least} or more", got=getattr(self, name)
                )


@dataclass(frozen=True)
class Recipe:
    """A training, as its flags describe it.

    Attributes:
        file: the flag file.
        network: what is trained.
        training: how.
        data: on what.
        resizing: what is done to pictures first.
        augmentation: how they are varied.
    """

    file: str
    network: ModelOptions
    training: TrainingOptions
    data: Data
    resizing: Resizing = field(default_factory=Resizing)
    augmentation: Augmentation = field(default_factory=Augmentation)


_OF_TRAINING: Final = (LearningRate, LossOptions, TrainingOptions)
#: Whose fields the flags are.
_KINDS: Final = (Data, ModelOptions, *_OF_TRAINING, Resizing, Augmentation)
#: Flags that are on or off, which "no" before the name turns off.
_SWITCHES: Final = frozenset(
    name for kind in _KINDS for name, hint in get_type_hints(kind).items() if hint is bool
)


def read_flags(path: str | os.PathLike[str], changes: Mapping[str, str] | None = None) -> Recipe:
    """Read a flag file.

    Args:
        path: the file.
        changes: flags that take the place of those in it, as text.

    Raises:
        BadInput: no such file, or an unknown flag or value; one line says which.
    """
    texts = _flags_of(read_text(path), path)
    try:
        for pair in (changes or {}).items():
            name, value = _switched(*pair)
            texts[name] = [value]
        return _recipe(texts, os.fspath(path))
    except InputError as error:
        raise error.with_file(path) from None


def _flags_of(text: str, path: object) -> dict[str, list[str]]:
    """Flag -> its values, in the order of their lines; ``--noX`` is a value of X."""
    found: dict[str, list[str]] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip().removesuffix("\\").strip()
        if not line or line.startswith(("#", "//")):
            continue
        name, is_set, value = line.removeprefix("--").removeprefix("-").partition("=")
        if not line.startswith("-") or not name.isidentifier():
            raise InputError(f"line {number}", file=path, expected="--FLAG=VALUE", got=line)
        try:
            name, value = _switched(name, value.strip("\"'") if is_set else "")
        except InputError as error:
            raise error.with_file(path) from None
        found.setdefault(name, []).append(value)
    return found


def _switched(name: str, value: str) -> tuple[str, str]:
    """A flag and its value, where "no" before the name of a switch makes it false."""
    switch = name.removeprefix("no")
    if switch == name or switch not in _SWITCHES:
        return name, value
    if value.lower() not in ("", "true", "1"):
        raise InputError(f"flag {name}", expected=f"no value, or --{switch}=VALUE", got=value)
    return switch, "false"


def _recipe(texts: dict[str, list[str]], file: str) -> Recipe:
    for name in sorted(texts):
        plain = name.removeprefix("no")
        if plain in _WITHOUT_EFFECT | _OF_LOGGING:
            del texts[name]
        if plain in _WITHOUT_EFFECT:
            warnings.warn(f"{file}: flag {name} has no effect here", stacklevel=3)
    for name, instead in _INSTEAD.items():
        if name in texts:
            raise InputError(f"flag {name}", expected=instead)
    cell = texts.pop("dense_prediction_cell_json", [""])[-1]
    data, network = _texts(Data, texts), _texts(ModelOptions, texts)
    parts = {kind: _texts(kind, texts) for kind in _OF_TRAINING}
    resizing, augmentation = _texts(Resizing, texts), _texts(Augmentation, texts)
    if texts:
        unknown = next(iter(texts))
        known = [own.name for kind in _KINDS for own in fields(kind)]
        raise InputError(
            f"flag {unknown}",
            expected=f"a flag of train.py, or train_list, root_folder{hint(unknown, known)}",
        )
    for name in ("train_list", "train_logdir"):
        if name not in data:
            raise InputError(f"lacks the flag {name}")
    read = Data(**data)
    classes, ignored = _DATA_SETS[read.dataset]
    if cell:
        network["dense_prediction_cell_config"] = _cell(cell)
    flags = {name: value for part in parts.values() for name, value in part.items()}
    return Recipe(
        file,
        ModelOptions.from_case(
            {"num_classes": classes, **network, "crop_size": list(read.train_crop_size)}
        ),
        TrainingOptions.from_flags({"ignore_label": ignored, **flags}),
        read,
        Resizing(**resizing),
        Augmentation(**augmentation),
    )


def _texts(kind: type[_Part], texts: dict[str, list[str]]) -> dict[str, Any]:
    """What a part of the recipe takes of the flags, as its own types."""
    hints = get_type_hints(kind)
    found = {}
    for own in fields(kind):  # type: ignore[arg-type]
        if own.name in texts:
            found[own.name] = _typed(own.name, texts.pop(own.name), hints[own.name])
    return found


def _typed(name: str, values: list[str], hint: Any) -> Any:
    """A flag's values as the type that its field has."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    several = next((kind for kind in kinds if get_origin(kind) is tuple), None)
    plain = next((kind for kind in kinds if kind in (bool, int, float, str)), None)
    if several is not None:
        words = [word.strip() for value in values for word in value.split(",") if word.strip()]
        if plain is None or len(words) > 1:
            return [_one(name, word, get_args(several)[0]) for word in words]
    return _one(name, values[-1], plain)


def _one(name: str, word: str, kind: Any) -> Any:
    if kind is str:
        return word
    if kind is bool:
        known = {"true": True, "1": True, "": True, "false": False, "0": False}
        if word.lower() in known:
            return known[word.lower()]
    else:
        try:
            return kind(word)
        except ValueError:
            pass
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    raise InputError(f"flag {name}", expected=names[kind], got=word or "nothing")


def _cell(path: str) -> Any:
    """The operations of a dense prediction cell."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON: {error}", file=path) from None
