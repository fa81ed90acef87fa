"""``deeplab-repro crf-tune``"""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING

import click

from deeplab_repro.cli.common import console
from deeplab_repro.cli.jobs import crf_device
from deeplab_repro.cli.refining import score_options
from deeplab_repro.errors import BadInput

if TYPE_CHECKING:
    from deeplab_repro.tuning import Subject


@click.command("crf-tune")
@click.option("--image", type=click.Path(), required=True, help="A picture.")
@click.option(
    "--scores",
    type=click.Path(),
    required=True,
    help="Its scores, in a file of any kind that crf reads.",
)
@click.option(
    "--params",
    metavar="NAME",
    default="run_densecrf",
    show_default=True,
    help="Parameters of a released model to begin with; the page has them all.",
)
@score_options
@click.option(
    "--classes",
    "classes_file",
    type=click.Path(),
    help="Class names, one a line; a line may end in a colour such as #804080.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The port on 127.0.0.1.  By default one that is free.",
)
@click.option(
    "--browser/--no-browser", default=True, show_default=True, help="Open the page in the browser."
)
def command(
    image: str,
    scores: str,
    params: str,
    probabilities: bool,
    key: str | None,
    crop: bool,
    classes_file: str | None,
    port: int,
    browser: bool,
) -> None:
    """Choose a CRF's parameters by eye.

    Serves a page with sliders for weights, stds and iterations.  While one drags them it shows the
    labels, their borders and the marginals of one label, first at reduced size and then at that of
    the picture.  What was found is copied as CRFParams, as arguments of `crf` or as code for
    pydensecrf.  Only this machine reaches the page, and only this picture is on it.  Ctrl-C ends.
    """
    from deeplab_repro.tuning import Tuner, listen

    subject = _subject(image, scores, probabilities, key, crop, classes_file)
    tuner = Tuner(subject, params, crf_device())
    server = listen(tuner, port)
    address = f"http://127.0.0.1:{server.port}/"
    console.print(f"the page: {address} (Ctrl-C ends)", highlight=False, soft_wrap=True)
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()  # returns at Ctrl-C
    finally:
        tuner.close()


def _subject(
    image: str,
    scores_file: str,
    probabilities: bool,
    key: str | None,
    crop: bool,
    classes_file: str | None,
) -> Subject:
    from deeplab_repro.pictures.palette import Classes, read_classes
    from deeplab_repro.pictures.reading import read_picture
    from deeplab_repro.pictures.scores import energies, look_like_probabilities, read_scores
    from deeplab_repro.tuning import Subject

    picture = read_picture(image)
    scores = read_scores(scores_file, key)
    if not probabilities and look_like_probabilities(scores):
        click.echo(
            f"deeplab-repro: warning: {scores_file}: these are probabilities, and are taken as"
            " scores: --probabilities",
            err=True,
        )
    size = picture.shape[0], picture.shape[1]
    try:
        unary = energies(scores, size, probabilities=probabilities, crop=crop)
    except BadInput as error:
        raise error.with_file(scores_file) from None
    count = len(unary)
    classes = Classes.default(count) if classes_file is None else read_classes(classes_file, count)
    options = ["--key", key] if key is not None else []
    options += ["--probabilities"] if probabilities else []
    options += ["--crop"] if crop else []
    options += ["--classes", classes_file] if classes_file is not None else []
    return Subject(picture, unary, classes, image, scores_file, options, probabilities)
