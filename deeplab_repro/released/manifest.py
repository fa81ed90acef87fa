"""The manifest: which models were released, what they score, and where their files were published.

It is data, `weights/manifest.json`.  The environment variable DEEPLAB_REPRO_MANIFEST names another
one, such as a group's own list of models:

    {"format": 1, "licence": TEXT, "models": {NAME: {
        "title": TEXT, "network": a name of `networks list`, "crf": a name of `crf --list-params`,
        "published": {"source": TEXT, "miou": 76.35, "tolerance": 0.15, ...},
        "files": [{"name": NAME, "use": "val"|"test"|"init", "trained_on": "train_aug",
                   "download": NAME, "member": NAME of the file in an archive}],
        "downloads": {NAME: {"sources": [{"url": URL, "named_by": TEXT}], "holds": [NAME, ...]}}}}}

Layers, shapes and input sizes do not stand there: they follow from the network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypedDict, cast

from deeplab_repro.errors import InputError
from deeplab_repro.models import NETWORKS, Network
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

#: Names become names of files in the store.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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

    who        the project or person
    url        where it stands
    note          in which words, or from which training
    same_weights  whether these are the released weights, and no training of somebody's own
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

    named_by   a public page or script that gives this address; "" where it follows the pattern of
               the others and is not confirmed
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

    name      of the file
    sources   addresses in the order in which to try them
    holds     names of the files in it, where it is an archive
    bytes     its length, None where nobody has published it
    sha256    its sum in hexadecimal, None where nobody has published it
    """

    name: str
    sources: tuple[Source, ...]
    holds: tuple[str, ...]
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class WeightsFile:
    """One set of weights of a model.

    name         such as train_iter_20000
    use          "val": to be scored on val; "test": trained on val, too, to be scored on test;
                 "init": training starts from it, its classifier does not fit
    trained_on   the set of images, or what it was trained on before VOC 2012
    download     what to download
    member       its name in the archive, None where it is the download itself
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
        from deeplab_repro.evaluation.seen import was_seen

        return bool(was_seen(self.trained_on, split))


@dataclass(frozen=True)
class ReleasedModel:
    """A model as it was released.

    name           short name, which is also that of its CRF's parameters
    title          its name in the papers
    network        a name of `deeplab_repro.models.NETWORKS`
    num_classes    labels
    width          divisor of the published channel counts: 1 but in small models for tests
    exp            what the released prototxts call ${EXP} in the names of layers
    crf            a name for `CRFParams.named`, None where there is none
    released_as    its name or folder at its authors'
    pretrained_on  what the network had been trained on before
    published      scores
    reported       what others measured
    files          sets of weights, at least one
    licence        a note on the terms of use
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

    path      of the JSON file
    models    by their short names
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
        root = _Fields(path, "", json.loads(read_text(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
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


def _model(name: str, fields: _Fields, licence: str) -> ReleasedModel:
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


def _published(fields: _Fields) -> Published:
    return Published(
        source=fields.text("source", ""),
        miou=fields.number("miou", None),
        miou_crf=fields.number("miou_crf", None),
        test_miou_crf=fields.number("test_miou_crf", None),
        tolerance=fields.number("tolerance", None),
        tolerance_crf=fields.number("tolerance_crf", None),
    )


def _reported(fields: _Fields) -> Reported:
    return Reported(
        who=fields.text("who"),
        url=fields.text("url", ""),
        miou=fields.number("miou", None),
        miou_crf=fields.number("miou_crf", None),
        note=fields.text("note", ""),
        same_weights=fields.flag("same_weights"),
    )


def _download(name: str, fields: _Fields) -> Download:
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


def _file(fields: _Fields, downloads: Mapping[str, Download]) -> WeightsFile:
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


_REQUIRED: Final = object()


class _Fields:
    """A JSON object whose fields are read by type; errors name the place in the file."""

    def __init__(self, file: Path, place: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise InputError(
                place or "the manifest", file=file, expected="an object", got=_short(value)
            )
        self._file = file
        self._place = place
        self._value = value

    def entries(self) -> Iterator[tuple[str, _Fields]]:
        """Every field as an object."""
        for name in self._value:
            yield name, self.fields(name)

    def fields(self, name: str, default: Any = _REQUIRED) -> _Fields:
        """A field that is an object itself."""
        return _Fields(self._file, self._at(name), self._get(name, dict, "an object", default))

    def items(self, name: str, default: Any = _REQUIRED) -> list[_Fields]:
        """A field that is a list of objects."""
        values = self._get(name, list, "a list of objects", default)
        return [_Fields(self._file, f"{self._at(name)}[{i}]", v) for i, v in enumerate(values)]

    def texts(self, name: str) -> list[str]:
        """A field that is a list of texts; an empty one where it is absent."""
        values = self._get(name, list, "a list of texts", [])
        for value in values:
            if not isinstance(value, str):
                self.fail(name, "a list of texts", value)
        return cast(list[str], values)

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """A field that is a text."""
        return cast(str, self._get(name, str, "a text", default))

    def number(self, name: str, default: Any = _REQUIRED) -> float | None:
        """A field that is a number."""
        return cast("float | None", self._get(name, (int, float), "a number", default))

    def flag(self, name: str) -> bool:
        """A field that is true or false; false where it is absent."""
        value = self._value.get(name, False)
        if not isinstance(value, bool):
            self.fail(name, "true or false", value)
        return cast(bool, value)

    def count(self, name: str, default: int) -> int:
        """A field that is a whole number of at least 1."""
        value = self._get(name, int, "a whole number", default)
        if name in self._value and value < 1:
            self.fail(name, "at least 1", value)
        return cast(int, value)

    def check_name(self, name: str) -> None:
        """Refuse a name that could not be that of a file in the store."""
        if not _NAME.fullmatch(name) or ".." in name:
            raise InputError(
                f"{self._place}: is no name for a file",
                file=self._file,
                expected="at most 100 letters, digits, '.', '_' and '-'",
                got=_short(name),
            )

    def fail(self, name: str, expected: str, got: Any) -> None:
        """Say what is wrong with a field."""
        raise InputError(self._at(name), file=self._file, expected=expected, got=_short(got))

    def _get(self, name: str, kind: Any, expected: str, default: Any) -> Any:
        value = self._value.get(name, default)
        if value is _REQUIRED:
            raise InputError(f"{self._at(name)} is missing", file=self._file, expected=expected)
        if name in self._value and (not isinstance(value, kind) or isinstance(value, bool)):
            self.fail(name, expected, value)
        return value

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 100 else text[:97] + "..."
