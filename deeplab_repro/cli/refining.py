"""What the commands that run a dense CRF share: options, parameters, device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deeplab_repro.errors import InputError
from prototxt_import.files import read_text

if TYPE_CHECKING:
    from deeplab_repro.crf import CRFParams
    from deeplab_repro.inference.tiled import Tiling

__all__ = ["normalization_option", "read_crf_params", "score_options", "tile_options", "tiling_of"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
#: As of `deeplab_repro.pictures.score_parts.PARTWISE`, which is not loaded for a help text.
_PARTWISE = (".npy", ".npz")


def score_options(command: _Command) -> _Command:
    """``--probabilities``, ``--key`` and ``--crop``."""
    for decorate in reversed(
        [
            click.option(
                "--probabilities",
                is_flag=True,
                help="The scores are probabilities, after a softmax.",
            ),
            click.option(
                "--key", metavar="NAME", help="The array in an .npz or .h5 that holds several."
            ),
            click.option(
                "--crop",
                is_flag=True,
                help="The scores are those of a picture padded right and below: take its part of"
                " them.",
            ),
        ]
    ):
        command = decorate(command)
    return command


normalization_option = click.option(
    "--normalization",
    type=click.Choice(["after", "symmetric", "before", "none"]),
    default="after",
    show_default=True,
    help="Where kernels are divided by their sums; after is DeepLab's, symmetric pydensecrf's.",
)


def tile_options(command: _Command) -> _Command:
    """``--tile`` and ``--overlap``, for :func:`tiling_of`."""
    for decorate in reversed(
        [
            click.option(
                "--tile",
                type=click.IntRange(min=1),
                metavar="N",
                help="For pictures too large for the memory: work on overlapping tiles of N x N"
                " pixels, and put their results together.",
            ),
            click.option(
                "--overlap",
                type=click.IntRange(min=0),
                metavar="M",
                help="With --tile: pixels that neighbouring tiles share.  By default as many as"
                " are needed for labels that hardly differ from those of the whole picture.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def tiling_of(tile: int | None, overlap: int | None, written: str | None) -> Tiling | None:
    """What :func:`tile_options` asked for; None without tiles.

    Args:
        tile: the pixels of a tile's side.
        overlap: those that neighbours share.
        written: the kind of file for the scores or marginals, if they are written.

    Raises:
        InputError: an overlap alone or as large as a tile, or a kind that is not written in parts.
    """
    from deeplab_repro.inference.tiled import Tiling

    if tile is None:
        if overlap is not None:
            raise InputError("--overlap", expected="--tile beside it")
        return None
    if written is not None and written not in _PARTWISE:
        raise InputError(
            "with --tile only some kinds of files are written",
            expected=" or ".join(_PARTWISE),
            got=written,
        )
    return Tiling(tile, overlap)


def read_crf_params(text: str) -> CRFParams:
    """The parameters of a released model, or those in a file.

    Args:
        text: A name that ``CRFParams.named`` knows, or a ``.json`` file with fields of
            ``CRFParams``, such as ``crf-search`` writes.

    Raises:
        InputError: Neither a name nor such a file.
    """
    from deeplab_repro.crf import Bilateral, CRFParams

    if Path(text).suffix != ".json":
        try:
            return CRFParams.named(text)
        except ValueError as error:
            raise InputError(f"{error}, or a .json file of parameters") from None
    try:
        fields = json.loads(read_text(text))
        # A std for each axis or channel is a list in JSON.
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        fields["extra"] = tuple(Bilateral(**kernel) for kernel in fields.get("extra", ()))
        return CRFParams(**fields)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"holds no parameters of a CRF ({error})", file=text, expected="fields of CRFParams"
        ) from None
