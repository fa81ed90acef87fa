"""The manifest: which models were released, what they score, and where their files were published.

It is data, `weights/manifest.json`.  The environment variable DEEPLAB_REPRO_MANIFEST names another
one, such as a group's own list of models:

    {"format": 1, "licence": TEXT, "models": {NAME: {
        "title": TEXT, "network": a name of `networks list`, "crf": a name of `crf --list-params`,
        "num_classes": 21, "width": 1 (divides the published channel counts), "exp": "voc12",
        "released_as": TEXT, "pretrained_on": TEXT, "licence": TEXT,
        "published": {"source": TEXT, "miou": 76.35, "tolerance": 0.15, ...},
        "files": [{"name": NAME, "use": "val"|"test"|"init", "trained_on": "train_aug",
                   "download": NAME, "member": NAME of the file in an archive}],
        "downloads": {NAME: {"sources": [{"url": URL, "named_by": TEXT}], "holds": [NAME, ...],
                             "bytes": LENGTH, "sha256": 64 DIGITS}}}}}

Only "network", "files" and "downloads" must be there; numbers stand here with their defaults.  A
width other than 1 is for a small model of one's own, whose layers do not fit without it.  Layers,
shapes and input sizes do not stand there: they follow from the network.

A checkpoint of TensorFlow's has, in place of "network", "width", "exp" and "published":

        "options": {NAME: VALUE} of `deeplab_repro.models.v3.options.ModelOptions`, or null,
        "data": "voc2012", "crop_size": [513, 513], "resize": SIDE, "source": TEXT,
        "scores": [{"output_stride": 16, "scales": [1.0], "flip": false, "split": "val",
                    "miou": 82.2, "pixel_accuracy": 95.1}], "tolerance": 0.1,
        "values": how many numbers the network has, for a listing that makes no network

The "member" of its files is the prefix of the checkpoint in the archive.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.models import NETWORKS
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.released.fields import Fields
from deeplab_repro.released.models import (
    CaffeModel,
    Download,
    Published,
    ReleasedModel,
    Reported,
    Score,
    Source,
    TensorFlowModel,
    Use,
    WeightsFile,
)
from prototxt_import.files import read_text

__all__ = ["MANIFEST_VARIABLE", "Manifest", "read_manifest"]

MANIFEST_VARIABLE: Final = "DEEPLAB_REPRO_MANIFEST"


@dataclass(frozen=True)
class Manifest:
    """All released models by name.

    Attributes:
        path: Of the JSON file.
        models: By their short names.
    """

    path: Path
    models: Mapping[str, ReleasedModel]

    @cached_property
    def _by_any_name(self) -> Mapping[str, ReleasedModel]:
        """Short names first, then full names of the networks, then the authors' names."""
        models = self.models.values()
        found: dict[str, ReleasedModel] = {}
        for names in (
            {m.definition.full_name: m for m in models if isinstance(m, CaffeModel)},
            {model.released_as: model for model in models if model.released_as},
        ):
            found |= names
        return found | dict(self.models)

    def get(self, name: str) -> ReleasedModel | None:
        """As `find`, None where there is no such model."""
        return self._by_any_name.get(name)

    def find(self, name: str) -> ReleasedModel:
        """A model by its name, the full name of its network, or its authors' name.

        Raises:
            InputError: There is none; the message names those that are spelled alike.
        """
        model = self.get(name)
        if model is None:
            close = get_close_matches(name, self._by_any_name, n=3)
            raise InputError(
                f"no released model is named {name!r}",
                expected=" or ".join(close) if close else f"one of {', '.join(self.models)}",
            )
        return model

    def find_weights(self, name: str) -> tuple[ReleasedModel, WeightsFile]:
        """A model and one of its sets of weights, whether they are in the store or not.

        Args:
            name: NAME for the weights to score on val, or NAME/FILE, such as
                deeplab_v2_resnet101/train2_iter_20000.

        Raises:
            InputError: There is no such model, or it has no such weights.
        """
        model, _, file = name.partition("/")
        found = self.find(model)
        return found, found.weights(file or None)


