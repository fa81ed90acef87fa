"""Torchvision's ImageNet networks, VGG-16 and ResNet-101, as Caffe's layers.

Torchvision reads red, green, blue in 0..1, minus a mean and divided by a deviation.  DeepLab reads
blue, green, red in 0..255 minus its own mean.  The first convolution takes that up: its channels
are swapped, its weights divided, and what the two means differ by goes to its bias, or in ResNet to
the mean of the normalization behind it.

That is exact where the first convolution's window lies inside the picture.  Both pad with zeros,
but of their own values: at the border the first layer sees the difference of the two means, which
is at most 1 in 255.  And torchvision's ResNet has the stride of a block on its 3x3, where Caffe's
has it on the first 1x1: at DeepLab's output stride of 8 this changes the values from res3a on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from torch import Tensor

from deeplab_repro.errors import InputError
from deeplab_repro.models.ports import translate
from deeplab_repro.pictures.voc import VOC_MEAN

__all__ = ["MEAN", "STD", "Imported", "read_torchvision"]

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Of red, green and blue, in 0..1: what torchvision normalizes pictures with.
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
_CONVOLUTIONS: Final = tuple(
    f"conv{stage}_{i}"
    for stage, count in enumerate((2, 2, 3, 3, 3), 1)
    for i in range(1, count + 1)
)
_CONNECTED: Final = ("fc6", "fc7", "fc8")
_EPS: Final = 1e-5  # of nn.BatchNorm2d
_BORDER: Final = (
    "at the border the first convolution differs: torchvision pads with zeros of its values, Caffe"
    " with zeros of its own"
)
_STRIDE: Final = (
    "res3a and what follows differ: torchvision has the stride of 2 on res3a_branch2b, Caffe on"
    " res3a_branch2a"
)


@dataclass(frozen=True)
class Imported:
    """An ImageNet network in Caffe's words.

    Attributes:
        network: which, and whose.
        weights: layer -> blobs, float32, in Caffe's order; pictures as DeepLab reads them.
        first: the layer that was changed for these; None for weights of Caffe's.
        notes: what the network does not compute just as torchvision's.
    """

    network: str
    weights: dict[str, list[Array]]
    first: str | None = None
    notes: tuple[str, ...] = ()


def read_torchvision(
    state: Mapping[str, Tensor],
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Imported | None:
    """A state dict of torchvision's `vgg16`, `vgg16_bn` or `resnet101`; None if it is none such.

    Args:
        state: keys as in torchvision, with or without `module.` before them.
        mean, std: of red, green, blue in 0..1, as in the training of these weights.

    Raises:
        InputError: by its keys one of these, but other layers; or a number that cannot be used.
    """
    _check(mean, std)
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    shift = np.asarray(VOC_MEAN[::-1], np.float64) - 255 * np.asarray(mean, np.float64)
    notes = [] if np.allclose(shift, 0) else [_BORDER]
    if "classifier.0.weight" in state and "features.0.weight" in state:
        network, weights = "torchvision's VGG-16", _vgg16(state)
        first, receiver, number, sign = "conv1_1", "conv1_1", 1, 1  # the bias
    elif "layer4.0.conv1.weight" in state and not any(key.startswith("layer5.") for key in state):
        network, weights = "torchvision's ResNet-101", _resnet101(state)
        first, receiver, number, sign = "conv1", "bn_conv1", 0, -1  # the mean that is subtracted
        notes.append(_STRIDE)
    else:
        return None
    # With d the values that DeepLab reads and m its mean, torchvision reads
    # (d + m - 255 mean) / (255 std).
    scaled = weights[first][0] / (255 * np.asarray(std, np.float64)[:, None, None])
    offset = np.einsum("kcrs,c->k", scaled, shift)
    weights[first][0] = scaled[:, ::-1]
    weights[receiver][number] = weights[receiver][number] + sign * offset
    narrow = {
        name: [np.asarray(blob, np.float32) for blob in blobs] for name, blobs in weights.items()
    }
    return Imported(network, narrow, first, tuple(notes))


def _check(mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != 3 or not np.isfinite(mean).all():
        raise InputError("mean of torchvision's pictures", expected="3 numbers", got=list(mean))
    if len(std) != 3 or not np.isfinite(std).all() or min(std) <= 0:
        raise InputError(
            "deviation of torchvision's pictures", expected="3 numbers above 0", got=list(std)
        )


def _vgg16(state: Mapping[str, Tensor]) -> dict[str, list[Array]]:
    weights: dict[str, list[Array]] = {}
    left = dict(state)
    for part, names in (("features", _CONVOLUTIONS), ("classifier", _CONNECTED)):
        numbers = sorted(
            int(match[1])
            for key, tensor in state.items()
            if (match := re.fullmatch(rf"{part}\.(\d+)\.weight", key)) and tensor.dim() > 1
        )
        if len(numbers) != len(names):
            raise InputError(
                f"is not torchvision's vgg16: layers with weights in '{part}'",
                expected=len(names),
                got=len(numbers),
            )
        for name, number in zip(names, numbers, strict=True):
            weight, bias = (
                _pop(left, f"{part}.{number}.{tensor}") for tensor in ("weight", "bias")
            )
            normalization = f"{part}.{number + 1}"
            if f"{normalization}.running_mean" in left:  # vgg16_bn
                gamma, beta, average, variance = (
                    _pop(left, f"{normalization}.{tensor}")
                    for tensor in ("weight", "bias", "running_mean", "running_var")
                )
                left.pop(f"{normalization}.num_batches_tracked", None)
                factor = gamma / np.sqrt(variance.astype(np.float64) + _EPS)
                weight = weight * factor[:, None, None, None]
                bias = (bias - average) * factor + beta
            weights[name] = [weight, bias]
    if left:
        raise InputError(
            "is not torchvision's vgg16",
            expected="features and classifier",
            got=", ".join(list(left)[:4]),
        )
    return weights


def _resnet101(state: Mapping[str, Tensor]) -> dict[str, list[Array]]:
    try:
        ported = translate({key: state[key] for key in state if not key.startswith("fc.")})
    except InputError as error:
        raise InputError(
            "is not torchvision's resnet101", expected="its keys", got=error.got
        ) from None
    if ported is None:
        raise InputError("is not torchvision's resnet101", expected="its keys")
    weights = ported.weights
    if "fc.weight" in state and "fc.bias" in state:
        weights["fc1000"] = [_array(state["fc.weight"]), _array(state["fc.bias"])]
    return weights


def _pop(state: dict[str, Tensor], key: str) -> Array:
    if key not in state:
        raise InputError("is not torchvision's vgg16", expected=key, got="no such tensor")
    return _array(state.pop(key))


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().float().numpy()
    return array
