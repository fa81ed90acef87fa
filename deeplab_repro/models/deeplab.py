"""DeepLab as a PyTorch module: a backbone, a head, and what DeepLab does to see several scales.

A picture becomes scores in three steps:

1. The backbone, VGG-16 or ResNet-101, makes a map of features.  A network for classification
   shrinks the picture 32 times.  DeepLab drops the last strides and gives all that follows holes
   instead, so that every filter sees what it saw in training while the map stays four times as
   large (arXiv 1606.00915, section 3.1): the rule is in `deeplab_repro.models.walk`.
2. The head gives each place of the map a score for every class, with a large field of view
   (LargeFOV: one rate) or with several (ASPP: the sum over rates).
3. The scores are zoomed to the picture's size, bilinearly.

Two networks add scales.  DeepLab-MSc sums the scores of earlier, finer maps (side branches);
DeepLab v2's MSC runs the same network on the picture at three sizes and takes the maximum.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeplab_repro.caffe.checkpointing import checkpointed
from deeplab_repro.caffe.layers.combine import maximum
from deeplab_repro.models import caffe_blobs
from deeplab_repro.models.architectures import Architecture, Expansion, InputScale, expand
from deeplab_repro.models.layers import Convolution, resize
from deeplab_repro.models.losses import LossRule, Total, loss_rules, whole
from deeplab_repro.models.modules import Builder, NormFactory, ResidualSum, chain, module_of
from deeplab_repro.models.steps import Resize
from deeplab_repro.models.write import write_network
from deeplab_repro.pictures.voc import IGNORE_LABEL
from prototxt_import import parse_net, write_weights
from prototxt_import.matching import WeightMatch

__all__ = ["OUT", "Backbone", "DeepLab", "ScaledCopy"]

#: The name of a backbone's last map among the maps that it gives.
OUT = "out"
#: The largest value of a pixel: the factor between the input and one of unit range.
_PIXEL_RANGE = 255


class Backbone(nn.Sequential):
    """Stages one after the other.

    Args:
        stages: by name, each a chain of layers under the names of the released files.
        taps: names of the earlier maps that somebody reads; "data" is the input.

    Attributes:
        checkpointing: let the backward pass compute the maps within residual units, or within
            stages that have none, again instead of remembering them: less memory for the time of
            another forward pass, and the same bits.
    """

    checkpointing = False

    def __init__(self, stages: OrderedDict[str, nn.Module], taps: Iterable[str] = ()) -> None:
        super().__init__(stages)
        self.taps = frozenset(taps)

    def forward(self, x: Tensor) -> Any:
        """(N, 3, H, W) -> the last map, or, with taps, {name: map} with the last one as "out"."""
        if not self.taps and not self.checkpointing:
            return super().forward(x)
        maps = {"data": x}
        for stage in self:
            layers = list(stage.named_children())
            is_residual = any(isinstance(layer, ResidualSum) for _, layer in layers)
            for part in [[layer] for layer in layers] if is_residual else [layers]:
                x, own = self._through(part, x)
                maps.update(own)
        return {**maps, OUT: x} if self.taps else x

    def _through(
        self, layers: Sequence[tuple[str, nn.Module]], x: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The map behind some layers, and those of the taps among them."""

        def run(values: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            x, maps = values["x"], {}
            for name, layer in layers:
                x = layer(x)
                if name in self.taps:
                    # A ReLU behind this layer writes over its map, as in Caffe.
                    maps[name] = x
            return x, maps

        if self.checkpointing and torch.is_grad_enabled():
            return checkpointed(run, {"x": x}, [layer for _, layer in layers])
        return run({"x": x})


class ScaledCopy(nn.Module):
    """A size at which the network looks at the picture: how it gets there and back.

    Args:
        scale: its entry in the architecture.
        score_stride: pixels for a row or column of scores, at the picture's own size.
    """

    def __init__(self, scale: InputScale, score_stride: int) -> None:
        super().__init__()
        self.zoom, self.shrink = scale.zoom, scale.shrink
        #: Scores are compared with labels at their own size where these can be picked unmixed.
        stride = score_stride * Fraction(scale.shrink, scale.zoom)
        self.is_compared_fitted = stride.denominator > 1

    def picture(self, x: Tensor) -> Tensor:
        """The picture (N, 3, H, W) at this size."""
        return x if self.zoom == self.shrink else resize(x, self.zoom, self.shrink)

    def fit(self, scores: Tensor) -> Tensor:
        """Scores (N, K, h, w) of this size at that of the whole picture's."""
        return scores if self.zoom == self.shrink else resize(scores, self.shrink, self.zoom)

    def extra_repr(self) -> str:
        """The factors of the picture and of the scores, as ``print(model)`` shows them."""
        return f"picture x {self.zoom}/{self.shrink}, scores x {self.shrink}/{self.zoom}"


class DeepLab(nn.Module):
    """A network of DeepLab v1 or v2.

    In eval mode it is the test net of the released files, in train mode the train net.

    `backbone` and `head` may be replaced by any module that reads and writes maps of the same
    stride.  Keys of the state dict end in the names of the layers in the released Caffe files, such
    as `backbone.stage4.res4b22.body.res4b22_branch2b.weight`.

    Args:
        architecture: the table.
        num_classes: channels of the scores.
        output_stride: pixels of the input for a row or column of scores; as published where None.
        width: divides the published channel counts.
        exp: what the released files call ${EXP} in the names of layers.
        norm: makes every normalization from its number of channels, such as `nn.BatchNorm2d`, in
            place of the frozen ones of DeepLab v2.

    Attributes:
        backbone, head, side_branches, scales: the parts, see the head of this file.
        zoom: factor from the coarse scores to those of the input's size.
        rules: the losses of training, see :meth:`losses`.
        name: in `deeplab_repro.models.NETWORKS`, where it was made by its name.
        load_report: what the last weights file brought; None before.

    Raises:
        ValueError: the strides of the backbone cannot give this output stride; the message lists
            those that they can give.
    """

    rules: tuple[LossRule, ...]

    def __init__(
        self,
        architecture: Architecture,
        *,
        num_classes: int = 21,
        output_stride: int | None = None,
        width: int = 1,
        exp: str = "voc12",
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        stride = architecture.output_stride if output_stride is None else output_stride
        self.architecture = architecture
        self.name: str | None = None
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "output_stride": stride,
            "width": width,
            "exp": exp,
        }
        self.load_report: WeightMatch | None = None
        self.rules = loss_rules(self.expansion(training=True))

        build = Builder(architecture, norm, **self.options)
        head = module_of(architecture.head, build)
        taps = {branch.source for branch in architecture.side_branches}
        stages: OrderedDict[str, nn.Module] = OrderedDict(
            (f"stage{i}", chain(stage, build)) for i, stage in enumerate(architecture.backbone, 1)
        )
        self.backbone: nn.Module = Backbone(stages, taps.union(_sources(head)))
        self.head = head
        self.side_branches = nn.ModuleDict(
            {branch.source: module_of(branch, build) for branch in architecture.side_branches}
        )
        interp = build.test.get(f"{architecture.stem}_interp")
        self.zoom = interp.zoom if isinstance(interp, Resize) else 1
        # The released files list the scales from the largest to the smallest.
        scales = sorted(architecture.scales, key=lambda scale: scale.shrink / scale.zoom)
        self.scales = nn.ModuleDict(
            {scale.loss.removeprefix("_"): ScaledCopy(scale, self.zoom) for scale in scales}
        )
        self._balance()

    def forward(self, x: Tensor) -> Any:
        """Scores of every class, not yet softmax.

        Args:
            x: (N, 3, H, W), blue, green, red, 0..255 minus the mean (`pictures.voc.VOC_MEAN`).  The
                published sides fit `architecture.input_rule`: 8k + 1; 32k + 1 with three scales;
                8k + 2 for the first DeepLab.

        Returns:
            In eval mode, (N, num_classes, H, W).  For sides that do not fit the rule the scores
            have the size that Caffe's layers give them, which is a few rows and columns more or
            less than the picture's.

            In train mode, the coarse scores that the losses read, a tuple in the order of `rules`:
            one, or for three scales four: fused, at the picture's size, at 0.75 of it (zoomed back
            to the first), and at half of it.

        Raises:
            ValueError: sides that do not fit the rule, in a network that sums or compares maps
                of several scales and for which they do not come out alike.
        """
        if self.scales:
            compared = self._at_all_scales(x)
        elif self.side_branches:
            compared = [self._with_side_branches(x)]
        else:
            compared = [self.scores(x)]
        if self.training:
            return tuple(compared)
        fused = compared[0]
        if not self.side_branches:  # these are zoomed before they are summed
            fused = resize(fused, self.zoom)
        if self.architecture.crop is not None:
            begin, end = self.architecture.crop
            height, width = fused.shape[2:]
            fused = fused[..., begin : height - end, begin : width - end]
        return fused

    def scores(self, x: Tensor) -> Tensor:
        """The head's coarse scores (N, num_classes, h, w) of a picture at one size."""
        scores: Tensor = self._head_scores(self.backbone(x))
        return scores

    def losses(
        self,
        outputs: Sequence[Tensor],
        labels: Tensor,
        ignore_label: int = IGNORE_LABEL,
        total: Total = whole,
    ) -> dict[str, Tensor]:
        """Every loss by its name in the released files; Caffe minimises their sum.

        Args:
            outputs: what the network gave in train mode.
            labels: (N, H, W) or (N, 1, H, W) at the input's size, any type; they are decimated as
                Caffe's Interp does it, to the size of each of the scores.
            ignore_label: pixels that do not count.
            total: sums a number over the processes that share a batch.

        Returns:
            Each the mean over the pixels that count, () float32.

        Raises:
            ValueError: a label that is no class, labels of another size than the scores', or the
                scores of eval mode.
        """
        if isinstance(outputs, Tensor) or len(outputs) != len(self.rules):
            raise ValueError(
                f"losses: expected the {len(self.rules)} scores of train mode, got "
                + ("a tensor" if isinstance(outputs, Tensor) else f"{len(outputs)}")
            )
        return {
            rule.name: rule(scores, labels, ignore_label, total)
            for rule, scores in zip(self.rules, outputs, strict=True)
        }

    def loss(
        self, outputs: Sequence[Tensor], labels: Tensor, ignore_label: int = IGNORE_LABEL
    ) -> Tensor:
        """The sum of :meth:`losses`, which training minimises."""
        first, *rest = self.losses(outputs, labels, ignore_label).values()
        for loss in rest:
            first = first + loss
        return first

    def prototxt(self, phase: str = "DEPLOY", **options: Any) -> str:
        """The network as Caffe's text, to which :meth:`caffe_weights` belong.

        Args:
            phase: "TRAIN", "TEST" or "DEPLOY".
            **options: further ones of :func:`deeplab_repro.models.write_network`.

        Raises:
            ValueError: it was made from a table of one's own, not by name.
        """
        if self.name is None:
            raise ValueError("prototxt: expected a network made by create_model, by its name")
        numbers = dict(self.options)
        return write_network(
            self.name, phase, num_labels=numbers.pop("num_classes"), **numbers, **options
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as a file of Caffe's or ours, with the network in it.

        Args:
            path: `.caffemodel`, `.safetensors`, or `.caffemodel.h5`, which has no place for the
                network: keep :meth:`prototxt` beside it.

        Raises:
            CaffeImportError: another ending, a file that cannot be written, or a part of the
                network was replaced.
            ValueError: it was made from a table of one's own.
        """
        write_weights(path, self.caffe_weights(), parse_net(self.prototxt()))

    def caffe_weights(self) -> dict[str, list[np.ndarray[Any, Any]]]:
        """Layer -> blobs in Caffe's order and shapes, the copies for other scales included.

        See :func:`deeplab_repro.models.caffe_blobs.read_blobs`.
        """
        return caffe_blobs.read_blobs(self)

    def load_caffe_weights(
        self, weights: Mapping[str, Sequence[np.ndarray[Any, Any]]], strict: bool = True
    ) -> WeightMatch:
        """Copy weights by layer name, as Caffe does.

        See :func:`deeplab_repro.models.caffe_blobs.load_blobs`.
        """
        self.load_report = caffe_blobs.load_blobs(self, weights, strict=strict)
        return self.load_report

    def expansion(self, *, training: bool = False) -> Expansion:
        """The layers that the network stands for in Caffe, one by one."""
        return expand(self.architecture, training=training, **self.options)

    def reset_parameters(self) -> None:
        """New weights in every layer that knows how to draw them, as in a new network."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and reset is not None:
                reset()
        self._balance()

    @property
    def output_stride(self) -> int:
        """Pixels of the input for a row or column of the scores."""
        stride: int = self.options["output_stride"]
        return stride

    def extra_repr(self) -> str:
        """What it was made with."""
        words = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return words if self.name is None else f"{self.name}, {words}"

    def _head_scores(self, features: Any) -> Tensor:
        last = features if isinstance(features, Tensor) else features[OUT]
        earlier = (features[source] for source in _sources(self.head))
        scores: Tensor = self.head(last, *earlier)
        return scores

    def _with_side_branches(self, x: Tensor) -> Tensor:
        """The sum of all scores: coarse in training, at the input's size in testing.

        The first paper (section 3.3) concatenates the branches' features before the classifier; a
        sum of one 1x1 classifier per branch is the same linear map.
        """
        features = self.backbone(x)
        # In the order of the released files, so that dropout draws the same numbers.
        scores = self._head_scores(features)
        maps = [branch(features[source]) for source, branch in self.side_branches.items()]
        maps.append(scores if self.training else resize(scores, self.zoom))
        self._check_sizes(x, maps)
        fused = maps[0]
        for scores in maps[1:]:
            fused = fused + scores
        return fused

    def _at_all_scales(self, x: Tensor) -> list[Tensor]:
        """The maximum over the sizes of the picture, and the scores that each size's loss reads.

        arXiv 1606.00915, section 4.1.2 ("MSC").
        """
        own = [self.scores(scale.picture(x)) for scale in self._copies]
        fitted = [scale.fit(scores) for scale, scores in zip(self._copies, own, strict=True)]
        self._check_sizes(x, fitted)
        pairs = zip(self._copies, own, fitted, strict=True)
        return [
            maximum(fitted),
            *(fit if scale.is_compared_fitted else coarse for scale, coarse, fit in pairs),
        ]

    @property
    def _copies(self) -> list[ScaledCopy]:
        return list(self.scales.values())  # type: ignore[arg-type]

    def _check_sizes(self, x: Tensor, maps: Sequence[Tensor]) -> None:
        if torch.compiler.is_compiling():  # a program for any size does not ask for one
            return
        sizes = ["x".join(map(str, scores.shape[2:])) for scores in maps]
        if len(set(sizes)) > 1:
            height, width = x.shape[2:]
            rule = self.architecture.rule_for(height, self.output_stride)
            raise ValueError(
                f"input {height}x{width}: {self.name or 'this network'} takes {rule}; its scores "
                f"come out as {', '.join(sizes)}"
            )

    def _balance(self) -> None:
        """Weaken some convolutions of a network with new weights, so that its scores are small.

        The first one takes pixels of 0 to 255 as though they were of 0 to 1; otherwise the first
        scores would be in the hundreds, and so would the loss.

        With frozen statistics nothing holds the variance, which each of 33 units would double.
        Residual bodies weaker by the root of their number let it grow by no more than e in all.
        """
        first = next((m for m in self.backbone.modules() if isinstance(m, Convolution)), None)
        if first is not None:
            first.weight.data /= _PIXEL_RANGE
        sums = [module for module in self.modules() if isinstance(module, ResidualSum)]
        for module in sums:
            last = [part for part in module.body.modules() if isinstance(part, Convolution)][-1]
            last.weight.data *= len(sums) ** -0.5


def _sources(head: nn.Module) -> tuple[str, ...]:
    """Names of earlier maps that a head reads behind the last one: its attribute `sources`."""
    return getattr(head, "sources", ())
