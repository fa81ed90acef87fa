"""Score maps in files of several kinds, and as energies of a picture's pixels."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.matlab import (
    VARIABLE,
    chosen,
    is_hdf5,
    read_bin,
    read_mat,
    write_bin,
    write_mat,
)
from deeplab_repro.pictures.reading import load_npy
from prototxt_import.files import open_file, replacing_file
from prototxt_import.hdf5 import children, member, open_hdf5, read_dataset, walk_groups
from prototxt_import.limits import MAX_BLOB_BYTES, MAX_HDF5_EXPANSION, SMALL_BYTES

__all__ = [
    "ENDINGS",
    "WRITTEN",
    "check_size",
    "energies",
    "look_like_probabilities",
    "read_scores",
    "score_file",
    "write_scores",
]

#: Kinds of files that hold scores.
ENDINGS: Final = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".bin")
#: Those that are written.
WRITTEN: Final = (".npy", ".npz", ".h5", ".mat", ".bin")
Array = NDArray[np.float32]
_LAYOUTS: Final = "(C, H, W) or (1, C, H, W)"


def read_scores(path: str | os.PathLike[str], key: str | None = None) -> Array:
    """The scores of one picture, (C, H, W) float32.

    Args:
        path: an ``.npy``, ``.npz``, ``.h5`` or ``.hdf5`` with an array (C, H, W) or (1, C, H, W);
            a ``.mat`` of any version with W x H x C x 1, as Caffe's MatWrite layer writes it; a
            ``.bin`` of DeepLab's Matlab scripts.
        key: which array of a file that can hold several; of an activation file, a blob's name.
            Not needed where there is only one, or in a ``.mat`` one called ``data``.

    Raises:
        BadInput: another kind of file, no or several arrays, another layout.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(
            "is no file of scores", file=path, expected=", ".join(ENDINGS), got=ending or "none"
        )
    if ending == ".npy":
        values = load_npy(path)
    elif ending == ".npz":
        values = _from_npz(path, key)
    elif ending == ".bin":
        values = read_bin(path)
        if values.dtype.kind != "f":
            raise InputError(
                "holds labels, no scores", file=path, expected="float32", got=values.dtype
            )
    elif ending == ".mat" and not is_hdf5(path):
        values = read_mat(path, key)
    else:
        values = _from_hdf5(path, key, usual=VARIABLE if ending == ".mat" else None)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 3 or not values.size:
        raise InputError(
            "holds no scores of one picture", file=path, expected=_LAYOUTS, got=values.shape
        )
    return np.ascontiguousarray(values, np.float32)


