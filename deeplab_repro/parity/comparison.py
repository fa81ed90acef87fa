"""Layer by layer: do we compute what Caffe computed?"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np
import torch

from deeplab_repro.caffe.net import CaffeNet
from deeplab_repro.errors import InputError
from deeplab_repro.parity.agreement import Agreement
from deeplab_repro.parity.recordings import Recording
from deeplab_repro.parity.tolerances import Tolerance
from prototxt_import import Net
from prototxt_import.files import replacing_file

__all__ = [
    "BlobReport",
    "Compared",
    "Comparison",
    "blob_writers",
    "compare_blobs",
    "compare_recording",
    "write_activations",
]


@dataclass(frozen=True)
class BlobReport:
    """How one blob compares.

    Attributes:
        blob: its name.
        layer: the layer that made it; "" for an input, or if the network does not have it.
        type: that layer's type, then those of the layers that overwrote it in place.
        shape: ours.
        agreement: distances; None where there is nothing to compare with.
        equal: within the tolerance; None where there is nothing to compare with.
    """

    blob: str
    layer: str
    type: str
    shape: tuple[int, ...]
    agreement: Agreement | None
    equal: bool | None


@dataclass(frozen=True)
class Compared(ABC):
    """A network held against a recording.

    Attributes:
        recording: what it was held against.
        tolerance: what counts as equal.
        reports: one a blob, in the order in which the network makes them.
        ours: blob -> what the network computed, inputs too.
    """

    recording: Recording
    tolerance: Tolerance
    reports: list[BlobReport]
    ours: dict[str, torch.Tensor]

    @property
    @abstractmethod
    def inputs(self) -> Sequence[str]:
        """Names of the network's inputs."""

    @property
    @abstractmethod
    def about(self) -> dict[str, str]:
        """What a reader should know of the network, line by line."""

    @property
    def compared(self) -> int:
        """How many of the network's blobs, which are those of ``ours``, were recorded."""
        return sum(r.agreement is not None for r in self.reports if r.blob in self.ours)

    @property
    def first(self) -> BlobReport | None:
        """The first blob that differs."""
        return next((report for report in self.reports if report.equal is False), None)


@dataclass(frozen=True)
class Comparison(Compared):
    """A Caffe network held against a recording.

    Attributes:
        net: the network.
    """

    net: CaffeNet

    @property
    def inputs(self) -> Sequence[str]:
        """Its input blobs."""
        return list(self.net.inputs)

    @property
    def about(self) -> dict[str, str]:
        """Its name, how many layers it has, and the dialect it was read in."""
        net = self.net.net
        name = f"{net.name or 'without a name'}, {len(net.layers)} layers"
        return {"network": name, "dialect": str(net.raw.report)}


def blob_writers(net: Net) -> dict[str, tuple[str, str]]:
    """Blob -> (layer that made it, types of all layers that wrote it: ``Convolution+ReLU``)."""
    writers = dict.fromkeys(net.inputs, ("", "input"))
    for layer in net.layers:
        for i, top in enumerate(layer.tops):
            if layer.is_in_place(i) and top in writers:
                first, types = writers[top]
                writers[top] = first, f"{types}+{layer.type}"
            else:
                writers[top] = layer.name, layer.type
    return writers


def compare_recording(
    net: CaffeNet, recording: Recording, tolerance: Tolerance
) -> list[BlobReport]:
    """The reports of :func:`compare_blobs` alone."""
    return compare_blobs(net, recording, tolerance).reports


def compare_blobs(net: CaffeNet, recording: Recording, tolerance: Tolerance) -> Comparison:
    """Run ``net`` on the recorded inputs and hold every blob against the recorded one.

    Returns:
        reports in the order in which the network makes the blobs, and what it computed; blobs that
        only the recording has come last, and count as not equal.

    Raises:
        InputError: the recording lacks an input of the network.
    """
    recorded = set(recording.blobs())
    inputs = {}
    for name, declared in net.net.inputs.items():
        if name in recorded:
            inputs[name] = torch.from_numpy(recording.whole(name).astype(np.float32))
        elif declared.required:
            raise InputError(
                "lacks an input of the network", file=recording.file, expected=f"/blobs/{name}"
            )
    if recorded <= net.net.inputs.keys():
        raise InputError(
            "holds no blob to compare with, inputs aside",
            file=recording.file,
            expected="/blobs/NAME for every blob of the network",
        )
    with torch.inference_mode():
        ours = net.blobs(**inputs)
    writers = blob_writers(net.net)
    reports = []
    for name, value in ours.items():
        layer, types = writers[name]
        agreement = recording.agreement(name, value.numpy()) if name in recorded else None
        equal = None if agreement is None else agreement.within(tolerance)
        reports.append(BlobReport(name, layer, types, tuple(value.shape), agreement, equal))
    for name in sorted(recorded - ours.keys()):
        if not _is_automatic_split(name):
            nowhere = Agreement(np.inf, np.inf, "the network has no such blob")
            reports.append(BlobReport(name, "", "", (), nowhere, False))
    return Comparison(recording, tolerance, reports, ours, net)


def write_activations(path: str | os.PathLike[str], blobs: dict[str, torch.Tensor]) -> None:
    """Write ``/blobs/NAME`` float32 for every blob; a "/" in a name makes nested groups.

    Where NAME is such a group itself, because other names begin with it, the blob is NAME/full.
    """
    groups = {name[:i] for name in blobs for i, letter in enumerate(name) if letter == "/"}
    with replacing_file(path) as out, h5py.File(out, "w", track_order=True) as file:
        group = file.create_group("blobs", track_order=True)
        for name, value in blobs.items():
            place = f"{name}/full" if name in groups else name
            group.create_dataset(place, data=value.detach().to("cpu", torch.float32).numpy())
            if name in groups:
                group[name].attrs["shape"] = value.shape


def _is_automatic_split(blob: str) -> bool:
    """insert_splits.cpp calls the blobs of the Split layers it adds ``..._split_N``."""
    return blob.rpartition("_split_")[1] != "" and blob.rpartition("_")[2].isdecimal()
