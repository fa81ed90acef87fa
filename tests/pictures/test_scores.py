"""Score files: the bytes of the released programs' kinds, and what cannot be used."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from deeplab_repro.errors import BadInput
from deeplab_repro.pictures.matlab import read_bin, read_mat, write_bin
from deeplab_repro.pictures.scores import WRITTEN, read_scores, score_file, write_scores
from tests.testing.disk import full_disk

#: Two channels of 1 x 3, so that no axis can be taken for another.
SCORES = np.array([[[1, 2, 3]], [[4, 5, -6]]], np.float32)


def mat_element(order: str, dims: tuple[int, ...], values: bytes, name: bytes = b"data") -> bytes:
    """A miMATRIX of class single, as the MAT-file format's description has it."""
    body = struct.pack(f"{order}4I", 6, 8, 7, 0)  # flags: mxSINGLE_CLASS
    body += struct.pack(f"{order}2I{len(dims)}i", 5, 4 * len(dims), *dims)
    body += b"\0" * (-len(body) % 8)
    if len(name) > 4:
        body += struct.pack(f"{order}2I", 1, len(name)) + name + b"\0" * (-len(name) % 8)
    else:  # a small element: both in eight bytes
        head = (
            struct.pack("<2H", 1, len(name)) if order == "<" else struct.pack(">2H", len(name), 1)
        )
        body += head + name.ljust(4, b"\0")
    body += struct.pack(f"{order}2I", 7, len(values)) + values
    body += b"\0" * (-len(values) % 8)
    return struct.pack(f"{order}2I", 14, len(body)) + body


def mat_file(order: str, *elements: bytes, text: bytes = b"MATLAB 5.0 MAT-file") -> bytes:
    mark = {"<": b"\x00\x01IM", ">": b"\x01\x00MI"}[order]
    return text.ljust(116) + b"\0" * 8 + mark + b"".join(elements)


def compressed(element: bytes) -> bytes:
    packed = zlib.compress(element)
    return struct.pack("<2I", 15, len(packed)) + packed


# ---------------------------------------------------------------- the kinds


@pytest.mark.parametrize("ending", WRITTEN)
def test_what_is_written_is_read(ending: str, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(5, 7, 9)).astype(np.float32)
    path = tmp_path / f"s{ending}"
    write_scores(path, scores[:, ::-1])  # not contiguous
    first = path.read_bytes()
    found = read_scores(path)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, scores[:, ::-1])
    write_scores(path, scores[:, ::-1])
    assert path.read_bytes() == first or ending == ".npz"  # a zip has the time in it
    assert list(tmp_path.iterdir()) == [path]
    # On a full disk what was there stays, and nothing else.
    first = path.read_bytes()
    with full_disk(100), pytest.raises(BadInput, match="File too large"):
        write_scores(path, scores)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_mat_is_that_of_the_mat_write_layer(tmp_path: Path) -> None:
    """Memory of the blob as it is, sizes in the opposite order: width, height, channels, number."""
    write_scores(tmp_path / "s.mat", SCORES)
    content = (tmp_path / "s.mat").read_bytes()
    expected = mat_file("<", mat_element("<", (3, 1, 2, 1), SCORES.tobytes()))
    assert content[:10] == b"MATLAB 5.0"
    assert content[116:] == expected[116:]
    data = scipy.io.loadmat(tmp_path / "s.mat")["data"]
    assert data.shape == (3, 1, 2, 1)
    assert data.dtype == np.float32
    # matlab/my_script/EvalSegResults.m: permute(data, [2 1 3]), then rows and columns.
    np.testing.assert_array_equal(data[..., 0].transpose(1, 0, 2), SCORES.transpose(1, 2, 0))


