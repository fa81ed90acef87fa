"""Lists of pictures and their label pictures.

>>> from deeplab_repro.data import read_list, voc
>>> val = voc("VOCdevkit", split="val")
>>> own = read_list("list/train.txt", root="my_pictures")
>>> own[0].picture, own[0].label
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, overload

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.palette import Classes
from deeplab_repro.pictures.voc import VOC_CLASSES
from prototxt_import.files import read_text, replacing

__all__ = ["LIST_FOLDERS", "Dataset", "Sample", "read_list", "voc", "voc_folder", "write_lists"]

#: Folders of a VOC root with lists of ids: those of VOC itself, then those of `data prepare-voc`.
LIST_FOLDERS: Final = ("ImageSets/Segmentation", "ImageSets/SegmentationAug")
#: Folders of a VOC root with label pictures: those of VOC itself, then those with SBD's added.
_LABEL_FOLDERS: Final = ("SegmentationClass", "SegmentationClassAug")


@dataclass(frozen=True)
class Sample:
    """One picture.

    Attributes:
        name: its file name without the ending, such as ``2007_000033``.
        picture: the file.
        label: its label picture; None where there is none, as in a test set.
    """

    name: str
    picture: Path
    label: Path | None = None


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[Sample]):
    """Samples in the order of their list.

    Attributes:
        name: of the list, such as ``val``.
        samples: the pictures.
        classes: what the ids in the labels mean.
    """

    name: str
    samples: tuple[Sample, ...]
    classes: Classes = field(default_factory=lambda: Classes.default(len(VOC_CLASSES)))

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Dataset: ...

    def __getitem__(self, index: int | slice) -> Sample | Dataset:
        """A sample by its number, or a part of the set, which keeps name and classes."""
        if isinstance(index, slice):
            return replace(self, samples=self.samples[index])
        return self.samples[index]

    @property
    def duplicates(self) -> list[str]:
        """Names that occur more than once."""
        counts = Counter(sample.name for sample in self.samples)
        return [name for name, count in counts.items() if count > 1]


def read_list(
    list_file: str | os.PathLike[str],
    root: str | os.PathLike[str],
    classes: Classes | None = None,
) -> Dataset:
    """A data set from a list file in Caffe's form (image_seg_data_layer.cpp).

    A line is ``/JPEGImages/2007_000033.jpg /SegmentationClassAug/2007_000033.png``: a picture and
    its label picture behind the root folder, whether or not they start with a "/".  The label may
    be missing, as in the lists of a test set.  A line may also be a name alone, ``2007_000033``,
    which stands for the files of that name in the layout of VOC; VOC's own label is taken before
    the one in ``SegmentationClassAug``.

    Args:
        list_file: the list.
        root: the folder that the files are named from, ``root_folder`` in a prototxt.
        classes: what the ids mean; VOC's 21 by default.

    Returns:
        The samples, under the name of the list without its ending and without ``_id``.  The files
        are not looked at; `data check` does that.

    Raises:
        InputError: no list, an empty one, or a line of another form.
    """
    try:
        lines = read_text(list_file).splitlines()
    except BadInput as error:
        error.expected = "a list of pictures, a text file in UTF-8"
        raise
    root = Path(root)
    samples = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) > 2:
            raise InputError(
                f"line {number} is no picture and its label",
                file=list_file,
                expected="one or two file names without blanks",
                got=line.strip(),
            )
        if fields:
            samples.append(_sample(fields, root))
    if not samples:
        raise InputError("names no pictures", file=list_file)
    name = Path(list_file).stem.removesuffix("_id")
    return Dataset(name, tuple(samples), **({} if classes is None else {"classes": classes}))


def voc(root: str | os.PathLike[str], split: str = "val") -> Dataset:
    """PASCAL VOC 2012 as it is unpacked, or a folder of that form.

    Args:
        root: the folder ``VOC2012``, ``VOCdevkit``, or the one above it.
        split: ``train``, ``val``, ``trainval``, ``test``, or after `data prepare-voc` also
            ``train_aug`` and ``trainval_aug``; the name of a list in ``ImageSets/Segmentation`` or
            ``ImageSets/SegmentationAug``.

    Returns:
        Its samples.  Where a picture has a label in ``SegmentationClass`` and one in
        ``SegmentationClassAug``, the former is taken; they hold the same ids.

    Raises:
        InputError: no such folder, or no list of that name.
    """
    folder = voc_folder(root)
    lists = [folder / place / f"{split}.txt" for place in LIST_FOLDERS]
    found = next((file for file in lists if file.is_file()), None)
    if found is None:
        known = {file.stem for place in LIST_FOLDERS for file in (folder / place).glob("*.txt")}
        names = sorted(name for name in known if not name.endswith("_id"))
        hint = " (`deeplab-repro data prepare-voc` makes it)" if split.endswith("_aug") else ""
        raise InputError(
            f"has no list '{split}'{hint}",
            file=folder,
            expected=f"one of {', '.join(names)}" if names else lists[0].relative_to(folder),
        )
    return read_list(found, folder)


def voc_folder(root: str | os.PathLike[str]) -> Path:
    """The folder with ``JPEGImages`` that is meant by VOC2012, VOCdevkit, or the folder above.

    Raises:
        InputError: there is none.
    """
    places = [Path(root, below) for below in ("", "VOC2012", "VOCdevkit/VOC2012")]
    for place in places:
        if (place / "JPEGImages").is_dir():
            return place
    raise InputError(
        "is no PASCAL VOC",
        file=root,
        expected="a folder with JPEGImages, or with VOC2012 or VOCdevkit/VOC2012 in it",
    )


def write_lists(folder: Path, split: str, names: Sequence[str], labels: str) -> None:
    """Write a list in Caffe's form, and one of names alone, which the MatWrite layer reads.

    Args:
        folder: gets ``SPLIT.txt`` and ``SPLIT_id.txt``.
        split: name of the list.
        names: of the pictures.
        labels: the folder beside JPEGImages that holds their labels.
    """
    lines = [f"/JPEGImages/{name}.jpg /{labels}/{name}.png" for name in names]
    for file, text in ((f"{split}.txt", lines), (f"{split}_id.txt", names)):
        with replacing(folder / file) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")


def _sample(fields: Sequence[str], root: Path) -> Sample:
    """The files of one line; a leading "/" only separates them from the root, as in Caffe."""
    files = [Path(text.lstrip("/")) for text in fields]
    picture = files[0]
    if len(files) == 2:
        return Sample(picture.stem, root / picture, root / files[1])
    if picture.suffix or len(picture.parts) > 1:
        return Sample(picture.stem, root / picture)
    labels = [root / folder / f"{picture}.png" for folder in _LABEL_FOLDERS]
    label = next((file for file in labels if file.is_file()), None)
    return Sample(picture.name, root / "JPEGImages" / f"{picture}.jpg", label)
