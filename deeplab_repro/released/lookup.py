"""Released models by name."""

from __future__ import annotations

from pathlib import Path

from deeplab_repro.released.manifest import read_manifest
from deeplab_repro.released.models import ReleasedModel, WeightsFile

__all__ = ["find", "find_weights", "names", "resolve"]


def names() -> tuple[str, ...]:
    """The names of all released models, in the order of the papers."""
    return tuple(read_manifest().models)


def find(name: str) -> ReleasedModel:
    """The released model of a name.

    Args:
        name: Its name, the full name of its network, or its authors' name.

    Raises:
        InputError: There is none; the message names those that are spelled alike.
    """
    return read_manifest().find(name)


def find_weights(name: str) -> tuple[ReleasedModel, WeightsFile]:
    """A released model and one of its sets of weights: see `Manifest.find_weights`."""
    return read_manifest().find_weights(name)


def resolve(model: str) -> Path | None:
    """The weights that a MODEL on the command line stands for.

    Args:
        model: NAME or NAME/FILE, as of `find_weights`.

    Returns:
        The safetensors in the local store; None if no released model has this name.

    Raises:
        InputError: The weights have not been fetched, or the model has none of this name.
    """
    name, _, file = model.partition("/")
    known = read_manifest().get(name)
    return None if known is None else known.file(file or None)