@pytest.mark.parametrize("order", ["<", ">"])
def test_mat_files_of_others(order: str, tmp_path: Path) -> None:
    path = tmp_path / "s.mat"
    values = SCORES.astype(f"{order}f4").tobytes()
    other = mat_element(order, (1, 1), np.array(9, f"{order}f4").tobytes(), b"other_one")
    three_axes = mat_element(order, (3, 1, 2), values)
    for element in (mat_element(order, (3, 1, 2, 1), values), three_axes):
        path.write_bytes(mat_file(order, other, element, text=b"MATLAB 5.0, by libmatio"))
        np.testing.assert_array_equal(read_scores(path), SCORES)
    path.write_bytes(mat_file(order, mat_element(order, (3, 1, 2), values, b"fc8_voc12")))
    np.testing.assert_array_equal(read_scores(path), SCORES)
    path.write_bytes(mat_file(order, other, mat_element(order, (3, 1, 2), values, b"fc8_voc12")))
    np.testing.assert_array_equal(read_scores(path, "fc8_voc12"), SCORES)
    with pytest.raises(BadInput, match="--key with one of other_one, fc8_voc12"):
        read_scores(path)


def test_mat_files_of_scipy_and_of_matlab(tmp_path: Path) -> None:
    path = tmp_path / "s.mat"
    text = {"text": "no numbers", "data": SCORES.astype(np.float64).T}
    for compression in (False, True):
        scipy.io.savemat(path, text, do_compression=compression)
        np.testing.assert_array_equal(read_scores(path), SCORES)
    with h5py.File(path, "w", userblock_size=512) as file:  # Matlab's version 7.3
        file["data"] = SCORES
        file["#refs#/a"] = np.zeros(2)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    np.testing.assert_array_equal(read_scores(path), SCORES)


def test_bin_is_that_of_matlabs_scripts(tmp_path: Path) -> None:
    """Rows, columns, channels; then down the first column, and so on."""
    scores = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    path = tmp_path / "s.bin"
    write_scores(path, scores)
    numbers = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert path.read_bytes() == struct.pack("<3i12f", 2, 3, 2, *numbers)
    path.write_bytes(struct.pack("<3i12d", 2, 3, 2, *numbers))
    np.testing.assert_array_equal(read_scores(path), scores)
    write_bin(path, scores[0].astype(np.uint8))  # a label map of the densecrf program
    assert path.read_bytes() == struct.pack("<3i6h", 2, 3, 1, 0, 3, 1, 4, 2, 5)
    assert read_bin(path).dtype == np.int16
    np.testing.assert_array_equal(read_bin(path), scores[:1])
    with pytest.raises(BadInput, match="holds labels, no scores; expected float32, got int16"):
        read_scores(path)
    with pytest.raises(BadInput, match="labels do not fit; expected at most 32767, got 32768"):
        write_bin(path, np.array([[1 << 15]]))


def test_the_file_of_a_picture(tmp_path: Path) -> None:
    for name in ("a_blob_0.mat", "b.npy", "b.png.h5", "c.txt"):
        (tmp_path / name).touch()
    assert score_file(tmp_path, ["a"]) == tmp_path / "a_blob_0.mat"
    assert score_file(tmp_path, ["b.png", "b"]) == tmp_path / "b.png.h5"
    assert score_file(tmp_path, ["b.jpg", "b"]) == tmp_path / "b.npy"
    assert score_file(tmp_path, ["c"]) is None


@pytest.mark.slow
def test_marginals_that_compress_too_well_are_read_again(tmp_path: Path) -> None:
    """40 MB of zeros and ones: compressed, they would be refused as a bomb."""
    marginals = np.zeros((21, 700, 700), np.float32)
    marginals[3] = 1
    write_scores(tmp_path / "m.h5", marginals)
    np.testing.assert_array_equal(read_scores(tmp_path / "m.h5"), marginals)


# ---------------------------------------------------------------- refused

SOUND = mat_element("<", (3, 1, 2, 1), SCORES.tobytes())


def spoilt(at: int, number: int) -> bytes:
    return mat_file("<", SOUND[:at] + struct.pack("<I", number) + SOUND[at + 4 :])


