"""MatWrite and HDF5Output write what they see, and nothing half."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deeplab_repro.caffe.net import CaffeNet, load_caffe
from deeplab_repro.errors import BadInput
from deeplab_repro.pictures.matlab import read_mat
from deeplab_repro.train.feeds import Sinks
from prototxt_import import CaffeImportError, parse_net


def network(writer: str) -> CaffeNet:
    """``a`` is written before a ReLU overwrites it; ``b`` has two axes."""
    text = f"""
    input: "a" input_shape {{ dim: 2 dim: 1 dim: 2 dim: 2 }}
    input: "b" input_shape {{ dim: 2 dim: 3 }}
    {writer}
    layer {{ name: "relu" type: "ReLU" bottom: "a" top: "a" }}
    """
    return load_caffe(parse_net(text, dialect="dl2"))


def mat_writer(extra: str = "") -> str:
    return (
        'layer { name: "w" type: "MatWrite" bottom: "a" bottom: "b" mat_write_param '
        f'{{ prefix: "out/" {extra} }} }}'
    )


HDF5 = (
    'layer { name: "w" type: "HDF5Output" bottom: "a" bottom: "b" '
    'hdf5_output_param { file_name: "out.h5" } }'
)


def blobs(number: int) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(8.0).reshape(2, 1, 2, 2) - 4 + number,
            "b": torch.full((2, 3), float(number))}  # fmt: skip


def run(net: CaffeNet, numbers: range) -> None:
    with torch.inference_mode():
        for number in numbers:
            net(**blobs(number))


def test_mat_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    net = network(mat_writer("period: 2"))
    with Sinks(net):
        run(net, range(4))
    run(net, range(4, 8))  # nobody listens any more
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"iter_{i}_blob_{k}.mat" for i in (0, 2) for k in (0, 1)
    ]
    assert (read_mat("out/iter_2_blob_0.mat") == blobs(2)["a"].numpy()).all()
    assert read_mat("out/iter_2_blob_1.mat").shape == (2, 3, 1, 1)


def test_mat_write_by_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("one.png x\ntwo.png\n")
    net = network(mat_writer('source: "list.txt" strip: 4'))
    with Sinks(net):
        with pytest.raises(BadInput, match="out/one_blob_0.mat: layer 'w': No such file"):
            run(net, range(1))
        Path("out").mkdir()
    with Sinks(net):
        run(net, range(2))
        assert sorted(path.name for path in Path("out").iterdir()) == [
            f"{name}_blob_{k}.mat" for name in ("one", "two") for k in (0, 1)
        ]
        with pytest.raises(BadInput, match="list.txt: layer 'w': .*further pass; .*most 2 passes"):
            run(net, range(1))
    Path("list.txt").write_text("one.png\na\n")
    with pytest.raises(BadInput, match="list.txt: layer 'w': line 2 is too short to lose 4"):
        Sinks(net)
    run(net, range(1))  # and no hook is left


def test_a_period_of_none() -> None:
    with pytest.raises(CaffeImportError, match="layer 'w': MatWrite: period must be positive"):
        network(mat_writer("period: 0"))


def test_hdf5_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = network(HDF5)
    with Sinks(net):
        run(net, range(3))
        assert not Path("out.h5").exists()
    with h5py.File("out.h5") as file:
        assert (file["data"][()] == np.concatenate([blobs(i)["a"] for i in range(3)])).all()
        assert file["label"].shape == (6, 3, 1, 1)
        before = file["label"][()]

    def broken() -> None:
        with Sinks(net), torch.inference_mode():
            net(**blobs(7))
            net(a=torch.zeros(2, 1, 3, 2), b=torch.zeros(2, 3))

    with pytest.raises(BadInput, match="'data' has rows of another shape.*1x2x2, got 1x3x2"):
        broken()
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
    with h5py.File("out.h5") as file:
        assert (file["label"][()] == before).all()
