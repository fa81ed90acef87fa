"""The VGG-16 networks of DeepLab v1 (arXiv 1412.7062) and v2 (arXiv 1606.00915).

Layer names, fillers and multipliers follow the train.prototxt and test.prototxt that were released
for DeepLab (`vgg128_noup`), DeepLab-MSc (`vgg128_ms_pool3`), DeepLab-LargeFOV, DeepLab-MSc-LargeFOV
and DeepLabv2_VGG16. The 4x4 (rate 8), 7x7 and ASPP-S networks were never released as files: their
kernels and rates stand in table 2 of the first paper and section 4.1.2 of the second; the padding
keeps the map's size, as in all the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from deeplab_repro.models.graph import CONSTANT_ZERO, Graph, gaussian

# stage, convolutions in it, channels
_STAGES = ((1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512), (5, 3, 512))
_FROZEN = (0, 0)


@dataclass(frozen=True)
class VGG16:
    """What tells one VGG-16 network from another."""

    fc6_kernel: int
    rates: tuple[int, ...]  # of fc6; several are the branches of ASPP
    fc_width: int  # channels of fc6 and fc7
    score: str = "fc8_{exp}"
    plain_pools: bool = False  # 2x2 pools of the first network, with its odd paddings
    average_pool: bool = False  # pool5a
    multi_scale: bool = False  # the branches of DeepLab-MSc
    fc8_lr: tuple[float, float] = (10, 20)

    def build(self, graph: Graph) -> str:
        """Add all layers to `graph`; the name of the full-size score blob (TRAIN: the loss's)."""
        settings = graph.settings
        graph.data()
        trunk = self._trunk(graph)
        scores = self._head(graph, trunk)
        if self.multi_scale:
            return self._multi_scale_tail(graph, scores)
        if settings.phase == "TRAIN":
            return self._train_tail(graph, scores)
        full = graph.interp("fc8_interp", scores, zoom_factor=8)
        if self.plain_pools:
            full = _crop(graph, full)
        return self._test_tail(graph, full)

    @property
    def output(self) -> str:
        """The full-size score blob of the TEST and DEPLOY phases."""
        if self.multi_scale:
            return "fc_fusion"
        return "fc8_crop" if self.plain_pools else "fc8_interp"

    @property
    def _trunk_lr(self) -> tuple[float, float]:
        # DeepLab-MSc starts from a trained network and learns the branches only.
        return _FROZEN if self.multi_scale else (1, 2)

    def _trunk(self, graph: Graph) -> str:
        blob = "data"
        for stage, convolutions, channels in _STAGES:
            hole = 2 if stage == 5 else 1
            for i in range(1, convolutions + 1):
                blob = graph.convolution(
                    f"conv{stage}_{i}",
                    blob,
                    graph.channels(channels),
                    3,
                    pad=hole,
                    dilation=hole,
                    lr=self._trunk_lr,
                )
                graph.relu(f"relu{stage}_{i}", blob)
            blob = graph.pool(f"pool{stage}", blob, *self._pool(stage, graph.settings.phase))
        if self.average_pool:
            blob = graph.pool("pool5a", blob, 3, 1, 1, "AVE")
        return blob

    def _pool(self, stage: int, phase: str) -> tuple[int, int, int]:
        """Kernel, stride and padding of a pool; the last two keep the map's size (nearly)."""
        stride = 2 if stage <= 3 else 1
        if not self.plain_pools or stage == 5:
            return 3, stride, 1
        # The released train net does not pad pool4 and the test net does: 39x39 scores for 306,
        # 67x67 (later cropped) for 514.
        return 2, stride, 0 if stage == 4 and phase == "TRAIN" else 1

    def _head(self, graph: Graph, bottom: str) -> str:
        name = self.score.format(exp=graph.settings.exp)
        if len(self.rates) == 1:
            return self._branch(graph, bottom, self.rates[0], "", name)
        branches = [
            self._branch(graph, bottom, rate, f"_{i}", f"{name}_{i}")
            for i, rate in enumerate(self.rates, 1)
        ]
        return graph.eltwise(name, branches, "SUM")

    def _branch(self, graph: Graph, bottom: str, rate: int, suffix: str, score: str) -> str:
        width = graph.channels(self.fc_width)
        pad = rate * (self.fc6_kernel - 1) // 2
        blob = bottom
        for layer, kernel, padding, hole in ((6, self.fc6_kernel, pad, rate), (7, 1, 0, 1)):
            blob = graph.convolution(
                f"fc{layer}{suffix}",
                blob,
                width,
                kernel,
                pad=padding,
                dilation=hole,
                lr=self._trunk_lr,
            )
            graph.relu(f"relu{layer}{suffix}", blob)
            graph.dropout(f"drop{layer}{suffix}", blob)
        return graph.classifier(score, blob, 1, lr=self.fc8_lr)

    def _multi_scale_tail(self, graph: Graph, fc8: str) -> str:
        """Scores of five earlier maps, added to fc8's: coarse in training, full size in testing.

        The first paper (section 3.3) concatenates the branches' features before the classifier;
        a sum of one 1x1 classifier per branch is the same linear map.
        """
        training = graph.settings.phase == "TRAIN"
        scores = []
        for bottom, step in (("data", 8), ("pool1", 4), ("pool2", 2), ("pool3", 1), ("pool4", 1)):
            score = _scale_branch(graph, bottom, stride=step if training else 1)
            zoom = {"data": 1, "pool1": 2, "pool2": 4}.get(bottom, 8)
            if not training and zoom > 1:
                score = graph.interp(f"{bottom}_interp", score, zoom_factor=zoom)
            scores.append(score)
        scores.append(fc8 if training else graph.interp("fc8_interp", fc8, zoom_factor=8))
        fused = graph.eltwise("fc_fusion", scores, "SUM")
        return self._train_tail(graph, fused) if training else self._test_tail(graph, fused)

    def _train_tail(self, graph: Graph, scores: str) -> str:
        # 306 = 8k + 2: without the first row and column, every eighth label is one of 39.
        skipped = -1 if self.plain_pools else 0
        labels = graph.interp("label_shrink", "label", shrink_factor=8, pad_beg=skipped, pad_end=0)
        graph.loss_and_accuracy(scores, labels)
        graph.silence(label=False)
        return scores

    def _test_tail(self, graph: Graph, scores: str) -> str:
        if graph.settings.phase == "TEST":
            graph.write_scores("fc8_mat", scores, "fc8")
        return scores


def _scale_branch(graph: Graph, bottom: str, stride: int) -> str:
    """3x3, 1x1 and the classifier on one map; 128 channels each."""
    width = graph.channels(128)
    blob = graph.convolution(
        f"{bottom}_conv",
        bottom,
        width,
        3,
        pad=1,
        stride=stride,
        weight_filler=gaussian(0.001),
        bias_filler=CONSTANT_ZERO,
    )
    graph.relu(f"relu_{blob}", blob)
    graph.dropout(f"drop_{blob}", blob)
    blob = graph.convolution(
        f"{bottom}_fc",
        blob,
        width,
        1,
        weight_filler=gaussian(0.005 if bottom == "pool4" else 0.001),
        bias_filler=CONSTANT_ZERO,
    )
    graph.relu(f"relu_{blob}", blob)
    graph.dropout(f"drop_{blob}", blob)
    # The released files give pool3_ms no filler: it starts from Caffe's default, zeros.
    fillers = {"weight_filler": None, "bias_filler": None} if bottom == "pool3" else {}
    return graph.classifier(f"{bottom}_ms", blob, 1, lr=(1, 2), **fillers)


def _crop(graph: Graph, blob: str) -> str:
    """Cut 529 rows and columns of zoomed scores down to the input's 514 (8k + 17 to 8k + 2).

    The released test net does it with the v1 fork's Padding layer. The v2 fork dropped that layer,
    but its Interp crops by negative paddings first, and a zoom of 1 then copies: the same numbers.
    """
    if graph.settings.format == "v1":
        return graph.add(
            "Padding", "fc8_crop", [blob], padding_param={"pad_beg": -7, "pad_end": -8}
        )
    return graph.interp("fc8_crop", blob, zoom_factor=1, pad_beg=-7, pad_end=-8)