MAT_FILES = {
    "no mat": (b"text" * 50, "is no .mat; expected a file of MATLAB"),
    "version 4": (
        struct.pack("<5i", 0, 3, 2, 0, 5) + b"data\0" + b"\0" * 200,
        "is no .mat; expected a file of MATLAB",
    ),
    "short": (mat_file("<", SOUND)[:50], "is no .mat; expected a file of MATLAB"),
    "cut off": (mat_file("<", SOUND)[:-8], "it ends within an element"),
    "element of 4 GB": (spoilt(4, 2**32 - 8), "it ends within an element"),
    "numbers of 4 GB": (spoilt(60, 2**32 - 8), "is a damaged .mat"),
    "rows without numbers": (spoilt(32, 10**9), "is a damaged .mat"),
    "a million elements": (mat_file("<", SOUND) + bytes(8 << 20), "too many variables; expected"),
    "more than it says": (mat_file("<", compressed(SOUND + bytes(8))), "element of another size"),
    "less than it says": (mat_file("<", compressed(SOUND[:-8])), "an element of another size"),
    "no element": (mat_file("<", compressed(b"1234")), "an element of another size"),
    "nothing": (mat_file("<"), "which array holds the scores.; expected an array"),
    "twice": (mat_file("<", SOUND, SOUND), "two variables are called data"),
    "no zlib": (mat_file("<", struct.pack("<2I", 15, 64) + b"x" * 64), "damaged"),
    "several pictures": (
        mat_file("<", mat_element("<", (1, 1, 3, 2), SCORES.tobytes())),
        r"holds no scores of one picture; .* got \(2, 3, 1, 1\)",
    ),
}


@pytest.mark.parametrize("case", MAT_FILES)
def test_mat_files_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    content, message = MAT_FILES[case]
    path = tmp_path / "s.mat"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message) as error:
        read_scores(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).isprintable()


def test_a_mat_file_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "s.mat"
    cell = np.empty(2, object)
    cell[:] = [1, "a"]
    for value in ("text", cell, {"a": SCORES}):
        scipy.io.savemat(path, {"data": value})
        with pytest.raises(BadInput, match="which array holds the scores"):
            read_scores(path)
    scipy.io.savemat(path, {"data": SCORES * 1j})
    with pytest.raises(BadInput, match="which array holds the scores"):
        read_scores(path)


@pytest.mark.slow
def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB of zeros in 40 KB, however little the sizes ask for."""
    zeros = bytes(40 << 20)
    path = tmp_path / "s.mat"
    for dims in ((1 << 20, 10, 1, 1), (1, 1, 1, 1)):
        path.write_bytes(mat_file("<", compressed(mat_element("<", dims, zeros))))
        with pytest.raises(BadInput, match="DEEPLAB_REPRO_MAX_HDF5_EXPANSION raises this limit"):
            read_mat(path)
    # What is small may be compressed as it likes.
    path.write_bytes(mat_file("<", compressed(mat_element("<", (1 << 20, 2), zeros[: 8 << 20]))))
    assert read_mat(path).shape == (2, 1 << 20)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<2i", 1, 1),
        struct.pack("<3i", 1, 1, 0),
        struct.pack("<3i2f", 1, -1, -2, 0, 0),
        struct.pack("<3i", 2**31 - 1, 2**31 - 1, 2**31 - 1),
        struct.pack("<3i5f", 1, 2, 3, *range(5)),
        struct.pack("<3i6f", 1, 2, 3, *range(6)) + b"x",
        struct.pack("<3i", 1, 1, 1) + bytes(16),
    ],
)
def test_bin_files_that_are_not_as_long_as_they_say(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.bin").write_bytes(content)
    with pytest.raises(BadInput, match=r"is no \.bin of an array|has another size than its header"):
        read_scores(tmp_path / "s.bin")


def test_what_is_no_score_map_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is no kind of score file; .* got \.txt"):
        write_scores(tmp_path / "s.txt", SCORES)
    with pytest.raises(BadInput, match=r"expected \(C, H, W\), got \(1, 3\)"):
        write_scores(tmp_path / "s.npy", SCORES[0])
    assert list(tmp_path.iterdir()) == []
