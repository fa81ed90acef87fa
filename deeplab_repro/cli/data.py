"""``deeplab-repro data``"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deeplab_repro.cli.common import (
    console,
    json_option,
    make_table,
    shown,
    writable_folder,
    write_json,
)
from deeplab_repro.cli.jobs import decoders_silent, make_folder, picture_progress
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.processes import processes
from prototxt_import.errors import printable
from prototxt_import.words import number

if TYPE_CHECKING:
    from deeplab_repro.data import Dataset
    from deeplab_repro.data.check import Check
    from deeplab_repro.pictures.palette import Classes

_MOST_PROBLEMS: Final = 20  # shown; all of them are in the JSON

workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Pictures at a time; all cores by default."
)
classes_option = click.option(
    "--classes",
    "classes_file",
    type=click.Path(),
    help="Class names, one a line; a line may end in a colour such as #804080.",
)
num_classes_option = click.option(
    "--num-classes",
    type=click.IntRange(1, 255),
    default=21,
    show_default=True,
    help="Class ids are 0 to this number less one.",
)


@click.group("data")
def command() -> None:
    """Prepare and check pictures and labels."""


@command.command("prepare-voc")
@click.option(
    "--voc", type=click.Path(), required=True, help="VOC2012, VOCdevkit, or the folder above."
)
@click.option(
    "--sbd", type=click.Path(), required=True, help="SBD's benchmark_RELEASE, or the folder above."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    callback=writable_folder,
    help="Folder for the labels and lists; VOC2012 itself by default.",
)
@click.option(
    "--palette/--grey",
    default=True,
    show_default=True,
    help="PNGs with VOC's palette; or grey ones, which Caffe's data layer needs.",
)
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Go on where pictures are missing or the lists have other lengths than the released ones.",
)
@workers_option
@json_option
def prepare(
    voc: str,
    sbd: str,
    output: str | None,
    palette: bool,
    allow_partial: bool,
    workers: int | None,
    json_file: str | None,
) -> None:
    """Make the augmented training set of VOC 2012 and SBD.

    Writes SegmentationClassAug/NAME.png, and in ImageSets/SegmentationAug the lists train, val,
    trainval, train_aug and trainval_aug, in Caffe's form and as NAMES_id.txt.  Goes on where an
    earlier run was stopped.
    """
    from deeplab_repro.data.prepare import COUNTS, plan_voc, prepare_voc

    plan = plan_voc(voc, sbd)
    if plan.problems and not allow_partial:
        raise InputError(
            "; ".join(plan.problems) + " (--allow-partial makes lists of what is there)",
            file=plan.voc,
        )
    with processes() as team, picture_progress() as bar:
        if team.first:
            for problem in plan.problems:
                click.echo(f"deeplab-repro: warning: {printable(problem)}", err=True)
        bar.disable = bar.disable or not team.first
        task = bar.add_task("labels", total=len(team.share(list(plan.sources))))
        done = prepare_voc(
            plan,
            output,
            palette=palette,
            workers=workers,
            team=team,
            advance=lambda: bar.advance(task),
        )
        if not team.first:
            return
    table = make_table("", list="left", pictures="right", released="right")
    for split, names in plan.splits.items():
        table.add_row(split, f"{len(names):,}", f"{COUNTS[split]:,}")
    console.print(table)
    folder = Path(output) if output is not None else plan.voc
    console.print(
        f"{done['made']:,} labels made, {done['kept']:,} were there: {shown(folder)}",
        highlight=False,
        soft_wrap=True,
    )
    counts = {split: len(names) for split, names in plan.splits.items()}
    write_json(json_file, {**done, "lists": counts, "problems": list(plan.problems)})


@command.command("synthesize")
@click.argument("root", type=click.Path())
@click.option(
    "--pictures",
    type=click.IntRange(min=10),
    default=3000,
    show_default=True,
    help="How many; every tenth is held back as val.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Another number gives other pictures, the same number the same bytes.",
)
@workers_option
@json_option
def synthesize_(
    root: str, pictures: int, seed: int, workers: int | None, json_file: str | None
) -> None:
    """Draw a set of pictures with exact labels into the new folder ROOT, as VOC 2012 is laid out.

    Aeroplanes, birds, boats, bottles, cars, horses, potted plants and TV monitors, each where such
    things are, before and behind other things; with void borders, and with parts so thin that only
    a CRF finds them.
    """
    from deeplab_repro.data.synthetic import synthesize

    with picture_progress() as bar:
        task = bar.add_task("drawing", total=pictures)
        lists = synthesize(
            root, pictures, seed=seed, workers=workers, advance=lambda: bar.advance(task)
        )
    console.print(
        f"{lists['train']:,} pictures for training and {lists['val']:,} held back: {shown(root)}",
        highlight=False,
        soft_wrap=True,
    )
    write_json(json_file, {"pictures": pictures, "seed": seed, "lists": lists})


@command.command("check")
@click.argument("root", type=click.Path())
@click.option("--list", "list_file", type=click.Path(), help="A list of pictures and labels.")
@click.option("--split", help="A list of VOC by its name; val by default.")
@num_classes_option
@classes_option
@workers_option
@json_option
def check_(
    root: str,
    list_file: str | None,
    split: str | None,
    num_classes: int,
    classes_file: str | None,
    workers: int | None,
    json_file: str | None,
) -> None:
    """Read every picture and label under ROOT that a list names, and say what is wrong.

    A picture or label that is missing or damaged, a label of another size than its picture, values
    that are no class ids, names listed twice: each is reported, and the exit code is 2.
    """
    from deeplab_repro.data.check import check

    dataset = chosen_dataset(root, list_file, split, num_classes, classes_file)
    with processes() as team, picture_progress() as bar:
        bar.disable = bar.disable or not team.first
        task = bar.add_task("checking", total=len(team.share(dataset)))
        found = check(dataset, workers=workers, team=team, advance=lambda: bar.advance(task))
    if team.first:
        _show(dataset, found)
        write_json(json_file, _as_json(dataset, found))
        for problem in found.problems[:_MOST_PROBLEMS]:
            click.echo(f"deeplab-repro: {printable(problem.text)}", err=True)
        rest = len(found.problems) - _MOST_PROBLEMS
        if rest > 0:
            click.echo(f"deeplab-repro: and {rest} more problems; --json has them all", err=True)
    if found.problems:
        raise click.exceptions.Exit(2)


def chosen_dataset(
    root: str,
    list_file: str | None,
    split: str | None,
    num_classes: int,
    classes_file: str | None,
) -> Dataset:
    """The data set that ``--list`` or ``--split`` names."""
    from deeplab_repro.data import read_list, voc

    if list_file is not None and split is not None:
        raise InputError("--list and --split", expected="one of them")
    dataset = voc(root, split or "val") if list_file is None else read_list(list_file, root)
    return replace(dataset, classes=chosen_classes(num_classes, classes_file))


def chosen_classes(num_classes: int, classes_file: str | None) -> Classes:
    """What ``--classes`` says, or VOC's names and colours."""
    from deeplab_repro.pictures.palette import Classes, read_classes

    if classes_file is None:
        return Classes.default(num_classes)
    return read_classes(classes_file, num_classes)


