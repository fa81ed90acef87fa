"""Reading activation files."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.parity.recordings import Recording, bundled_recordings, find_recordings
from deeplab_repro.parity.tolerances import AGREEMENT


def recording(path: Path) -> Recording:
    return Recording("x", path, Path("model"), None)


def test_names_with_slashes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for i, name in enumerate(("data", "inception_3a/1x1", "inception_3a/pool/proj")):
            file[f"blobs/{name}"] = np.full((1, 2), i, np.float32)
        file["image_rgb_uint8"] = np.zeros(3, np.uint8)
    found = recording(path)
    assert sorted(found.blobs()) == ["data", "inception_3a/1x1", "inception_3a/pool/proj"]
    assert (found.whole("inception_3a/pool/proj") == 2).all()
    assert found.agreement("inception_3a/1x1", np.ones((1, 2))).rel == 0
    assert found.agreement("inception_3a/1x1", np.full((1, 2), 3.0)).rel == 2


def test_bundled_samples(data: Path) -> None:
    plain = bundled_recordings(data)[0]
    assert plain.name == "deeplab_plain_v1_w16"
    assert len(plain.blobs()) == 24
    assert plain.whole("data").shape == (1, 3, 98, 98)
    verdict = plain.agreement("conv1_1", np.zeros((1, 4, 98, 98))).within(AGREEMENT["caffe"])
    assert verdict is False
    for name in ("conv1_1", "fc8_crop"):
        with pytest.raises(InputError, match=f"holds only samples of /blobs/{name}"):
            plain.whole(name)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = 1.0
    with h5py.File(tmp_path / "words.h5", "w") as file:
        file["blobs/data"] = "word"
    for name, message in (
        ("text.h5", "is no HDF5 file, or damaged"),
        ("missing.h5", "No such file or directory"),
        ("other.h5", "holds no activations; expected /blobs"),
    ):
        with pytest.raises(BadInput, match=f"{name}: {re.escape(message)}"):
            recording(tmp_path / name).blobs()
    with pytest.raises(BadInput, match="/blobs/data holds no numbers"):
        recording(tmp_path / "words.h5").whole("data")


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.h5 file"):
        find_recordings(tmp_path, Path("m"), None)
    (tmp_path / "sub").mkdir()
    for name in ("b.h5", "a.h5", "sub/c.h5", "notes.txt"):
        (tmp_path / name).touch()
    assert [r.name for r in find_recordings(tmp_path, Path("m"), None)] == ["a", "b", "c"]
    assert [r.name for r in find_recordings(tmp_path / "b.h5", Path("m"), None)] == ["b"]
