"""The ResNet-101 networks of DeepLab v2 (arXiv 1606.00915, section 4.1.2, table 4).

Layer and parameter names follow the train.prototxt and test.prototxt released as
DeepLabv2_ResNet101: three scales that share their weights, and ASPP. The other rows of table 4 were
not released as files; they are the same network with another head (`plain` is a 1x1 classifier,
which the paper does not spell out) or with one scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from deeplab_repro.models.graph import Graph
from deeplab_repro.models.prototxt import Message

# stage, names of its blocks, channels inside and out, stride of the first block, rate of the 3x3
_STAGES = (
    (2, ("a", "b", "c"), 64, 256, 1, 1),
    (3, ("a", *(f"b{i}" for i in range(1, 4))), 128, 512, 2, 1),
    (4, ("a", *(f"b{i}" for i in range(1, 23))), 256, 1024, 1, 2),
    (5, ("a", "b", "c"), 512, 2048, 1, 4),
)
_ASPP_RATES = (6, 12, 18, 24)
_SCALE_FACTORS = (0.5, 0.75, 1, 1.25, 1.5)  # of the training data; section 4.1.2 of the paper
_FROZEN: Message = {"lr_mult": 0, "decay_mult": 0}


@dataclass(frozen=True)
class ResNet101:
    """What tells one ResNet-101 network from another."""

    head: str  # plain, largefov or aspp
    multi_scale: bool  # MSC: also at 0.75 and 0.5 of the input's size, maximum of the scores

    def build(self, graph: Graph) -> str:
        """Add all layers to `graph`; the name of the full-size score blob (TRAIN: the loss's)."""
        data = graph.data(_SCALE_FACTORS)
        scores = self._multi_scale(graph, data) if self.multi_scale else self._scores(graph, data)
        if graph.settings.phase == "TRAIN":
            self._train_tail(graph, scores)
            return scores
        full = graph.interp("fc1_interp", scores, zoom_factor=8)
        if graph.settings.phase == "TEST":
            graph.write_scores("fc1_mat", full, "fc1")
        return full

    def _multi_scale(self, graph: Graph, data: str) -> str:
        graph.interp("shrink_data05", data, "data_res05", shrink_factor=2, pad_beg=0, pad_end=0)
        graph.interp(
            "shrink_data075",
            data,
            "data_res075",
            shrink_factor=4,
            zoom_factor=3,
            pad_beg=0,
            pad_end=0,
        )
        full = self._scores(graph, data)
        half = self._scores(graph, "data_res05", "_res05")
        three_quarters = self._scores(graph, "data_res075", "_res075")
        half = graph.interp(f"{half}_interp", half, zoom_factor=2)
        three_quarters = graph.interp(
            f"{three_quarters}_interp", three_quarters, zoom_factor=4, shrink_factor=3
        )
        return graph.eltwise("fc_fusion", [full, three_quarters, half], "MAX")

    def _scores(self, graph: Graph, data: str, copy: str = "") -> str:
        """Trunk and head at one scale; `copy` ends the names of all its layers."""
        features = _trunk(graph, data, copy)
        name = f"fc1_{graph.settings.exp}"
        if self.head == "aspp":
            branches = [
                _classifier(graph, f"{name}{copy}_c{i}", f"{name}_c{i}", features, 3, rate)
                for i, rate in enumerate(_ASPP_RATES)
            ]
            return graph.eltwise(name + copy, branches, "SUM")
        kernel, rate = {"plain": (1, 1), "largefov": (3, 12)}[self.head]
        return _classifier(graph, name + copy, name, features, kernel, rate)

    def _train_tail(self, graph: Graph, scores: str) -> None:
        labels = graph.interp("label_shrink", "label", shrink_factor=8, pad_beg=0, pad_end=0)
        graph.loss_and_accuracy(scores, labels)
        if self.multi_scale:
            # One more loss per scale: two on 41x41 labels, that of the half size on 21x21 ones,
            # where its scores are not interpolated.
            name = f"fc1_{graph.settings.exp}"
            graph.loss_and_accuracy(name, labels, "_res1")
            graph.loss_and_accuracy(f"{name}_res075_interp", labels, "_res075")
            half = graph.interp("label_shrink16", "label", shrink_factor=16, pad_beg=0, pad_end=0)
            graph.loss_and_accuracy(f"{name}_res05", half, "_res05")
        graph.silence(label=False)


def _trunk(graph: Graph, data: str, copy: str) -> str:
    blob = _conv_bn_scale(graph, "conv1", "_conv1", data, 64, 7, copy, pad=3, stride=2)
    graph.relu("conv1_relu" + copy, blob)
    blob = graph.pool("pool1" + copy, blob, 3, 2, 1)
    for stage, blocks, inside, outside, first_stride, rate in _STAGES:
        for block in blocks:
            stride = first_stride if block == "a" else 1
            blob = _bottleneck(graph, f"{stage}{block}", blob, inside, outside, stride, rate, copy)
    return blob


def _bottleneck(
    graph: Graph,
    name: str,
    bottom: str,
    inside: int,
    outside: int,
    stride: int,
    rate: int,
    copy: str,
) -> str:
    """1x1, 3x3, 1x1 beside the identity, or beside a 1x1 in the first block of a stage.

    The stride sits on the first 1x1, not on the 3x3.
    """

    def conv(branch: str, blob: str, channels: int, kernel: int, **options: int) -> str:
        unit = f"{name}_branch{branch}"
        return _conv_bn_scale(graph, f"res{unit}", unit, blob, channels, kernel, copy, **options)

    shortcut = bottom
    if name.endswith("a"):
        shortcut = conv("1", bottom, outside, 1, stride=stride)
    blob = conv("2a", bottom, inside, 1, stride=stride)
    graph.relu(f"res{name}_branch2a_relu{copy}", blob)
    blob = conv("2b", blob, inside, 3, pad=rate, dilation=rate)
    graph.relu(f"res{name}_branch2b_relu{copy}", blob)
    blob = conv("2c", blob, outside, 1)
    total = graph.eltwise(f"res{name}{copy}", [shortcut, blob], "SUM")
    return graph.relu(f"res{name}_relu{copy}", total)


def _conv_bn_scale(
    graph: Graph,
    conv: str,
    unit: str,
    bottom: str,
    channels: int,
    kernel: int,
    copy: str,
    *,
    pad: int = 0,
    stride: int = 1,
    dilation: int = 1,
) -> str:
    """Convolution without bias, then BatchNorm and Scale in place, both frozen.

    The parameters carry names without `copy`, so the three scales share them.
    """
    blob = graph.convolution(
        conv + copy,
        bottom,
        graph.channels(channels),
        kernel,
        pad=pad,
        stride=stride,
        dilation=dilation,
        bias=False,
        shared=[f"{conv}_0"],
    )
    for prefix, kind, blobs, fields in (
        ("bn", "BatchNorm", 3, {"batch_norm_param": {"use_global_stats": True}}),
        ("scale", "Scale", 2, {"scale_param": {"bias_term": True}}),
    ):
        name = prefix + unit
        params: list[Message] = [{"name": f"{name}_{i}", **_FROZEN} for i in range(blobs)]
        graph.add(kind, name + copy, [blob], [blob], param=params, **fields)
    return blob


def _classifier(graph: Graph, name: str, shared: str, bottom: str, kernel: int, rate: int) -> str:
    return graph.classifier(
        name,
        bottom,
        kernel,
        pad=rate * (kernel - 1) // 2,
        dilation=rate,
        shared=[f"{shared}_w", f"{shared}_b"],
    )
