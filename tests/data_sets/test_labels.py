"""Labels come out as the ids they hold, and what holds no ids is refused with its values."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from deeplab_repro.data import read_label
from deeplab_repro.data.labels import decode_colours
from deeplab_repro.data.matlab import read_matlab
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.pictures.voc import voc_palette

#: Two rows and three columns, so that nothing is the same when it is turned.
IDS = np.array([[0, 5, 255], [20, 1, 0]], np.uint8)
WITHOUT_VOID = np.where(IDS == 255, 7, IDS)


def write_bin(path, values, kind, header=None):
    """As SaveBinFile.m: rows, columns, channels, then columns one after another."""
    rows, columns = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    head = struct.pack("<3i", *(header or (rows, columns, channels)))
    path.write_bytes(head + values.astype(kind).tobytes(order="F"))
    return path


def test_every_form_gives_the_same_ids(tmp_path):
    write_label_png(tmp_path / "palette.png", IDS)
    Image.fromarray(IDS).save(tmp_path / "grey.png")
    Image.fromarray(IDS).save(tmp_path / "grey.TIF")
    scipy.io.savemat(tmp_path / "sbd.mat", {"GTcls": {"Segmentation": IDS, "Boundaries": 1}})
    scipy.io.savemat(tmp_path / "matrix.mat", {"anything": IDS.astype(float), "note": "text"})
    blob = IDS.T.reshape(3, 2, 1, 1).astype(np.float32)  # width, height, channels, number
    scipy.io.savemat(tmp_path / "name_blob_0.mat", {"data": blob})
    write_bin(tmp_path / "int16.bin", IDS, "<i2")
    write_bin(tmp_path / "uint8.bin", IDS, "u1")
    write_bin(tmp_path / "int32.bin", IDS, "<i4")
    write_bin(tmp_path / "single.bin", IDS, "<f4")
    write_bin(tmp_path / "double.bin", IDS, "<f8")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 11
    for file in files:
        labels = read_label(file)
        assert labels.dtype == np.uint8, file
        np.testing.assert_array_equal(labels, IDS, err_msg=str(file))


def test_a_palette_of_few_colours_is_packed_into_bits(tmp_path):
    ids = np.array([[0, 1, 3], [2, 3, 0]], np.uint8)
    picture = Image.fromarray(ids)
    picture.putpalette(voc_palette(4).tobytes())
    picture.save(tmp_path / "two_bits.png", bits=2)
    np.testing.assert_array_equal(read_label(tmp_path / "two_bits.png"), ids)


def test_bin_as_the_dense_crf_program_wrote_it(tmp_path):
    """Bytes worked by hand: header 2, 3, 1, then (0, 20), (5, 1), (2, 0) as int16."""
    (tmp_path / "a.bin").write_bytes(b"\2\0\0\0\3\0\0\0\1\0\0\0\0\0\x14\0\5\0\1\0\2\0\0\0")
    assert read_label(tmp_path / "a.bin").tolist() == [[0, 5, 2], [20, 1, 0]]


def test_scores_in_matlab_files_have_their_channels_first(tmp_path):
    scores = np.arange(24, dtype=np.float32).reshape(4, 2, 3) + 0.5  # C, H, W
    write_bin(tmp_path / "a.bin", scores.transpose(1, 2, 0), "<f4")
    scipy.io.savemat(tmp_path / "a.mat", {"data": scores.transpose(2, 1, 0)[..., None]})
    for name in ("a.bin", "a.mat"):
        np.testing.assert_array_equal(read_matlab(tmp_path / name), scores)
        with pytest.raises(InputError, match="holds scores, not labels; expected .* 4 channels"):
            read_label(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_coded_labels_are_refused_and_decoded(tmp_path, mode):
    rgb = voc_palette()[IDS]
    file = tmp_path / "label.png"
    Image.fromarray(rgb).convert(mode).save(file)
    with pytest.raises(InputError) as caught:
        read_label(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: is colour-coded in VOC's colours; `deeplab-repro data decode`")
    assert f"got {mode} with #000000, #004080, #800000, #800080, #e0e0c0" in text
    np.testing.assert_array_equal(decode_colours(rgb), IDS)
    rgb[0, 0] = 1, 2, 3
    Image.fromarray(rgb).save(file)
    with pytest.raises(InputError, match=r"is colour-coded; expected one channel .* #010203"):
        read_label(file)
    with pytest.raises(InputError, match=r"has colours of no class; .* got #010203"):
        decode_colours(rgb)
    own, two = np.array([[7] * 3, [9] * 3], np.uint8), np.array([[[9] * 3, [7] * 3]], np.uint8)
    np.testing.assert_array_equal(decode_colours(two, 2, own), [[1, 0]])


def test_palette_pictures_read_with_opencv_are_recognised(tmp_path):
    """Trap 3 of the published numbers: 4.6 % where 76 should be."""
    write_label_png(tmp_path / "palette.png", IDS)
    grey = cv2.imread(str(tmp_path / "palette.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    with pytest.raises(InputError) as caught:
        read_label(tmp_path / "grey.png")
    assert "these are the grey levels of VOC's colours, which cv2.imread gives" in str(caught.value)
    assert "expected 0 to 20 and 255 for void, got 38, 52" in str(caught.value)


def test_a_palette_in_another_order_is_refused_and_decoded(tmp_path):
    """An editor numbers the colours as it likes: the values are small, but not the classes."""
    file = tmp_path / "label.png"
    order = np.array([0, 20, 5, 1, 255], np.uint8)
    numbered = Image.fromarray(np.searchsorted(np.sort(order), IDS).astype(np.uint8))
    numbered.putpalette(voc_palette()[np.sort(order)].tobytes())
    numbered.save(file)
    with pytest.raises(
        InputError, match=r"palette of another order.* got 0 as #000000, 1 as #800000"
    ):
        read_label(file)
    np.testing.assert_array_equal(decode_colours(np.asarray(numbered.convert("RGB"))), IDS)
    assert read_label(file, num_classes=5).max() == 4  # own classes may have any colours
    for entries in (np.zeros((256, 3), np.uint8), np.arange(256, dtype=np.uint8).repeat(3)):
        numbered.putpalette(entries.tobytes())
        numbered.save(file)
        assert read_label(file).max() == 4


def save(kind, **options):
    return lambda path: Image.fromarray(kind).save(path, **options)


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.png", save(np.array([[0, 21, 22]], np.uint8)), "expected 0 to 20 and .* got 21, 22$"),
        ("a.png", save(np.array([[0, 300]], np.uint16)), "has more than 8 bits a pixel"),
        ("a.png", save(np.array([[0, 1]], bool)), "has 1 bit a pixel, no room for class ids"),
        ("a.jpg", save(WITHOUT_VOID), "is a JPEG, which changes values; expected PNG"),
        ("a.png", lambda path: path.write_bytes(b"no picture"), "is no label picture, or damaged"),
        ("a.png", lambda path: None, "No such file"),
        ("a.bin", lambda path: path.write_bytes(b"\1\0"), "is no .bin of an array; .* got 2 bytes"),
        (
            "a.bin",
            lambda path: write_bin(path, IDS, "u1", header=(2, -3, 1)),
            r"at least 1, got \[2, -3, 1\]",
        ),
        (
            "a.bin",
            lambda path: write_bin(path, IDS, "<i2", header=(2, 4, 1)),
            "another size than its header of 2x4x1 says; expected 8 numbers .* got 12 bytes",
        ),
        (
            "a.mat",
            lambda path: path.write_bytes(b"MATLAB?" * 40),
            "is no .mat; expected a file of MATLAB",
        ),
        (
            "a.mat",
            lambda path: scipy.io.savemat(path, {"a": IDS, "b": IDS}),
            "holds no label map; .* got a, b",
        ),
        (
            "a.mat",
            lambda path: scipy.io.savemat(path, {"x": IDS + 0.5}),
            "no class ids; .* got 0.5, 1.5, 5.5, 20.5, 255.5",
        ),
        (
            "a.mat",
            lambda path: scipy.io.savemat(path, {"data": np.zeros((3, 2, 1, 2))}),
            r"no blob of one picture; expected \(W, H, C, 1\), got \(3, 2, 1, 2\)",
        ),
    ],
)
def test_what_is_no_label(tmp_path, name, write, says):
    file = tmp_path / name
    write(file)
    with pytest.raises(BadInput, match=says) as caught:
        read_label(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_truncated_pictures_and_hostile_sizes(tmp_path, monkeypatch):
    big = tmp_path / "big.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 20, (64, 64), np.uint8)).save(big)
    whole = big.read_bytes()
    big.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is no label picture, or damaged"):
        read_label(big)
    big.write_bytes(whole)
    write_bin(tmp_path / "big.bin", np.zeros((64, 64)), "u1")
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_PIXELS", "4095")
    for name in ("big.png", "big.bin"):
        with pytest.raises(BadInput, match="has too many pixels; expected at most 4095"):
            read_label(tmp_path / name)


def test_classes_and_void(tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1]], bool)).save(mask)
    assert read_label(mask, num_classes=2).tolist() == [[0, 1]]
    write_label_png(mask, IDS)
    with pytest.raises(InputError, match="expected 0 to 4 and 255 for void, got 5, 20"):
        read_label(mask, num_classes=5)
    with pytest.raises(InputError, match="every pixel of a prediction has a class; expected 0"):
        read_label(mask, void=False)
    with pytest.raises(InputError, match="num_classes; expected 1 to 255, got 256"):
        read_label(mask, num_classes=256)