@command.command("decode")
@click.argument("pictures", nargs=-1, required=True, type=click.Path(), metavar="PICTURE...")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    callback=writable_folder,
    required=True,
    help="Folder for the labels.",
)
@num_classes_option
@classes_option
def decode(
    pictures: tuple[str, ...], output: str, num_classes: int, classes_file: str | None
) -> None:
    """Make label PNGs of colour-coded label pictures, in files or folders.

    The colours are those of --classes, or VOC's; a picture with any other colour is refused.
    """
    from deeplab_repro.data.labels import decode_colours
    from deeplab_repro.pictures.palette import write_label_png
    from deeplab_repro.pictures.reading import read_picture

    classes = chosen_classes(num_classes, classes_file)
    files = [
        file
        for name in pictures
        for file in (sorted(Path(name).glob("*.png")) if Path(name).is_dir() else [Path(name)])
    ]
    target = Path(output)
    for file in files:
        if target.resolve() == file.parent.resolve() and file.suffix == ".png":
            raise InputError("is an input, and would be overwritten", file=file)
    make_folder(target)
    with picture_progress() as bar:
        for file in bar.track(files, description="decoding"):
            try:
                with decoders_silent():
                    rgb = read_picture(file)[:, :, ::-1]
                labels = decode_colours(rgb, num_classes, classes.colours)
            except BadInput as error:
                raise error.with_file(file) from None
            write_label_png(target / f"{file.stem}.png", labels, classes.colours)
    console.print(
        f"{number(len(files), 'label')} written: {shown(target)}", highlight=False, soft_wrap=True
    )


def _show(dataset: Dataset, found: Check) -> None:
    table = make_table("", **{"id": "right", "class": "left"}, pictures="right", pixels="right")
    whole = int(found.pixels.sum()) + found.void
    for i, name in enumerate(dataset.classes.names):
        share = found.pixels[i] / whole if whole else 0.0
        table.add_row(str(i), shown(name), f"{found.pictures[i]:,}", f"{100 * share:.2f} %")
    if whole:
        table.add_row("255", "void", "", f"{100 * found.void / whole:.2f} %")
    console.print(table)
    small, large = (f"{size[0]}x{size[1]}" for size in (found.smallest, found.largest))
    verdict = number(len(found.problems), "problem") if found.problems else "nothing wrong"
    console.print(
        f"{shown(dataset.name)}: {len(dataset):,} pictures from {small} to {large}, "
        f"{found.labelled:,} with labels, {found.without_void:,} of them without void; {verdict}",
        highlight=False,
        soft_wrap=True,
    )


def _as_json(dataset: Dataset, found: Check) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "pictures": len(dataset),
        "labelled": found.labelled,
        "without_void": found.without_void,
        "smallest": found.smallest,
        "largest": found.largest,
        "void_pixels": found.void,
        "classes": [
            {"id": i, "name": name, "pictures": int(pictures), "pixels": int(pixels)}
            for i, (name, pictures, pixels) in enumerate(
                zip(dataset.classes.names, found.pictures, found.pixels, strict=True)
            )
        ],
        "problems": [problem._asdict() for problem in found.problems],
    }
