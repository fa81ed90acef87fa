"""Every stored tensor of the original program's networks, and what it predicted."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplab_repro import tensorflow
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.variables import to_tensorflow
from tests.make_tensorflow_network_data import digest
from tests.testing.tensorflow_weights import made

NETWORKS = Path(__file__).parents[1] / "data" / "tensorflow" / "networks"
CASES: dict[str, Any] = json.loads((NETWORKS / "cases.json").read_text())
#: Of an array's standard deviation; TensorFlow's own kernels differ by up to 5e-5.
TOLERANCE = 2e-4


def shapes_of(case: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """TensorFlow's variables of the network and their shapes there."""
    with torch.device("meta"):
        net = DeepLabV3(ModelOptions.from_case(case))
    return {
        name: to_tensorflow(name, torch.empty(tensor.shape)).shape
        for name, tensor in net.variables.items()
    }


def tensors(net: DeepLabV3, x: Tensor, case: dict[str, Any]) -> dict[str, Tensor]:
    """What the reference stores of a run."""
    scales, flip = case.get("eval_scales", [1.0]), case.get("flip", False)
    found: dict[str, Tensor] = {}
    if len(scales) == 1 and not flip:
        found = net.endpoints(x)
    else:
        runs = [
            net.endpoints(x.flip(3) if mirrored else x, scale)
            for scale in scales
            for mirrored in ([False, True] if flip else [False])
        ]
        found = dict(runs[0])
        for i, run in enumerate(runs):
            found[f"logits_{i}/merged_logits"] = run["logits/merged_logits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found["labels"], found["prob"] = net.predict(x, scales, flip)
    return found


#: These take seconds, and share all but their size with the others.
SLOW = ("r101", "x65_", "r50_", "r50b")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name[:4] in SLOW and name != "r50b_v3_os8"
        else name
        for name in CASES
    ],
)
def test_a_network_of_the_original(name: str) -> None:
    case, arrays = CASES[name]["case"], CASES[name]["arrays"]
    shapes = shapes_of(case)
    assert digest({key: list(shape) for key, shape in shapes.items()}) == CASES[name]["variables"]
    net = tensorflow.load(case, {key: made(key, shape) for key, shape in shapes.items()})
    with np.load(NETWORKS / f"{name}.npz") as file:
        stored = dict(file)
    x = torch.from_numpy(stored["input"].astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        found = tensors(net, x, case)
    assert set(arrays) <= set(found)
    wrong = {}
    for key, (shape, std, place, count) in arrays.items():
        ours = found[key].permute(0, 2, 3, 1).numpy()
        assert list(ours.shape) == shape, key
        pixels = np.random.default_rng(0).integers(0, ours.size, count)
        theirs = stored["values"][place : place + count]
        error = float(np.abs(ours.reshape(-1)[pixels] - theirs).max() / std)
        if not error <= TOLERANCE:
            wrong[key] = error
    assert not wrong
    assert np.mean(found["labels"].numpy() != stored["labels"]) <= 1e-4
