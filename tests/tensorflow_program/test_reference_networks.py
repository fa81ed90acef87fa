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
from deeplab_repro.ops import AtrousConv2d, set_accuracy
from tests.make_tensorflow_network_data import digest
from tests.testing.tensorflow_weights import made

NETWORKS = Path(__file__).parents[1] / "data" / "tensorflow" / "networks"
CASES: dict[str, Any] = json.loads((NETWORKS / "cases.json").read_text())
#: Of an array's standard deviation; TensorFlow's own kernels differ by up to 5e-5.
TOLERANCE = 2e-4
#: The share of pixels whose label may differ.
OTHER_LABELS = 1e-4


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
    found["labels"], found["prob"] = predicted(net, x, case)
    return found


def predicted(net: DeepLabV3, x: Tensor, case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Labels and probabilities, over the scales of the case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net.predict(x, case.get("eval_scales", [1.0]), case.get("flip", False))


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
        assert differing(tensors(net, x, case), stored, arrays) == {}
        # As users run it: folded, and with the forms that round more wherever there are any.
        quick = net.fuse()
        set_accuracy(quick, "fast")
        for module in quick.modules():
            if isinstance(module, AtrousConv2d):
                module.algorithm = "winograd"
        found = dict(zip(("labels", "prob"), predicted(quick, x, case), strict=True))
        assert differing(found, stored, {"prob": arrays["prob"]}) == {}


def differing(
    found: dict[str, Tensor], stored: dict[str, Any], arrays: dict[str, Any]
) -> dict[str, float]:
    """Which tensors are not the original's, and by how much."""
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
    labels = float(np.mean(found["labels"].numpy() != stored["labels"]))
    return wrong if labels <= OTHER_LABELS else {**wrong, "labels": labels}