def read_manifest(path: str | os.PathLike[str] | None = None) -> Manifest:
    """Read a manifest.

    Args:
        path: By default what DEEPLAB_REPRO_MANIFEST names, or else that of this package.

    Raises:
        CaffeImportError: The file cannot be read.
        InputError: It is no manifest; the message names the place in it.
    """
    path = Path(path or os.environ.get(MANIFEST_VARIABLE) or _own_manifest())
    try:
        root = Fields(path, "", json.loads(read_text(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):  # it cannot be read at all
            raise
        raise InputError(f"is no JSON ({error})", file=path) from None
    if root.number("format") != 1:
        raise InputError(
            "has a format that this version does not know", file=path, expected="format: 1"
        )
    licence = root.text("licence", "")
    models = {
        name: _model(name, fields, licence) for name, fields in root.fields("models").entries()
    }
    if not models:
        raise InputError("names no models", file=path)
    return Manifest(path, MappingProxyType(models))


def _own_manifest() -> Path:
    """In a checkout it lies in weights/, in an installed package in _weights/."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_weights"
    folder = installed if installed.is_dir() else package.parent / "weights"
    return folder / "manifest.json"


def _model(name: str, fields: Fields, licence: str) -> ReleasedModel:
    fields.check_name(name)
    downloads = {key: _download(key, each) for key, each in fields.fields("downloads").entries()}
    files = tuple(_file(each, downloads) for each in fields.items("files"))
    if not files or len({file.name for file in files}) != len(files):
        fields.fail("files", "at least one, each of another name", [file.name for file in files])
    common: dict[str, Any] = {
        "name": name,
        "title": fields.text("title", name),
        "num_classes": fields.count("num_classes", 21),
        "crf": fields.text("crf", "") or None,
        "released_as": fields.text("released_as", ""),
        "pretrained_on": fields.text("pretrained_on", ""),
        "files": files,
        "licence": fields.text("licence", licence),
    }
    return _tensorflow(fields, common) if "options" in fields else _caffe(fields, common)


def _caffe(fields: Fields, common: dict[str, Any]) -> CaffeModel:
    network = fields.text("network")
    by_full_name = {entry.full_name: short for short, entry in NETWORKS.items()}
    network = by_full_name.get(network, network)
    if network not in NETWORKS:
        fields.fail("network", f"one of {', '.join(NETWORKS)}", network)
    return CaffeModel(
        **common,
        network=network,
        width=fields.count("width", 1),
        exp=fields.text("exp", "voc12"),
        published=_published(fields.fields("published", {})),
        reported=tuple(map(_reported, fields.items("reported", []))),
    )


def _tensorflow(fields: Fields, common: dict[str, Any]) -> TensorFlowModel:
    options = fields.mapping("options")
    if options is not None:
        try:
            ModelOptions.from_case(options)
        except InputError as error:
            raise fields.error("options", str(error)) from None
    sides = fields.wholes("crop_size")
    if len(sides) not in (0, 2):
        fields.fail("crop_size", "height and width", sides)
    return TensorFlowModel(
        **common,
        options=None if options is None else MappingProxyType(options),
        data=fields.text("data", ""),
        crop_size=(sides[0], sides[1]) if sides else None,
        resize=fields.count("resize", 0) or None,
        source=fields.text("source", ""),
        scores=tuple(map(_score, fields.items("scores", []))),
        tolerance=fields.number("tolerance", None),
        values=fields.count("values", 0) or None,
    )


def _score(fields: Fields) -> Score:
    scales = tuple(fields.numbers("scales")) or (1.0,)
    if not all(0 < scale < float("inf") for scale in scales):
        fields.fail("scales", "positive numbers", scales)
    return Score(
        output_stride=fields.count("output_stride", 16),
        scales=scales,
        flip=fields.flag("flip"),
        split=fields.text("split", "val"),
        miou=cast(float, fields.number("miou")),
        pixel_accuracy=fields.number("pixel_accuracy", None),
    )


def _published(fields: Fields) -> Published:
    return Published(
        source=fields.text("source", ""),
        miou=fields.number("miou", None),
        miou_crf=fields.number("miou_crf", None),
        test_miou_crf=fields.number("test_miou_crf", None),
        tolerance=fields.number("tolerance", None),
        tolerance_crf=fields.number("tolerance_crf", None),
    )


def _reported(fields: Fields) -> Reported:
    return Reported(
        who=fields.text("who"),
        url=fields.text("url", ""),
        miou=fields.number("miou", None),
        miou_crf=fields.number("miou_crf", None),
        note=fields.text("note", ""),
        same_weights=fields.flag("same_weights"),
    )


def _download(name: str, fields: Fields) -> Download:
    fields.check_name(name)
    sources = tuple(
        Source(each.text("url"), each.text("named_by", "")) for each in fields.items("sources")
    )
    for source in sources:
        if not source.url.startswith(("http://", "https://")):
            fields.fail("sources", "addresses that start with http:// or https://", source.url)
    sha256 = fields.text("sha256", "") or None
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        fields.fail("sha256", "64 hexadecimal digits in small letters", sha256)
    return Download(
        name=name,
        sources=sources,
        holds=tuple(fields.texts("holds")),
        bytes=fields.count("bytes", 0) or None,
        sha256=sha256,
    )


def _file(fields: Fields, downloads: Mapping[str, Download]) -> WeightsFile:
    name = fields.text("name")
    fields.check_name(name)
    use = fields.text("use", "val")
    if use not in ("val", "test", "init"):
        fields.fail("use", "val, test or init", use)
    download = fields.text("download")
    if download not in downloads:
        fields.fail("download", f"one of the downloads {', '.join(downloads)}", download)
    member = fields.text("member", "") or None
    if member is not None and "/" in member:
        fields.fail("member", "the name of a file without its folders", member)
    return WeightsFile(
        name=name,
        use=cast(Use, use),
        trained_on=fields.text("trained_on", ""),
        download=downloads[download],
        member=member,
    )
