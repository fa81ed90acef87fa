"""Whether weights were trained on the pictures that they are scored on.

The released ``train2`` weights were: they score 85 to 87 on val, where the paper's have 76.35.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from deeplab_repro.data.datasets import Dataset, read_list
from deeplab_repro.errors import InputError

__all__ = ["is_known", "warn_if_seen", "was_seen"]

#: Split of VOC 2012 -> the parts that it is made of, which have no picture in common.
_PARTS: Final = {
    "train": {"train"},
    "val": {"val"},
    "trainval": {"train", "val"},
    "train_aug": {"train", "sbd"},
    "trainval_aug": {"train", "val", "sbd"},
    "test": {"test"},
}
#: Data sets of other pictures, in small letters -> as they are written.
_OTHERS: Final = {"imagenet": "ImageNet", "coco": "COCO"}
_MOST_SHOWN: Final = 3


def was_seen(trained_on: str, scored: str | Dataset | Iterable[str]) -> str:
    """Say whether the pictures scored were among those trained on.

    Args:
        trained_on: a split of VOC 2012, such as ``train_aug`` or ``trainval_aug``; ``ImageNet`` or
            ``COCO``, which hold other pictures; several of them joined by "+" or ","; or a list
            file of pictures.
        scored: a split, a data set, or the names of the pictures.

    Returns:
        One sentence if some were, and else "".

    Raises:
        InputError: ``trained_on`` is none of these, or a file that is no list.
    """
    if Path(trained_on).is_file():
        return _seen_by_name(trained_on, scored)
    parts = set().union(*map(_parts_of, trained_on.replace("+", ",").split(",")))
    name = scored if isinstance(scored, str) else getattr(scored, "name", None)
    if isinstance(scored, str) and scored not in _PARTS:
        raise InputError("which pictures are scored", expected=", ".join(_PARTS), got=scored)
    return _sentence(trained_on, name) if name and parts & _PARTS.get(name, set()) else ""


def is_known(trained_on: str) -> bool:
    """Whether :func:`was_seen` can tell: a list of models may name sets that nobody else knows."""
    try:
        was_seen(trained_on, "val")
    except InputError:
        return False
    return True


def _parts_of(word: str) -> set[str]:
    word = word.strip()
    if word in _PARTS:
        return _PARTS[word]
    if word.lower() in _OTHERS:
        return set()
    raise InputError(
        "what the weights were trained on",
        expected=f"a list file, or {', '.join(_PARTS)}, {' or '.join(_OTHERS.values())}",
        got=word or "nothing",
    )


def _seen_by_name(list_file: str, scored: str | Dataset | Iterable[str]) -> str:
    trained = {sample.name for sample in read_list(list_file, "")}
    if isinstance(scored, str):
        return ""
    names = [item if isinstance(item, str) else item.name for item in scored]
    both = [name for name in names if name in trained]
    if not both:
        return ""
    shown = ", ".join(both[:_MOST_SHOWN]) + (", ..." if len(both) > _MOST_SHOWN else "")
    return _sentence(list_file, f"{len(both)} of the {len(names)} pictures ({shown})")


def warn_if_seen(trained_on: str, scored: str | Dataset | Iterable[str]) -> bool:
    """Warn that a score is no measure of skill where :func:`was_seen` says so.

    Args:
        trained_on: as of :func:`was_seen`; the ``trained_on`` of a released model.
        scored: as of :func:`was_seen`.

    Returns:
        Whether it warned.
    """
    sentence = was_seen(trained_on, scored)
    if sentence:
        warnings.warn(sentence, stacklevel=2)
    return bool(sentence)


def _sentence(trained_on: str, scored: str) -> str:
    return (
        f"the weights were trained on {trained_on} and have seen {scored}: the score says how well"
        " they remember these pictures, and cannot be held against published numbers"
    )
