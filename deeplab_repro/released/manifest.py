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
from typing import Final, Literal, TypedDict, cast

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.models import NETWORKS, Network
from deeplab_repro.released.fields import Fields
from prototxt_import.files import read_text

__all__ = [
    "MANIFEST_VARIABLE",
    "Download",
    "Manifest",
    "Published",
    "ReleasedModel",
    "Reported",
    "Source",
    "Use",
    "WeightsFile",
    "read_manifest",
]

Use = Literal["val", "test", "init"]
MANIFEST_VARIABLE: Final = "DEEPLAB_REPRO_MANIFEST"


class Published(TypedDict):
    """What the authors published of a model; mean IoU on VOC 2012 in percent, None where nothing.

    source: table or page.  miou, miou_crf: on val, before and after the dense CRF.  test_miou_crf:
    on test, after the CRF, by the file whose use is "test".  tolerance, tolerance_crf: how far a
    reproduction on val may be off, None where no independent one tells.
    """

    source: str
    miou: float | None
    miou_crf: float | None
    test_miou_crf: float | None
    tolerance: float | None
    tolerance_crf: float | None


@dataclass(frozen=True)
class Reported:
    """What somebody else measured on VOC 2012 val; mean IoU in percent, None where nothing.

    Attributes:
        who: The project or person.
        url: Where it stands.
        miou: Before the CRF.
        miou_crf: After the CRF.
        note: In which words, or from which training.
        same_weights: Whether these are the released weights, and no training of somebody's own.
    """

    who: str
    url: str
    miou: float | None
    miou_crf: float | None
    note: str
    same_weights: bool


@dataclass(frozen=True)
class Source:
    """One address of a file.

    Attributes:
        named_by: A public page or script that gives this address; "" where it follows the pattern
            of the others and is not confirmed.
    """

    url: str
    named_by: str

    @property
    def confirmed(self) -> bool:
        """Whether somebody has named this very address."""
        return bool(self.named_by)


@dataclass(frozen=True)
class Download:
    """A file as it was published: an archive, or the weights themselves.

    Attributes:
        name: Of the file.
        sources: Addresses in the order in which to try them.
        holds: Names of the files in it, where it is an archive.
        bytes: Its length, None where nobody has published it.
        sha256: Its sum in hexadecimal, None where nobody has published it.
    """

    name: str
    sources: tuple[Source, ...]
    holds: tuple[str, ...]
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class WeightsFile:
    """One set of weights of a model.

    Attributes:
        name: Such as train_iter_20000.
        use: "val": to be scored on val; "test": trained on val, too, to be scored on test; "init":
            training starts from it, its classifier does not fit.
        trained_on: The set of images, or what it was trained on before VOC 2012.
        download: What to download.
        member: Its name in the archive, None where it is the download itself.
    """

    name: str
    use: Use
    trained_on: str
    download: Download
    member: str | None

    def saw(self, split: str) -> bool:
        """Whether images of a set (train, val, trainval, train_aug, trainval_aug) were trained on.

        A score on images that a network was trained on says nothing: the released weights for the
        test set reach 85 to 87 on val.
        """
        from deeplab_repro.evaluation.seen import is_known, was_seen

        return is_known(self.trained_on) and bool(was_seen(self.trained_on, split))


@dataclass(frozen=True)
class ReleasedModel:
    """A model as it was released.

    Attributes:
        name: Short name, which is also that of its CRF's parameters.
        title: Its name in the papers.
        network: A name of `deeplab_repro.models.NETWORKS`.
        num_classes: Labels.
        width: Divisor of the published channel counts: 1 but in small models for tests.
        exp: What the released prototxts call ${EXP} in the names of layers.
        crf: A name for `CRFParams.named`, None where there is none.
        released_as: Its name or folder at its authors'.
        pretrained_on: What the network had been trained on before.
        published: Scores.
        reported: What others measured.
        files: Sets of weights, at least one.
        licence: A note on the terms of use.
    """

    name: str
    title: str
    network: str
    num_classes: int
    width: int
    exp: str
    crf: str | None
    released_as: str
    pretrained_on: str
    published: Published
    reported: tuple[Reported, ...]
    files: tuple[WeightsFile, ...]
    licence: str

    @property
    def definition(self) -> Network:
        """Its network's entry in `NETWORKS`: input size and rule, names of blobs."""
        return NETWORKS[self.network]

    @property
    def default(self) -> WeightsFile:
        """The weights to score on val, or else the first."""
        return next((file for file in self.files if file.use == "val"), self.files[0])

    @property
    def trained_on(self) -> str:
        """The set of images that the default weights were trained on."""
        return self.default.trained_on

    @property
    def downloads(self) -> tuple[Download, ...]:
        """Everything that can be downloaded, each once."""
        return tuple({file.download.name: file.download for file in self.files}.values())

    def weights(self, name: str | None = None) -> WeightsFile:
        """A set of weights by name, with or without the ending .caffemodel.

        Args:
            name: None for the default.

        Raises:
            InputError: There is none of this name.
        """
        if name is None:
            return self.default
        for file in self.files:
            if file.name == name.removesuffix(".caffemodel"):
                return file
        raise InputError(
            f"the model {self.name} has no weights of this name",
            expected=" or ".join(file.name for file in self.files),
            got=name,
        )

    def file(self, name: str | None = None) -> Path:
        """The path of a set of weights in the local store, as safetensors with the network inside.

        Args:
            name: One of `files`, the default where None.

        Raises:
            InputError: There is none of this name, or it has not been fetched; the message names
                the command that does.
        """
        from deeplab_repro.released.store import Store

        return Store().need(self, self.weights(name))


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
            {model.definition.full_name: model for model in models},
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
    network = fields.text("network")
    by_full_name = {entry.full_name: short for short, entry in NETWORKS.items()}
    network = by_full_name.get(network, network)
    if network not in NETWORKS:
        fields.fail("network", f"one of {', '.join(NETWORKS)}", network)
    downloads = {key: _download(key, each) for key, each in fields.fields("downloads").entries()}
    files = tuple(_file(each, downloads) for each in fields.items("files"))
    if not files or len({file.name for file in files}) != len(files):
        fields.fail("files", "at least one, each of another name", [file.name for file in files])
    return ReleasedModel(
        name=name,
        title=fields.text("title", name),
        network=network,
        num_classes=fields.count("num_classes", 21),
        width=fields.count("width", 1),
        exp=fields.text("exp", "voc12"),
        crf=fields.text("crf", "") or None,
        released_as=fields.text("released_as", ""),
        pretrained_on=fields.text("pretrained_on", ""),
        published=_published(fields.fields("published", {})),
        reported=tuple(map(_reported, fields.items("reported", []))),
        files=files,
        licence=fields.text("licence", licence),
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
