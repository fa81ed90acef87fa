"""What scipy writes comes back; a damaged file is one clear error, wherever it is damaged."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.mat5 import read_mat

CONTENT = {
    **{kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("u1", "i2", "i4", "f4", "f8")},
    "i8": np.array([[-(2**40), 2**40]]),
    "cube": np.arange(24.0).reshape(2, 3, 4),
    "empty": np.zeros((0, 5)),
    "one": np.array([[7]], np.uint8),  # so small that it lies beside its size
    "a_name_of_more_than_eight_letters": np.array([[True, False]]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes(tmp_path, compressed):
    others = {
        "text": "words",
        "cell": np.array(["a", np.eye(2)], object),
        "sparse": scipy.sparse.csc_array(np.eye(3)),
        "complex": np.array([[1j]]),
        "GTcls": {"Boundaries": [scipy.sparse.csc_array(np.eye(3))], "Segmentation": CONTENT["u1"]},
    }
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, CONTENT | others, do_compression=compressed)
    found = read_mat(file)
    assert list(found) == [*CONTENT, *others]
    for name, values in CONTENT.items():
        np.testing.assert_array_equal(found[name], values)
    assert [found[name] for name in list(others)[:4]] == [None] * 4
    assert list(found["GTcls"]) == ["Boundaries", "Segmentation"]
    assert found["GTcls"]["Boundaries"] is None
    np.testing.assert_array_equal(found["GTcls"]["Segmentation"], CONTENT["u1"])


def test_big_endian_bytes_worked_by_hand(tmp_path):
    """As a PowerPC wrote it: the matrix [1 3; 2 4] as int16, named "x"."""

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    matrix = (
        element(6, struct.pack(">II", 10, 0))
        + element(5, struct.pack(">ii", 2, 2))
        + struct.pack(">HH", 1, 1)
        + b"x\0\0\0"  # size and type in one word
        + element(3, struct.pack(">4h", 1, 2, 3, 4))
    )
    file = tmp_path / "a.mat"
    file.write_bytes(b"MATLAB 5.0".ljust(124) + b"\1\0MI" + element(14, matrix))
    assert read_mat(file)["x"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("compressed", [False, True])
def test_cut_off_anywhere(tmp_path, compressed):
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"GTcls": {"Segmentation": CONTENT["u1"]}}, do_compression=compressed)
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        if size < 128 or size >= 136:
            with pytest.raises(InputError) as caught:
                read_mat(file)
            assert str(caught.value).startswith(f"{file}: is ")
        else:
            assert read_mat(file) == {}  # the header, and no whole size of a variable


def test_matlab_7_3(tmp_path):
    file = tmp_path / "a.mat"
    file.write_bytes(b"MATLAB 7.3 MAT-file, HDF5 schema 1.00".ljust(124) + b"\0\2IM" + bytes(384))
    with pytest.raises(InputError, match="is no .mat; .* got HDF5, as MATLAB 7.3 writes"):
        read_mat(file)


@pytest.mark.slow
def test_what_unfolds_without_end_is_refused(tmp_path):
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"a": np.zeros((8200, 4100), np.uint8)}, do_compression=True)
    assert file.stat().st_size < 100_000
    with pytest.raises(BadInput, match="holds more than its size, so many times"):
        read_mat(file)
