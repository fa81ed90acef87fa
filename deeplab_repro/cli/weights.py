"""``deeplab-repro weights``"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from deeplab_repro.cli.common import console, json_option, make_table, shown, write_json
from deeplab_repro.errors import InputError
from deeplab_repro.released.models import CaffeModel, TensorFlowModel
from prototxt_import.errors import printable
from prototxt_import.words import megabytes

if TYPE_CHECKING:
    from rich.table import Table

    from deeplab_repro.released.acquire import Obtained
    from deeplab_repro.released.download import Reporter
    from deeplab_repro.released.identify import Identity
    from deeplab_repro.released.models import ReleasedModel, WeightsFile
    from deeplab_repro.released.store import Store
    from deeplab_repro.released.structure import Structure

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: As people write the data sets of the list.
_DATA_SETS = {"voc2012": "VOC 2012", "cityscapes": "Cityscapes", "ade20k": "ADE20K"}

_manifest_option = click.option(
    "--manifest",
    "manifest_file",
    type=click.Path(),
    help="Another list of models than this package's; DEEPLAB_REPRO_MANIFEST names one for all"
    " commands.",
)
_accept_option = click.option(
    "--accept-changed",
    is_flag=True,
    help="Take a file although its SHA-256 is not the one recorded at its first use.",
)


@click.group("weights")
def command() -> None:
    """List the released models, and get their weights.

    Once they are in the store, NAME stands for them wherever a command takes a MODEL, and
    NAME/FILE for other weights than those to score on val.  The store is the folder
    deeplab-repro/weights in the user's cache; DEEPLAB_REPRO_WEIGHTS names another one.
    """


@command.command("list")
@_manifest_option
@json_option
def list_(manifest_file: str | None, json_file: str | None) -> None:
    """Show the released models, their scores and weights, and what of these is here.

    SCORE is the published mean IoU in percent: of DeepLab v1 and v2 on VOC 2012, on val before and
    after the CRF, or on test after the CRF; of TensorFlow's checkpoints for each way of running
    them that was published.  Weights that were trained on val must not be scored on it.
    """
    from deeplab_repro.released.manifest import read_manifest
    from deeplab_repro.released.store import Store
    from deeplab_repro.released.structure import count_values

    manifest, store = read_manifest(manifest_file), Store()
    columns = {"model": "left", "weights": "left", "trained_on": "left", "size": "right"}
    table = make_table("", **columns, score="left", here="left")
    report: dict[str, Any] = {}
    for name, model in manifest.models.items():
        values = count_values(model)
        size = None if values is None else 4 * values
        for file in model.files:
            trained_on = f"{file.trained_on}, saw val" if file.saw("val") else file.trained_on
            table.add_row(
                shown(name if file is model.files[0] else ""),
                shown(file.name),
                shown(trained_on if file.use != "init" else f"{trained_on}: to start from"),
                "-" if size is None else megabytes(size),
                _score(model, file),
                _here(store, model, file),
            )
        report[name] = _model_as_json(model, store, size)
    console.print(table)
    console.print(
        f"store: {shown(store.root)}; deeplab-repro weights fetch MODEL, or weights add FILE",
        highlight=False,
        style="dim",
        soft_wrap=True,
    )
    write_json(json_file, report)


@command.command("fetch")
@click.argument("name")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Weights of the model, such as train2_iter_20000; may be repeated. By default those to"
    " score on val.",
)
@click.option("--all", "everything", is_flag=True, help="All weights of the model.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="URL",
    help="An address to try before those of the list; may be repeated.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds without a byte after which a connection is given up.",
)
@_accept_option
@_manifest_option
@json_option
def fetch(
    name: str,
    files: tuple[str, ...],
    everything: bool,
    sources: tuple[str, ...],
    timeout: float,
    accept_changed: bool,
    manifest_file: str | None,
    json_file: str | None,
) -> None:
    """Download weights of a model and convert them, unless they are here.

    NAME is that of a model, or NAME/FILE for other weights than those to score on val.
    A download that was stopped goes on where it was.  The addresses of the list are tried one after
    the other; many of these servers are gone.  A file that you have is as good: see `weights add`.
    """
    from deeplab_repro.released.acquire import fetch as fetch_weights
    from deeplab_repro.released.download import Patience
    from deeplab_repro.released.manifest import read_manifest
    from deeplab_repro.released.store import Store

    if not math.isfinite(timeout):
        raise InputError("--timeout", expected="a finite number of seconds", got=timeout)
    for url in sources:
        if not url.startswith(("http://", "https://")):
            raise InputError("--source", expected="http://... or https://...", got=url)
    (model, named), store = read_manifest(manifest_file).find_weights(name), Store()
    wanted = tuple(map(model.weights, files))
    if everything:
        wanted = model.files
    elif "/" in name or not files:
        wanted = (named, *wanted)
    if model.licence and not all(store.converted(model, file).is_file() for file in wanted):
        click.echo(f"deeplab-repro: {printable(model.licence)}", err=True)
    with _reporter() as reporter:
        obtained = fetch_weights(
            model,
            list(dict.fromkeys(wanted)),
            store,
            sources=sources,
            accept_changed=accept_changed,
            patience=Patience(connect=min(timeout, 15.0), silence=timeout),
            reporter=reporter,
        )
    _show_obtained(obtained)
    write_json(json_file, list(map(_obtained_as_json, obtained)))


@command.command("add")
@click.argument("file", type=click.Path())
@click.option("--model", "name", metavar="NAME", help="The model, where the file does not tell.")
@click.option(
    "--file", "weights", metavar="FILE", help="Which of its weights, where the name does not tell."
)
@_accept_option
@_manifest_option
@json_option
def add(
    file: str,
    name: str | None,
    weights: str | None,
    accept_changed: bool,
    manifest_file: str | None,
    json_file: str | None,
) -> None:
    """Take weights into the store that you have: a caffemodel, a checkpoint, or an archive.

    A checkpoint of TensorFlow's is named by its prefix or by one of its files, an archive is taken
    as it was published.

    Which model it is follows from its layers and from its name.  The file itself stays where it is.
    """
    from deeplab_repro.released.acquire import add as add_weights
    from deeplab_repro.released.manifest import read_manifest
    from deeplab_repro.released.store import Store

    manifest = read_manifest(manifest_file)
    with _reporter() as reporter:
        obtained = add_weights(
            Path(file),
            manifest,
            Store(),
            model=None if name is None else manifest.find(name),
            file=weights,
            accept_changed=accept_changed,
            reporter=reporter,
        )
    _show_obtained(obtained)
    write_json(json_file, list(map(_obtained_as_json, obtained)))


@command.command("verify")
@click.argument("file", type=click.Path())
@_manifest_option
@json_option
def verify(file: str, manifest_file: str | None, json_file: str | None) -> None:
    """Say which released model a FILE holds, or what differs from the one that is most like it.

    FILE is a caffemodel, .caffemodel.h5, safetensors, a checkpoint by its prefix or one of its
    files, a frozen graph, or an archive of these.  The exit code is 1 if it is none of the released
    models.
    """
    from deeplab_repro.released.identify import identify
    from deeplab_repro.released.manifest import read_manifest
    from deeplab_repro.released.store import Store

    identities = identify(Path(file), read_manifest(manifest_file), Store())
    for identity in identities:
        _show_identity(identity)
    write_json(json_file, list(map(_identity_as_json, identities)))
    if not identities:
        raise InputError("holds no caffemodel and no checkpoint", file=file)
    if not all(identity.usable for identity in identities):
        raise click.exceptions.Exit(1)


def _score(model: ReleasedModel, file: WeightsFile) -> str:
    if isinstance(model, TensorFlowModel):
        scores = ", ".join(f"{score.miou:.2f} ({score})" for score in model.scores)
        where = _DATA_SETS.get(model.data, model.data) + (" test" if file.use == "test" else "")
        return f"{where}: {scores}" if scores else ""
    assert isinstance(model, CaffeModel)  # there are two kinds
    published = model.published
    if file.use == "val" and published["miou"] is not None:
        after = published["miou_crf"]
        return f"{published['miou']:.2f}" + ("" if after is None else f", {after:.2f} with CRF")
    if file.use == "test" and published["test_miou_crf"] is not None:
        return f"test: {published['test_miou_crf']:.1f} with CRF"
    return ""


def _here(store: Store, model: ReleasedModel, file: WeightsFile) -> str:
    if store.converted(model, file).is_file():
        return "yes"
    return "as published" if store.published(model, file.download).is_file() else ""


def _network_as_json(model: ReleasedModel) -> dict[str, Any]:
    """What the two kinds of models say of themselves each in its own way."""
    if isinstance(model, TensorFlowModel):
        return {
            "options": None if model.options is None else dict(model.options),
            "data": model.data,
            "crop_size": model.crop_size,
            "resize": model.resize,
            "source": model.source,
            "scores": [asdict(score) for score in model.scores],
            "tolerance": model.tolerance,
        }
    assert isinstance(model, CaffeModel)  # there are two kinds
    definition = model.definition
    return {
        "network": model.network,
        "full_name": definition.full_name,
        "train_size": definition.train_size,
        "test_size": definition.test_size,
        "input_rule": definition.input_rule,
        "published": model.published,
        "reported": [asdict(each) for each in model.reported],
    }


def _model_as_json(model: ReleasedModel, store: Store, size: int | None) -> dict[str, Any]:
    return {
        "title": model.title,
        "released_as": model.released_as,
        "crf": model.crf,
        "num_classes": model.num_classes,
        "pretrained_on": model.pretrained_on,
        **_network_as_json(model),
        "licence": model.licence,
        "bytes": size,
        "weights": [
            {
                "name": file.name,
                "use": file.use,
                "trained_on": file.trained_on,
                "saw_val": file.saw("val"),
                "download": file.download.name,
                "member": file.member,
                "path": _existing(store.converted(model, file)),
                "published_path": _existing(store.published(model, file.download)),
            }
            for file in model.files
        ],
        "downloads": [
            {
                **asdict(each),
                "sources": [
                    {**asdict(source), "confirmed": source.confirmed} for source in each.sources
                ],
            }
            for each in model.downloads
        ],
    }


def _existing(path: Path) -> str | None:
    return str(path) if path.is_file() else None


def _show_obtained(obtained: list[Obtained]) -> None:
    for each in obtained:
        name = f"{each.model.name}/{each.file.name}"
        verb = "is here already" if each.already else "converted"
        console.print(f"{shown(name)} {verb}: {shown(each.path)}", highlight=False, soft_wrap=True)
        if each.record is not None:
            origin = f" of what came from {each.record.origin}" if each.record.origin else ""
            line = f"SHA-256 {each.record.sha256}{origin}"
            if each.first_use:
                line += (
                    "; no published sum exists: it is recorded now, at the first use, and later"
                    " files of this name are held against it"
                )
            console.print(f"  {shown(line)}", highlight=False, soft_wrap=True, style="dim")
        if each.file.saw("val"):
            console.print(
                f"  trained on {shown(each.file.trained_on)}: not to be scored on val",
                highlight=False,
            )


def _obtained_as_json(obtained: Obtained) -> dict[str, Any]:
    return {
        "model": obtained.model.name,
        "weights": obtained.file.name,
        "path": str(obtained.path),
        "already": obtained.already,
        "first_use": obtained.first_use,
        "source": asdict(obtained.record) if obtained.record else None,
    }


def _show_identity(identity: Identity) -> None:
    table = make_table("", what="left", value="left")
    table.show_header = False
    table.add_row("file", shown(identity.name))
    table.add_row("length", f"{megabytes(identity.bytes)}, {identity.kind}")
    known = f" (in the store as {', '.join(identity.known_as)})" if identity.known_as else ""
    table.add_row("SHA-256", shown(identity.sha256 + known))
    table.add_row("weights", f"{identity.values:,} values in {identity.layers:,} layers")
    if identity.not_finite:
        table.add_row("not finite", shown(", ".join(identity.not_finite[:10])))
    for structure in identity.fitting:
        table.add_row("is", shown(f"{structure.model.name}, {structure.classes} labels"))
    if identity.starting:
        names = ", ".join(structure.model.name for structure in identity.starting)
        table.add_row("may start", shown(names))
    if not identity.fitting and identity.structures:
        _add_nearest(table, identity.structures[0])
    console.print(table)


def _add_nearest(table: Table, nearest: Structure) -> None:
    """Rows that say how a file differs from the model that is most like it."""
    if not nearest.shared:
        table.add_row("is", "no released model: it shares no layer with any")
        return
    labels = "" if nearest.classes is None else f", {nearest.classes} labels"
    table.add_row("most like", shown(nearest.model.name + labels))
    differences = [
        *nearest.differing.values(),
        *(f"layer '{name}' is missing" for name in nearest.missing),
        *(f"layer '{name}' is not in the model" for name in nearest.extra),
    ]
    for line in differences[:10]:
        table.add_row("", shown(line))
    if len(differences) > 10:
        table.add_row("", f"... and {len(differences) - 10} more; --json has them all")


def _identity_as_json(identity: Identity) -> dict[str, Any]:
    return {
        "file": identity.name,
        "kind": identity.kind,
        "bytes": identity.bytes,
        "sha256": identity.sha256,
        "known_as": identity.known_as,
        "layers": identity.layers,
        "values": identity.values,
        "not_finite": identity.not_finite,
        "is": [structure.model.name for structure in identity.fitting],
        "may_start": [structure.model.name for structure in identity.starting],
        "models": [
            {
                "model": structure.model.name,
                "classes": structure.classes,
                "same_network": structure.same_network,
                "missing": structure.missing,
                "extra": structure.extra,
                "differing": list(structure.differing.values()),
            }
            for structure in identity.structures
        ],
    }


@contextmanager
def _reporter() -> Iterator[Reporter]:
    """A bar for the bytes on a terminal, and notes as lines on stderr."""
    from deeplab_repro.released.download import Reporter

    errors = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as bar:
        task = bar.add_task("downloading", total=None, visible=False)

        class Bar(Reporter):
            def progress(self, have: int, total: int | None) -> None:
                bar.update(task, completed=have, total=total, visible=True)

            def note(self, text: str) -> None:
                bar.update(task, visible=False)
                bar.console.print(f"deeplab-repro: {shown(text)}", highlight=False, soft_wrap=True)

        yield Bar()
