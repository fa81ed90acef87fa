"""``deeplab-repro crf-search``"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deeplab_repro.cli.common import console, json_option, make_table, shown, write_json
from deeplab_repro.cli.data import num_classes_option, workers_option
from deeplab_repro.cli.jobs import (
    crf_device,
    decoders_silent,
    listed_dataset,
    listed_options,
    picture_progress,
)
from deeplab_repro.cli.refining import normalization_option, score_options
from deeplab_repro.errors import InputError
from deeplab_repro.processes import processes
from prototxt_import.files import replacing_file
from prototxt_import.words import finite_or_none, number

if TYPE_CHECKING:
    from deeplab_repro.data import Dataset
    from deeplab_repro.evaluation.crf_search import Grid, Search, Task

_SHOWN: Final = 10  # settings in the table
_MOST_VALUES: Final = 1000
_RANGE: Final = "positive numbers as A:B, A:STEP:B or A,B,..."


@click.command("crf-search")
@listed_options
@click.option(
    "--scores",
    type=click.Path(),
    required=True,
    help="Folder with the network's scores of each picture, as for `crf`.",
)
@click.option("--labels", type=click.Path(), help="Folder with the labels, in place of the list's.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    required=True,
    help="Folder for the results and for what is counted on the way; a search that was stopped"
    " goes on there.",
)
@click.option(
    "--subset",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Pictures, chosen by chance.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--ranges",
    type=click.Choice(["v1", "v2"]),
    default="v2",
    show_default=True,
    help="The ranges of the first or the second paper; the next three replace some of them.",
)
@click.option("--bi-w", metavar="RANGE", help="Weights: A:B, A:STEP:B (as in Matlab) or A,B,...")
@click.option("--bi-xy-std", metavar="RANGE", help="Stds in pixels, likewise.")
@click.option("--bi-rgb-std", metavar="RANGE", help="Stds in grey levels, likewise.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 10),
    default=3,
    show_default=True,
    help="After the first, each goes around the best setting at half the steps.",
)
@click.option("--iterations", type=click.IntRange(min=0), default=10, show_default=True)
@click.option("--pos-w", default=3.0, show_default=True, help="Weight of the spatial kernel.")
@click.option("--pos-xy-std", default=3.0, show_default=True, help="Its std in pixels.")
@num_classes_option
@score_options
@normalization_option
@workers_option
@json_option
def command(
    voc: str | None,
    split: str | None,
    list_file: str | None,
    root: str | None,
    scores: str,
    labels: str | None,
    output: str,
    subset: int,
    seed: int,
    ranges: str,
    bi_w: str | None,
    bi_xy_std: str | None,
    bi_rgb_std: str | None,
    rounds: int,
    iterations: int,
    pos_w: float,
    pos_xy_std: float,
    normalization: str,
    num_classes: int,
    probabilities: bool,
    key: str | None,
    crop: bool,
    workers: int | None,
    json_file: str | None,
) -> None:
    """Search for the CRF's parameters with the best mean IoU on some pictures.

    As the papers did: iterations and spatial kernel fixed, weight and stds of the bilateral kernel
    tried in coarse steps, then in finer ones around the best.  Writes crf_params.json (for
    `segment --crf` and `crf --params`), heat_map.png and what is counted of each picture (counts/)
    to the output folder.  Stop it or kill it at any moment: the same command goes on where it was.
    Under `torchrun --nproc-per-node N -m deeplab_repro crf-search ...` the pictures are shared
    out, with the same result.
    """
    from deeplab_repro.evaluation.crf_search import Task, choose, search_crf, with_scores

    grid = _grid(ranges, bi_w=bi_w, bi_xy_std=bi_xy_std, bi_rgb_std=bi_rgb_std)
    task = Task(
        _fixed(iterations, pos_w, pos_xy_std), num_classes, normalization, key, probabilities, crop
    )
    if not Path(scores).is_dir():
        raise InputError("is no folder", file=scores)
    dataset = listed_dataset(voc, split, list_file, root)
    chosen = choose(dataset, subset, seed)
    pictures = with_scores(chosen, scores, None if labels is None else Path(labels))
    with (
        processes() as team,
        decoders_silent(),
        picture_progress(hidden=not team.first) as bar,
    ):
        bar_task = bar.add_task("searching", total=len(team.share(pictures)))

        def begin(round_number: int, settings: int) -> None:
            what = f"round {round_number} of {rounds}, {number(settings, 'setting')}"
            bar.reset(bar_task, description=what)

        found = search_crf(
            pictures,
            output,
            grid,
            task,
            rounds=rounds,
            workers=workers,
            team=team,
            device=crf_device(),
            begin=begin,
            advance=lambda: bar.advance(bar_task),
        )
        if not team.first:
            return
    if math.isnan(found.before.mean_iou):
        raise InputError("the labels of these pictures are all void", file=labels or dataset.name)
    params_file = Path(output) / "crf_params.json"
    write_json(str(params_file), asdict(found.params))
    _draw(found, Path(output) / "heat_map.png")
    _show(found, dataset, params_file)
    names = [picture.name for picture in pictures]
    write_json(json_file, _as_json(found, dataset, scores, seed, names, task))


def _fixed(iterations: int, pos_w: float, pos_xy_std: float) -> Any:
    from deeplab_repro.crf import CRFParams

    try:
        return CRFParams(iterations=iterations, pos_w=pos_w, pos_xy_std=pos_xy_std)
    except ValueError as error:
        raise InputError(str(error)) from None


def _grid(ranges: str, **texts: str | None) -> Grid:
    """The published ranges, some of them replaced."""
    from deeplab_repro.evaluation.crf_search import PUBLISHED_GRIDS, Grid

    published = PUBLISHED_GRIDS[ranges]
    return Grid(
        *(
            getattr(published, name) if text is None else _values(name, text)
            for name, text in texts.items()
        )
    )


def _values(name: str, text: str) -> tuple[float, ...]:
    """The numbers of "3:6", "30:10:100" (as in Matlab) or "4,5,9"."""
    option = f"--{name.replace('_', '-')}"
    separator = ":" if ":" in text else ","
    try:
        parts = [float(part) for part in text.split(separator)]
    except ValueError:
        parts = []
    if not parts or not all(0 < part < math.inf for part in parts):
        raise InputError(option, expected=_RANGE, got=text)
    if separator == ",":
        return tuple(parts)
    first, last, step = parts[0], parts[-1], parts[1] if len(parts) == 3 else 1.0
    count = math.floor((last - first) / step + 1e-9) + 1
    if len(parts) not in (2, 3) or not 1 <= count <= _MOST_VALUES:
        raise InputError(option, expected=_RANGE, got=text)
    return tuple(round(first + i * step, 9) for i in range(count))


def _draw(found: Search, target: Path) -> None:
    from deeplab_repro.evaluation.crf_heat_map import heat_map

    figure = heat_map(found)
    with replacing_file(target) as out:
        figure.savefig(out, format="png", dpi=120)


def _show(found: Search, dataset: Dataset, params_file: Path) -> None:
    before = found.before.mean_iou
    table = make_table(
        "", bi_w="right", bi_xy_std="right", bi_rgb_std="right", mean_IoU="right", gain="right"
    )
    for i, setting in enumerate(found.ranking[:_SHOWN]):
        mean_iou = found.found[setting].mean_iou
        table.add_row(
            *(f"{value:g}" for value in setting),
            f"{100 * mean_iou:.2f}",
            f"{100 * (mean_iou - before):+.2f}",
            style="bold" if i == 0 else None,
        )
    table.add_row("", "", "without CRF", f"{100 * before:.2f}", "")
    console.print(table)
    params = found.params
    lines = [
        f"{number(len(found.found), 'setting')} in {number(len(found.rounds), 'round')} on"
        f" {number(found.pictures, 'picture')} of {shown(dataset.name)}",
        *(
            f"the best {name} lies at the edge of what was tried: a wider range may hold a better"
            f" one (--{name.replace('_', '-')})"
            for name in found.at_the_edge
        ),
        "",
        f"CRFParams(iterations={params.iterations}, pos_w={params.pos_w:g},"
        f" pos_xy_std={params.pos_xy_std:g}, bi_w={params.bi_w:g}, bi_xy_std={params.bi_xy_std:g},"
        f" bi_rgb_std={params.bi_rgb_std:g})",
        f"deeplab-repro segment ... --crf {shown(params_file)}",
        f"deeplab-repro crf ... --params {shown(params_file)}",
        "",
        f"written: {shown(params_file.parent)}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _as_json(
    found: Search, dataset: Dataset, scores: str, seed: int, names: list[str], task: Task
) -> dict[str, Any]:
    return {
        "data": dataset.name,
        "scores": scores,
        "seed": seed,
        "pictures": names,
        **task.as_json(),
        "before": {"mean_iou": finite_or_none(found.before.mean_iou)},
        "params": asdict(found.params),
        "at_the_edge": found.at_the_edge,
        "rounds": [asdict(grid) for grid in found.rounds],
        "settings": [
            {
                **setting._asdict(),
                "mean_iou": finite_or_none(found.found[setting].mean_iou),
                "pixel_accuracy": finite_or_none(found.found[setting].pixel_accuracy),
            }
            for setting in found.ranking
        ],
    }
