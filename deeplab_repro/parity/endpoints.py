"""End point by end point: do we compute what the original TensorFlow program computed?

A recording is an .h5 with `/blobs/input`, pictures of 0..255, and `/blobs/KEY` for what the program
computed of them, under the keys of :meth:`DeepLabV3.endpoints`.  Maps may lie in it as TensorFlow
has them, (N, H, W, C), or as we do, (N, C, H, W): the input, which has three channels, tells.  A
key with which others begin, such as a unit's, is a group in the file: its map is KEY/full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.parity.agreement import Agreement, agreement
from deeplab_repro.parity.comparison import BlobReport, Compared
from deeplab_repro.parity.recordings import Recording
from deeplab_repro.parity.tolerances import Tolerance
from prototxt_import.words import show

__all__ = ["INPUT", "EndpointComparison", "compare_endpoints", "endpoints_of", "pictures_of"]

INPUT: Final = "input"
#: (N, H, W, C) -> (N, C, H, W).
_TO_OURS: Final = (0, 3, 1, 2)


@dataclass(frozen=True)
class EndpointComparison(Compared):
    """A network of DeepLab v3 or v3+ held against a recording.

    Attributes:
        net: the network.
    """

    net: DeepLabV3

    @property
    def inputs(self) -> Sequence[str]:
        """The pictures."""
        return [INPUT]

    @property
    def about(self) -> dict[str, str]:
        """What its backbone and its output stride are."""
        options = self.net.options
        return {"network": f"{options.model_variant}, output stride {options.output_stride}"}


def pictures_of(array: NDArray[Any]) -> tuple[Tensor, bool]:
    """Pictures as a network takes them, from either layout.

    Args:
        array: (N, 3, H, W) or (N, H, W, 3), or one picture without N; 0..255.

    Returns:
        (N, 3, H, W) float32, and whether channels came last.

    Raises:
        InputError: neither the second axis nor the last one has the three colours.
    """
    whole = array[None] if array.ndim == 3 else array
    if whole.ndim != 4 or 3 not in (whole.shape[1], whole.shape[3]):
        raise InputError("pictures", expected="Nx3xHxW or NxHxWx3", got=show(array.shape))
    last = whole.shape[1] != 3
    planes = whole.transpose(_TO_OURS) if last else whole
    return torch.from_numpy(np.ascontiguousarray(planes, np.float32)), last


def endpoints_of(net: DeepLabV3, x: Tensor) -> dict[str, Tensor]:
    """The pictures and every end point of them: (N, C, H, W) by key.

    Raises:
        InputError: pictures that the network does not take.
    """
    try:
        with torch.inference_mode():
            return {INPUT: x, **net.endpoints(x)}
    except ValueError as error:
        raise InputError(str(error)) from None


def compare_endpoints(
    net: DeepLabV3, recording: Recording, tolerance: Tolerance
) -> EndpointComparison:
    """Run ``net`` on the recorded pictures and hold every end point against the recorded one.

    Returns:
        reports in the order in which the network computes; end points that only the recording has
        come last, and count as not equal.

    Raises:
        InputError: the recording lacks pictures, or anything to compare with.
    """
    # A map lies in KEY/full where other keys begin with its own: HDF5 has groups there.
    recorded = {name.removesuffix("/full") for name in recording.blobs()}
    if INPUT not in recorded:
        raise InputError("lacks the pictures", file=recording.file, expected=f"/blobs/{INPUT}")
    if recorded == {INPUT}:
        raise InputError(
            "holds nothing to compare with",
            file=recording.file,
            expected="/blobs/KEY for end points, such as /blobs/logits/merged_logits",
        )
    x, channels_last = pictures_of(recording.whole(INPUT))
    ours = endpoints_of(net, x)
    makers = _makers(net)
    reports = []
    for key, value in ours.items():
        layer, kind = makers.get(key, ("", INPUT if key == INPUT else ""))
        found = None
        if key == INPUT:
            found = Agreement(0.0, 0.0)  # it was computed from these
        elif key in recorded:
            found = agreement(value.numpy(), _ours(recording.whole(key), channels_last))
        equal = None if found is None else found.within(tolerance)
        reports.append(BlobReport(key, layer, kind, tuple(value.shape), found, equal))
    for key in sorted(recorded - ours.keys()):
        nowhere = Agreement(np.inf, np.inf, "the network has no such end point")
        reports.append(BlobReport(key, "", "", (), nowhere, False))
    return EndpointComparison(recording, tolerance, reports, ours, net)


def _ours(array: NDArray[Any], channels_last: bool) -> NDArray[Any]:
    return array.transpose(_TO_OURS) if channels_last and array.ndim == 4 else array


def _makers(net: DeepLabV3) -> Mapping[str, tuple[str, str]]:
    """End point -> the path of the module that gives it, and its kind."""
    found: dict[str, tuple[str, str]] = {"logits/merged_logits": ("logits", "merged")}
    for path, module in net.named_modules():
        for key in getattr(module, "endpoints", ()) if path else ():
            found.setdefault(key, (path, type(module).__name__))
    return found
