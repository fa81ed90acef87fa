"""Every layer and loss that the original programs recorded, forward and backward."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.ops import ALGORITHMS
from deeplab_repro.parity.agreement import agreement
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import parse_net

CAFFE = Path(__file__).parents[2] / "data" / "caffe"


def cases(name: str) -> list[str]:
    with h5py.File(CAFFE / name) as file:
        return sorted(file)


def arrays(group: h5py.Group | None) -> dict[str, np.ndarray]:
    """Name -> values of all data sets below a group, or nothing without it."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    if group is not None:
        group.visititems(visit)
    return found


def check(what: str, ours: torch.Tensor | None, reference: np.ndarray, kind: str) -> None:
    assert ours is not None, f"{what}: no gradient"
    result = agreement(ours.detach().cpu().numpy(), reference)
    assert result.within(AGREEMENT[kind]), f"{what}: {result}"


def build(case: h5py.Group, phase: str, device: str) -> tuple[Any, dict[str, torch.Tensor]]:
    net = load_caffe(parse_net(case.attrs["prototxt"], phase=phase))
    for name, value in arrays(case.get("param")).items():
        layer, number = name.split("/")
        with torch.no_grad():
            net.params[layer][int(number)].copy_(torch.from_numpy(value))
    inputs = {name: torch.from_numpy(value).to(device).requires_grad_()
              for name, value in arrays(case["in"]).items()}  # fmt: skip
    return net.to(device), inputs


@pytest.mark.parametrize("name", cases("layers.h5"))
def test_layer(name: str, device: str) -> None:
    check_layer(name, device, "auto")


def convolutions() -> list[str]:
    """The cases whose network has a convolution, or the columns that Caffe makes for one."""
    with h5py.File(CAFFE / "layers.h5") as file:
        types = {name: str(case.attrs["prototxt"]) for name, case in file.items()}
    return [n for n, text in types.items() if '"Convolution"' in text or '"Im2col"' in text]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", convolutions())
def test_convolution_by_every_algorithm(name: str, algorithm: str, device: str) -> None:
    check_layer(name, device, algorithm)


def check_layer(name: str, device: str, algorithm: str) -> None:
    with h5py.File(CAFFE / "layers.h5") as file:
        case = file[name]
        net, inputs = build(case, "TEST", device)
        net.set_algorithm(algorithm)
        outputs = net(**inputs)
        expected = arrays(case["out"])
        assert outputs.keys() == expected.keys()
        for top, reference in expected.items():
            check(f"top {top}", outputs[top], reference, "caffe")
        if "grad_in" not in case:
            return
        diffs = arrays(case["grad_out"])
        torch.autograd.backward(
            [outputs[top] for top in diffs],
            [torch.from_numpy(diff).to(device) for diff in diffs.values()],
        )
        for bottom, reference in arrays(case["grad_in"]).items():
            check(f"gradient of {bottom}", inputs[bottom].grad, reference, "caffe/gradient")
        for param, reference in arrays(case.get("grad_param")).items():
            layer, number = param.split("/")
            ours = net.params[layer][int(number)].grad
            check(f"gradient of {param}", ours, reference, "caffe/gradient")


@pytest.mark.parametrize("name", cases("losses.h5"))
def test_loss(name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(CAFFE / "losses.h5") as file:
        case = file[name]
        if "class_weights" in case.attrs:
            words = " ".join(f"{weight:.6f}" for weight in case.attrs["class_weights"])
            (tmp_path / "class_weights.txt").write_text(words)
            monkeypatch.chdir(tmp_path)
        net, inputs = build(case, "TRAIN", device)
        outputs = net(**inputs)
        check("top out", outputs["out"], case["out/out"][()], "caffe")
        if "grad_in" not in case:
            assert not outputs["out"].requires_grad  # an accuracy
            return
        net.loss(outputs).backward()
        reference = case["grad_in/score"][()]
        check("gradient of score", inputs["score"].grad, reference, "caffe/gradient")


def test_the_bundled_cases_are_all_there() -> None:
    assert (len(cases("layers.h5")), len(cases("losses.h5"))) == (49, 11)
    assert os.path.getsize(CAFFE / "layers.h5") < 4 << 20
