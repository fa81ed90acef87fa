"""tests/parity/dump_activations.py, run with a stand-in for pycaffe."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

TOOL = Path(__file__).with_name("dump_activations.py")

# A network with one input `data`, an in-place layer, a blob that Caffe split by itself, a blob that
# only looks like such a copy, and one with a "/" in its name.
FAKE_NET = """
    import collections
    import numpy as np

    class Blob:
        def __init__(self, *shape):
            self.data = np.zeros(shape, np.float32)
        def reshape(self, *shape):
            self.data = np.zeros(shape, np.float32)

    class NetBase:
        def __init__(self):
            self.inputs = ["data"]
            self.blobs = collections.OrderedDict(
                (name, Blob(1, 3, 2, 2))
                for name in ("data", "data_data_0_split_0", "data_data_0_split_1",
                             "conv", "inception/1x1", "lone_0_split_0"))
        def forward(self):
            data = self.blobs["data"].data
            for i, name in enumerate(self.blobs):
                if name != "data":
                    self.blobs[name].data = data * i + self.offset
"""
# BVLC Caffe and the v2 fork: the phase is an argument of Net, the mode a function of the module.
NEW_CAFFE = (
    FAKE_NET
    + """
    TRAIN, TEST = 0, 1
    mode = []
    def set_mode_cpu():
        mode.append("cpu")

    class Net(NetBase):
        def __init__(self, prototxt, weights, phase):
            NetBase.__init__(self)
            assert mode == ["cpu"] and prototxt == "p" and weights == "w"
            self.offset = 100 if phase == TRAIN else 0

    class io:
        @staticmethod
        def load_image(path):
            rgb = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)  # one row of two pixels
            return rgb.astype(np.float32) / 255
"""
)
# The v1 fork: both are methods of a net.
OLD_CAFFE = (
    FAKE_NET
    + """
    class Net(NetBase):
        def __init__(self, prototxt, weights):
            NetBase.__init__(self)
        def set_phase_test(self):
            self.offset = 0
        def set_phase_train(self):
            self.offset = 100
        def set_mode_cpu(self):
            pass
"""
)


def run(folder: Path, caffe: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    (folder / "caffe.py").write_text(textwrap.dedent(caffe))
    return subprocess.run(
        [sys.executable, str(TOOL), "p", "w", "-o", "out.h5", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("caffe", [NEW_CAFFE, OLD_CAFFE], ids=["v2 fork", "v1 fork"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.sampled(1)
def test_writes_every_blob_but_splits(tmp_path: Path, caffe: str, train: bool) -> None:
    data = np.arange(30, dtype=np.float64).reshape(2, 3, 5, 1)  # not the declared shape
    np.save(tmp_path / "x.npy", data)
    done = run(tmp_path, caffe, "--input", "x.npy", *(["--train"] if train else []))
    assert done.returncode == 0, done.stderr
    offset = 100 if train else 0
    with h5py.File(tmp_path / "out.h5") as file:
        names: list[str] = []
        file["blobs"].visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        assert set(names) == {"data", "conv", "inception/1x1", "lone_0_split_0"}
        assert all(file["blobs"][name].dtype == np.float32 for name in names)
        np.testing.assert_array_equal(file["blobs/data"], data)
        np.testing.assert_array_equal(file["blobs/conv"], data * 3 + offset)
        np.testing.assert_array_equal(file["blobs/inception/1x1"], data * 4 + offset)


def test_picture_is_bgr_minus_mean(tmp_path: Path) -> None:
    done = run(tmp_path, NEW_CAFFE, "--input", "picture.png", "--mean", "1,2,4")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        expected = [[[[29, 59]], [[18, 48]], [[6, 36]]]]
        np.testing.assert_array_equal(file["blobs/data"], expected)


def test_its_own_output_serves_as_input(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["blobs/data"] = np.full((1, 3, 2, 2), 7, np.float32)
        file["blobs/other"] = np.zeros(1)
    assert run(tmp_path, NEW_CAFFE, "--input", "x.h5").returncode == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["blobs/conv"][()] == 21).all()


def test_missing_input_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["blobs/other"] = np.zeros(1)
    done = run(tmp_path, NEW_CAFFE, "--input", "x.h5")
    assert done.returncode == 1
    assert done.stderr.strip() == "x.h5: holds no /blobs/data"


def test_runs_under_python_2() -> None:
    """No syntax that Python 2.7 lacks: pycaffe of 2014 knows nothing newer."""
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.YieldFrom)
    for node in ast.walk(ast.parse(TOOL.read_text())):
        assert not isinstance(node, newer), f"line {node.lineno}"  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None, f"line {node.lineno}"
            assert not node.args.kwonlyargs, f"line {node.lineno}"
            assert all(a.annotation is None for a in node.args.args), f"line {node.lineno}"
        if isinstance(node, ast.Raise):
            assert node.cause is None, f"line {node.lineno}"
    TOOL.read_text().encode("ascii")