def write_scores(
    path: str | os.PathLike[str], scores: NDArray[Any], *, name: str = "scores"
) -> None:
    """Write the scores of one picture, whole or not at all.

    Args:
        path: its ending decides the kind: ``.npy``; ``.npz``; ``.h5``, compressed; ``.mat`` as
            Caffe's MatWrite layer writes a blob of one picture; ``.bin`` as DeepLab's Matlab
            scripts hand scores to the densecrf program.
        scores: (C, H, W), written as float32.
        name: of the array in an ``.npz`` or ``.h5``.

    Raises:
        BadInput: another ending or layout, or the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    values = np.ascontiguousarray(scores, np.float32)
    if ending not in WRITTEN:
        raise InputError(
            "is no kind of score file", file=path, expected=", ".join(WRITTEN), got=ending or "none"
        )
    if values.ndim != 3 or not values.size:
        raise InputError("scores", file=path, expected="(C, H, W)", got=values.shape)
    if ending == ".mat":
        write_mat(path, values[None])
    elif ending == ".bin":
        write_bin(path, values)
    else:
        with replacing_file(path) as out:
            if ending == ".h5":
                _write_hdf5(out, name, values)
            elif ending == ".npz":
                # Not compressed: that makes floats a tenth smaller, and takes fifty times as long.
                np.savez(out, **{name: values})  # type: ignore[arg-type]
            else:
                memory = io.BytesIO()  # np.save would write past `out`, which keeps the error
                np.save(memory, values)
                out.write(memory.getbuffer())


def _write_hdf5(out: BinaryIO, name: str, values: Array) -> None:
    """Compressed, unless readers would take it for a file that claims more than it holds."""
    most = MAX_HDF5_EXPANSION.value
    # Neighbouring floats differ in their last bytes: put first bytes together.
    compressed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    for options in (compressed, {}):
        out.truncate(0)
        with h5py.File(out, "w") as file:
            data = file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), **options)
            file.flush()  # until then it does not know what it stores
            if values.nbytes <= max(SMALL_BYTES, most * data.id.get_storage_size()):
                return


def score_file(folder: str | os.PathLike[str], names: Iterable[str]) -> Path | None:
    """The file in a folder that holds a picture's scores; None if there is none.

    Args:
        folder: where to look.
        names: what the picture may be called, the likeliest first.  Caffe's MatWrite layer adds
            ``_blob_0``.
    """
    for name in names:
        for ending in (*ENDINGS, "_blob_0.mat"):
            path = Path(folder, name + ending)
            if path.exists():
                return path
    return None


def energies(
    scores: Array, size: tuple[int, int], *, probabilities: bool = False, crop: bool = False
) -> Array:
    """Energies of labels: -score, or -log p.

    Args:
        scores: (C, H, W).
        size: (height, width) of the picture.
        probabilities: the scores are probabilities; those of 0 rule a label out.
        crop: the picture was padded right and below: take its rows and columns from the top left.

    Returns:
        (C, height, width) float32.

    Raises:
        BadInput: another size, NaN, or probabilities that are none.
    """
    check_size(scores.shape, size, crop=crop)
    scores = scores[:, : size[0], : size[1]]
    if np.isnan(scores).any():
        raise InputError("the scores hold NaN")
    if not probabilities:
        return -scores
    if scores.min() < 0 or scores.max() > 1.0001:
        raise InputError(
            "the scores are no probabilities",
            expected="values from 0 to 1",
            got=f"{scores.min():g} to {scores.max():g}",
        )
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(np.minimum(scores, 1)))


def check_size(shape: tuple[int, ...], size: tuple[int, int], *, crop: bool = False) -> None:
    """Refuse scores of another size than that of their picture.

    Args:
        shape: (C, H, W) of the scores.
        size: (height, width) of the picture.
        crop: the picture was padded right and below: the scores may be larger.

    Raises:
        InputError: the sizes differ.
    """
    kept = (min(shape[1], size[0]), min(shape[2], size[1])) if crop else shape[1:]
    if kept != size:
        raise InputError(
            "scores and picture differ in size" + _hint(shape, size),
            expected=f"(C, {size[0]}, {size[1]})",
            got=shape,
        )


def look_like_probabilities(scores: Array) -> bool:
    """Whether every pixel's values are from 0 to 1 and sum to 1, and there are several."""
    if len(scores) < 2 or scores.min() < 0 or scores.max() > 1:
        return False
    return bool(np.abs(scores.sum(0) - 1).max() < 1e-3)


def _hint(shape: tuple[int, ...], size: tuple[int, int]) -> str:
    if shape[1:] == size[::-1]:
        return ": height and width are swapped"
    if shape[:2] == size:
        return ": the channels come last"
    if shape[1] >= size[0] and shape[2] >= size[1]:
        return " (--crop takes the part of a padded picture)"
    return ""


def _from_npz(path: str | os.PathLike[str], key: str | None) -> NDArray[Any]:
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            name = chosen(names, key, path)
            entry = archive.getinfo(f"{name}.npy")
            MAX_BLOB_BYTES.check(entry.file_size, f"{name} is too large, in bytes", file=path)
            with archive.open(entry) as member_file:
                values: NDArray[Any] = np.lib.format.read_array(member_file, allow_pickle=False)
    except BadInput:
        raise
    except Exception as error:
        # numpy reads the header as a Python literal, and zlib and zipfile have errors of their own.
        raise InputError(f"is no .npz ({error})", file=path) from None
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name} holds no numbers", file=path, got=values.dtype)
    return values


def _from_hdf5(path: str | os.PathLike[str], key: str | None, usual: str | None) -> NDArray[Any]:
    """``usual`` is what the array is called where there are several and no key."""
    with open_hdf5(path) as file:
        if key is not None:
            top = file["blobs"] if f"blobs/{key}" in file else file
            found = member(top, key, path, h5py.Dataset)
        else:
            groups = [("", file, children(file, path)), *walk_groups(file, path)]
            sets = {
                f"{group}/{name}".lstrip("/"): item
                for group, _, members in groups
                for name, item in members
                if isinstance(item, h5py.Dataset)
            }
            found = sets[chosen(list(sets), usual if usual in sets else None, path)]
        return read_dataset(found, path, kinds="fiu")
