"""torchvision's DeepLab v3 from its state dicts, held against torchvision where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deeplab_repro.errors import InputError
from deeplab_repro.models import load
from deeplab_repro.models.torchvision import TorchvisionDeepLab, load_torchvision
from deeplab_repro.ops import AtrousConv2d


def _why_not() -> str:
    """Why torchvision cannot be imported; its wheels are for one build of torch each."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"torchvision cannot be imported: {error}"
    return ""


needs_torchvision = pytest.mark.skipif(bool(_why_not()), reason=_why_not())
RESNET50 = (3, 4, 6, 3)


def state_of(depths: tuple[int, ...] | None, aux: bool = False) -> dict[str, Tensor]:
    """Random weights under torchvision's names, with the counters that it keeps."""
    torch.manual_seed(0)
    net = TorchvisionDeepLab(depths, 5, aux=aux)
    state = {key: tensor.detach().clone() for key, tensor in net.tensors().items()}
    counters = {
        key.replace("running_mean", "num_batches_tracked") for key in state if "mean" in key
    }
    return state | dict.fromkeys(counters, torch.tensor(3))


def close(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, in deviations of theirs."""
    return float((ours - theirs).abs().max() / theirs.std())


@needs_torchvision
@pytest.mark.slow
@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", ["resnet50", "resnet101", "mobilenet_v3_large"])
def test_against_torchvision(name: str, aux: bool) -> None:
    from torchvision.models import segmentation

    torch.manual_seed(1)
    build: Any = getattr(segmentation, f"deeplabv3_{name}")
    theirs = build(weights=None, weights_backbone=None, num_classes=6, aux_loss=aux)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that show whether they are read
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    state = theirs.state_dict()
    ours = load(state)
    assert isinstance(ours, TorchvisionDeepLab)
    theirs.eval()
    ours.eval()
    for size in ((65, 97), (64, 90)):
        x = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected, got = theirs(x), ours.outputs(x)
            scores = ours(x)
        assert got.keys() == expected.keys()
        for key in expected:
            assert close(got[key], expected[key]) < 1e-4
        assert torch.equal(scores, got["out"])


@pytest.mark.parametrize("aux", [False, True])
def test_a_state_dict_is_recognised(aux: bool, tmp_path: Path) -> None:
    state = state_of(RESNET50, aux)
    file = tmp_path / "deeplabv3_resnet50_coco.pth"
    torch.save(state, file)
    net = load(file)
    assert isinstance(net, TorchvisionDeepLab)
    assert (net.aux_head is not None) == aux
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.tensors().items())
    wrapped = load({"model": state}) if not aux else load(state)  # type: ignore[dict-item]
    assert isinstance(wrapped, TorchvisionDeepLab)
    scores = net.eval()(torch.zeros(1, 3, 33, 49))
    assert scores.shape == (1, 5, 33, 49)
    assert torch.isfinite(scores).all()


def rates(net: torch.nn.Module) -> list[tuple[int, int]]:
    """Stride and rate of every 3x3 and 5x5 convolution."""
    return [
        (module.stride[0], module.rate[0])
        for module in net.modules()
        if isinstance(module, AtrousConv2d) and module.kernel_size[0] in (3, 5)
    ]


def test_the_unit_that_loses_its_stride_keeps_its_rate_in_a_resnet_only() -> None:
    resnet = rates(TorchvisionDeepLab(RESNET50, 5).units)
    assert resnet == [
        *[(1, 1)] * 3,
        *[(2, 1), (1, 1), (1, 1), (1, 1)],
        *[(1, 1), *[(1, 2)] * 5],
        *[(1, 2), (1, 4), (1, 4)],
    ]
    mobilenet = rates(TorchvisionDeepLab(None, 5).units)
    assert mobilenet[-3:] == [(1, 2)] * 3
    assert [stride for stride, _ in mobilenet].count(2) == 4


def test_other_state_dicts() -> None:
    state = state_of(None)
    for key, tensor, message in (
        ("backbone.0.0.weight", None, "backbone.0.0.weight does not fit; expected .16, 3, 3, 3."),
        ("classifier.4.weight", None, "lacks its classifier"),
        ("backbone.99.weight", torch.zeros(1), "backbone.99.weight does not fit; expected no such"),
        ("backbone.1.block.0.0.weight", torch.zeros(1), r"expected .16, 1, 3, 3., got .1,."),
    ):
        changed = {name: value for name, value in state.items() if name != key}
        if tensor is not None:
            changed[key] = tensor
        with pytest.raises(InputError, match=message):
            load_torchvision(changed)
    with pytest.raises(InputError, match="output_stride of a network of torchvision's"):
        load(state, output_stride=16)
