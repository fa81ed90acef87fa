"""The weights that a training starts from."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prototxt_import import Weights, read_weights

__all__ = ["StrPath", "file_names", "merged_weights"]

StrPath = str | os.PathLike[str]


def file_names(weights: StrPath | Sequence[StrPath] | None) -> list[StrPath]:
    """The files that ``weights=`` names: none, one, several, or a text with commas between."""
    if weights is None:
        return []
    if isinstance(weights, str):
        return [name.strip() for name in weights.split(",") if name.strip()]
    return [weights] if isinstance(weights, os.PathLike) else list(weights)


def merged_weights(files: Sequence[StrPath]) -> Weights:
    """The weights of several files, copied one after the other: of each layer the last ones."""
    merged: Weights = {}
    for file in files:
        for layer, blobs in read_weights(file).items():
            merged.pop(layer, None)  # copies of shared parameters are taken in the order of files
            merged[layer] = blobs
    return merged
