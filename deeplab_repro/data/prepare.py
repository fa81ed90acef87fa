"""The augmented PASCAL VOC 2012 that DeepLab trains on: VOC's labels and those of SBD.

VOC 2012 labels 2,913 pictures.  The Semantic Boundaries Dataset (Hariharan et al., ICCV 2011)
labels 11,355 pictures of VOC 2011, val pictures of VOC 2012 among them.  The released lists are::

    train_aug    = (SBD and VOC's train) without VOC's val      10,582
    trainval_aug = SBD and VOC's trainval                       12,031

in the order of their names, and where both label a picture VOC's label counts
(TransformBerkeleyVOC2011Annot.m copies VOC's over SBD's).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from deeplab_repro.data.datasets import LIST_FOLDERS, voc_folder, write_lists
from deeplab_repro.data.labels import read_label
from deeplab_repro.data.parallel import over
from deeplab_repro.errors import InputError
from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.processes import Processes
from prototxt_import.files import read_text, replacing

__all__ = ["COUNTS", "VocPlan", "plan_voc", "prepare_voc"]

#: Split -> pictures in the released list.
COUNTS: Final = {
    "train": 1464,
    "val": 1449,
    "trainval": 2913,
    "train_aug": 10582,
    "trainval_aug": 12031,
}
_LABELS: Final = "SegmentationClassAug"
_LISTS: Final = LIST_FOLDERS[1]
_MOST_NAMED: Final = 5


@dataclass(frozen=True)
class VocPlan:
    """What is to be made of a VOC and an SBD.

    Attributes:
        voc: the folder VOC2012.
        sources: picture -> the file of its label, in the order of the names.
        splits: split -> its pictures, in the order of the list.
        problems: what is missing, or counted differently than in the released lists.
    """

    voc: Path
    sources: Mapping[str, Path]
    splits: Mapping[str, Sequence[str]]
    problems: Sequence[str]


def plan_voc(voc: str | os.PathLike[str], sbd: str | os.PathLike[str]) -> VocPlan:
    """Find the pictures and labels of both sets.

    Args:
        voc: VOC2012, VOCdevkit, or the folder above.
        sbd: ``benchmark_RELEASE``, its folder ``dataset``, or the folder above; with ``cls/*.mat``.

    Returns:
        The plan; where ``problems`` is empty it makes the released lists.

    Raises:
        InputError: one of the two is not there.
    """
    folder = voc_folder(voc)
    cls = _sbd_labels(Path(sbd))
    of_sbd = {file.stem: file for file in cls.glob("*.mat")}
    lists = {split: _read_ids(folder / LIST_FOLDERS[0] / f"{split}.txt") for split in COUNTS}
    train, val = lists["train"], lists["val"]
    splits = {
        "train": sorted(train),
        "val": sorted(val),
        "trainval": sorted(train | val),
        "train_aug": sorted((of_sbd.keys() | train) - val),
        "trainval_aug": sorted(of_sbd.keys() | train | val),
    }
    of_voc = {name: folder / "SegmentationClass" / f"{name}.png" for name in splits["trainval"]}
    sources = {name: of_voc.get(name, of_sbd.get(name, cls)) for name in splits["trainval_aug"]}
    listed = _read_ids(cls.parent / "train.txt") | _read_ids(cls.parent / "val.txt")
    missing = {
        "labels of VOC's lists in SegmentationClass": [
            name for name, file in of_voc.items() if not file.is_file()
        ],
        "labels of SBD's lists in cls": sorted(listed - of_sbd.keys()),
        "pictures in JPEGImages": [
            name for name in sources if not (folder / "JPEGImages" / f"{name}.jpg").is_file()
        ],
    }
    problems = [
        f"{len(names)} {what} are missing: {', '.join(names[:_MOST_NAMED])}"
        + (", ..." if names[_MOST_NAMED:] else "")
        for what, names in missing.items()
        if names
    ]
    problems += [
        f"{split} has {len(splits[split]):,} pictures, the released list has {count:,}"
        for split, count in COUNTS.items()
        if len(splits[split]) != count
    ]
    return VocPlan(folder, sources, splits, problems)


def prepare_voc(
    plan: VocPlan,
    output: str | os.PathLike[str] | None = None,
    *,
    palette: bool = True,
    workers: int | None = None,
    team: Processes | None = None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Write the labels of both sets as one folder of PNGs, and the lists.

    Labels that are there already are kept, so that a run which was stopped goes on; each is written
    whole or not at all, and the lists come last.  What the plan's problems name is left out.

    Args:
        plan: of :func:`plan_voc`.
        output: gets ``SegmentationClassAug`` and ``ImageSets/SegmentationAug``, and, if it is
            another folder than VOC2012, a link ``JPEGImages``; VOC2012 by default.
        palette: PNGs with VOC's palette; else grey ones, which Caffe's data layer needs, since it
            reads colours where there is a palette.
        workers: threads of each process; all cores by default.
        team: the processes that share the work; this one alone by default.
        advance: called after each label of this process.

    Returns:
        "made" and "kept": how many labels.

    Raises:
        InputError: a label that holds no class ids, or a folder that cannot be written.
    """
    team = team or Processes()
    folder = plan.voc if output is None else Path(output)
    labels = folder / _LABELS
    for place in (labels, folder / _LISTS):
        place.mkdir(parents=True, exist_ok=True)
    pictures = folder / "JPEGImages"
    if team.first and not pictures.exists():
        pictures.symlink_to((plan.voc / "JPEGImages").resolve(), target_is_directory=True)
    usable = [
        _Label(source, labels / f"{name}.png", palette)
        for name, source in plan.sources.items()
        if source.is_file() and (plan.voc / "JPEGImages" / f"{name}.jpg").is_file()
    ]
    mine = over(_Label.write, team.share(usable), workers, advance=advance)
    made = team.merge(mine)
    if team.first:
        there = {item.target.stem for item in usable}
        for split, names in plan.splits.items():
            ids = [name for name in names if name in there]
            write_lists(folder / _LISTS, split, ids, _LABELS)
    team.wait()
    return {"made": sum(made), "kept": len(made) - sum(made)}


@dataclass(frozen=True)
class _Label:
    """A label to write."""

    source: Path
    target: Path
    palette: bool

    def write(self) -> bool:
        """Write it if it is not there; returns whether it was written."""
        if self.target.is_file():
            with Image.open(self.target) as picture:  # the header alone
                if (picture.mode == "P") == self.palette:
                    return False
        if self.target.is_symlink():
            self.target.unlink()  # it may point to one of VOC's own labels, which stays as it is
        labels = read_label(self.source)
        if self.palette:
            write_label_png(self.target, labels)
        else:
            with replacing(self.target) as temporary:
                Image.fromarray(labels).save(temporary, "PNG")
        return True


def _sbd_labels(root: Path) -> Path:
    for below in ("", "dataset", "benchmark_RELEASE/dataset"):
        if (root / below / "cls").is_dir():
            return root / below / "cls"
    raise InputError(
        "is no Semantic Boundaries Dataset",
        file=root,
        expected="a folder with cls, dataset/cls or benchmark_RELEASE/dataset/cls in it",
    )


def _read_ids(file: Path) -> set[str]:
    """The names of a list of ids; none where there is no such file."""
    return set(read_text(file).split()) if file.is_file() else set()
