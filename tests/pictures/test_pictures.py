"""Inputs of a network from arrays, HDF5 files and mean pictures, good and bad."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.reading import Preparation, load_inputs, read_mean, read_picture
from prototxt_import import Net, parse_net


@pytest.fixture
def net() -> Net:
    return parse_net(
        'input: "data" input: "in/side" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9'
        " input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 2"
        ' layer { name: "a" type: "AbsVal" bottom: "data" top: "a" }'
    )


def hdf5(**blobs: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, options in blobs.items():
                file.create_dataset(name.replace("__", "/"), **options)

    return write


def lying_array(path: Path) -> None:
    np.save(path, np.zeros((3, 9, 9)))
    path.write_bytes(path.read_bytes().replace(b"(3, 9, 9), ", b"(3,9,99999)"))


X = {"data": np.arange(6.0).reshape(1, 3, 1, 2)}
DIM = {"data": np.full((1, 1, 1, 2), 7)}


def test_hdf5(tmp_path: Path, net: Net) -> None:
    hdf5(blobs__data=X, blobs__in__side=DIM, blobs__other=X)(tmp_path / "x.h5")
    inputs = load_inputs(tmp_path / "x.h5", net)
    assert list(inputs) == ["data", "in/side"]
    assert np.array_equal(inputs["data"], X["data"])
    assert {value.dtype for value in inputs.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.npy", lying_array, "is no .npy .mmap length is greater than file size"),
        ("x.npy", lambda path: path.write_bytes(b"junk"), "is no .npy "),
        ("x.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True), "is no .npy "),
        ("x.npy", lambda path: np.save(path, np.array(["a"])), "no .npy of numbers; got <U1"),
        ("x.npy", os.mkfifo, "is a pipe"),
        ("x.npy", lambda path: None, "No such file"),
        ("x.h5", lambda path: path.write_bytes(b"junk"), "is no HDF5 file, or damaged"),
        ("x.h5", lambda path: None, "No such file"),
        ("x.h5", hdf5(blobs__data=X), "lacks an input of the network; expected /blobs/in/side"),
        ("x.h5", hdf5(blobs={"data": [1.0]}), "lacks an input .* expected /blobs/data"),
        ("x.h5", hdf5(blobs__data={"data": np.array([b"a"])}), "/blobs/data holds no numbers"),
        (
            "x.h5",
            hdf5(blobs__data={"shape": (3, 10**6, 10**6), "dtype": "f4", "chunks": (1, 9, 9)}),
            "/blobs/data is larger than what the file stores of it",
        ),
        ("x.jpg", lambda path: path.write_bytes(b"junk"), "no picture.* a picture, .npy or .h5$"),
        ("x.jpg", lambda path: path.mkdir(), "Is a directory"),
    ],
)
def test_bad_files(
    tmp_path: Path, net: Net, name: str, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(BadInput, match=f"{name}.*{message}"):
        load_inputs(tmp_path / name, net)


def test_bad_preparations() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(InputError, match="p: the picture is larger .* 5x5, got 4x6"):
        Preparation(pad_to=5).apply(picture, "p")
    with pytest.raises(InputError, match="at most 3x6, got 4x6"):
        Preparation(pad_to=(3, 6)).apply(picture)
    with pytest.raises(InputError, match="cannot be resized"):
        Preparation(resize=(10**9, 10**9)).apply(picture)
    with pytest.raises(InputError, match="another size; expected 3x6x4, got 3x4x6"):
        Preparation(np.zeros((3, 6, 4), np.float32)).apply(picture)


def test_padding_to_a_rectangle() -> None:
    blob = Preparation(None, pad_to=(5, 7)).apply(np.full((4, 6, 3), 9, np.uint8))
    assert blob.shape == (1, 3, 5, 7)
    assert blob.sum() == 9 * 4 * 6 * 3 == blob[:, :, :4, :6].sum()


def test_mean_pictures(tmp_path: Path) -> None:
    mean = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    np.save(tmp_path / "m.npy", mean)
    assert np.array_equal(read_mean(tmp_path / "m.npy"), mean)
    # BlobProto: num, channels, height, width (fields 1 to 4), data (field 5, packed)
    dims = bytes([8, 1, 16, 3, 24, 2, 32, 4])
    (tmp_path / "m.binaryproto").write_bytes(dims + bytes([42, 96]) + mean.tobytes())
    assert np.array_equal(read_mean(tmp_path / "m.binaryproto"), mean)
    np.save(tmp_path / "two.npy", mean[:2])
    with pytest.raises(InputError, match="is no mean picture; expected 3xHxW"):
        read_mean(tmp_path / "two.npy")
    with pytest.raises(BadInput, match="No such file"):
        read_mean(tmp_path / "none.binaryproto")


def test_pictures_in_names_that_are_not_ascii(tmp_path: Path) -> None:
    picture = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    (tmp_path / "ä [b] 空.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    assert np.array_equal(read_picture(tmp_path / "ä [b] 空.png"), picture)
