"""DeepLab v3 and v3+ as a PyTorch module, and how the original predicts with it (model.py).

The way of a picture: the backbone makes a coarse map of features; ASPP, or a dense prediction cell,
looks at it with several fields of view; a decoder brings it together with finer maps; a 1x1
convolution makes scores, which are resized to the picture's size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.errors import InputError
from deeplab_repro.models.modules import ParallelBranches
from deeplab_repro.models.v3.aspp import aspp
from deeplab_repro.models.v3.backbone import Backbone
from deeplab_repro.models.v3.decoder import Decoder
from deeplab_repro.models.v3.dense_prediction_cell import dense_prediction_cell
from deeplab_repro.models.v3.fusing import fused
from deeplab_repro.models.v3.mobilenet import mobilenet
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import (
    BatchNorm,
    ConvUnit,
    GraphNames,
    Resize,
    Tap,
    Times,
    WindowMean,
    mark,
    nearest_positions,
    scale_dimension,
)
from deeplab_repro.models.v3.resnet import resnet
from deeplab_repro.models.v3.variables import VariableMatch, variables_of
from deeplab_repro.models.v3.xception import xception
from prototxt_import.limits import MAX_PARAMETER_BYTES

__all__ = ["BACKBONES", "DeepLabV3", "meta_network"]

#: Family of a variant -> what makes its backbone.
BACKBONES: dict[str, Callable[[ModelOptions], Backbone]] = {
    "resnet": resnet,
    "xception": xception,
    "mobilenet": mobilenet,
}
#: Red, green and blue, which the first ResNets subtract.
_MEAN_RGB = (123.15, 115.90, 103.06)
_SUBTRACTS_MEAN = frozenset({"resnet_v1_18", "resnet_v1_50", "resnet_v1_101"})
#: Deviation of the normal distribution that new classifiers are drawn from.
_LOGITS_STD = 0.01


class UnitRange(nn.Module):
    """Pixels of 0 to 255 as values of -1 to 1."""

    def __init__(self, names: GraphNames) -> None:
        super().__init__()
        self.mul = mark(Times(2.0 / 255.0), names("mul"))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> likewise."""
        y: Tensor = self.mul(x) - 1.0
        return y


class MeanSubtraction(nn.Module):
    """Pixels without the mean of ImageNet's."""

    def __init__(self, names: GraphNames) -> None:
        super().__init__()
        self.concat = mark(Tap(), names("concat"))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> likewise."""
        y: Tensor = x - self.concat(x.new_tensor(_MEAN_RGB).reshape(1, 3, 1, 1))
        return y


class DeepLabV3(nn.Module):
    """A network of DeepLab v3 or v3+, as the options say.

    Args:
        options: see :class:`~deeplab_repro.models.v3.options.ModelOptions`.
        quirks: probabilities of several scales are computed as the original did, see
            :meth:`predict`.

    Attributes:
        options: the argument.
        normalize, backbone, pyramid, decoder, logits: the parts; `decoder` is None without one.
        name: of :func:`~deeplab_repro.models.create_model`, where it was made by its name.
        load_report: what the last variables brought; None before.

    Raises:
        ValueError: options that cannot be built.
    """

    def __init__(self, options: ModelOptions, *, quirks: bool = True) -> None:
        super().__init__()
        self.options = options
        self.quirks = quirks
        self.name: str | None = None
        self.load_report: VariableMatch | None = None
        self._is_fused = False

        names = GraphNames(dynamic=options.crop_size is None)
        names.sizes()
        subtracts = options.model_variant in _SUBTRACTS_MEAN
        normalize = (MeanSubtraction if subtracts else UnitRange)(names)
        self.normalize = mark(normalize, "preprocessed")
        self.backbone = mark(BACKBONES[options.variant.family](options), "features")
        self.pyramid: nn.Module = nn.Identity()
        channels = self.backbone.channels
        if options.aspp_with_batch_norm:
            has_cell = options.dense_prediction_cell_config is not None
            build = dense_prediction_cell if has_cell else aspp
            self.pyramid, channels = build(options, channels, names)
        self.decoder: Decoder | None = None
        if options.decoder_strides:
            self.decoder = Decoder(options, channels, self.backbone.low_level, names)
            channels = self.decoder.channels
        self.logits = _logits(options, channels, names)
        self.resize_logits = mark(Resize(), names("ResizeBilinear"))
        self.resize_to_input = mark(Resize(), names("ResizeBilinear"))
        self._windows = [module for module in self.modules() if isinstance(module, WindowMean)]
        self.train()

    # ------------------------------------------------------------------------------- computing

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every class at the input's size, not yet softmax.

        Args:
            x: (N, 3, H, W) float, red, green, blue, 0..255, of the options' `crop_size` where they
                have one.

        Returns:
            (N, num_classes, H, W).

        Raises:
            ValueError: another size than the crop's.
        """
        merged = self.multi_scale_logits(x)["merged_logits"]
        scores: Tensor = self.resize_to_input(merged, _size(x))
        return scores

    def multi_scale_logits(
        self, x: Tensor, image_pyramid: Sequence[float] | None = None
    ) -> dict[str, Tensor]:
        """Coarse scores of the picture at one size or several, which the losses read.

        Args:
            x: as of :meth:`forward`.
            image_pyramid: factors of the picture's size; None: those of the options.

        Returns:
            "merged_logits" (N, num_classes, h, w), the maximum or the mean over the sizes, with
            several sizes behind those of each, "logits_0.50" and the like.
        """
        scales = tuple(image_pyramid or self.options.image_pyramid or (1.0,))
        self._check_input(x)
        size = _size(x)
        single = self.options.crop_size is None
        stride = min(self.options.decoder_strides, default=self.options.output_stride)
        largest = max(1.0, *scales)
        if largest == 1.0:  # in whole numbers, so that a compiler follows
            height, width = ((side - 1) // stride + 1 for side in size)
        else:
            height, width = (
                scale_dimension(side, largest / stride, single=single) for side in size
            )
        found: dict[str, Tensor] = {}
        for scale in scales:
            scaled = x
            if scale != 1.0:
                sides = [scale_dimension(side, scale, single=single) for side in size]
                scaled = align_corners(x, *sides)
            logits = self.resize_logits(self._logits(scaled, scale), (height, width))
            found[f"logits_{scale:.2f}"] = logits
        if len(scales) == 1:
            return {"merged_logits": logits}
        stacked = torch.stack(list(found.values()))
        merged = stacked.amax(0) if self.options.merge_method == "max" else stacked.mean(0)
        return {**found, "merged_logits": merged}

    def predict(
        self,
        x: Tensor,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        quirks: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Labels and probabilities, as the original returned them.

        Args:
            x: as of :meth:`forward`.
            scales: factors of the picture's size, over whose probabilities the mean is taken; then
                the options' `image_pyramid` is not looked at.
            flip: whether each size is also looked at in a mirror.
            quirks: over several sizes the original takes another softmax of the mean, which tells
                the order of the classes but is no probability; False: the mean itself. None: as
                the network was made.

        Returns:
            labels (N, H, W) int64; probabilities (N, num_classes, H, W).
        """
        size = _size(x)
        if tuple(scales) == (1.0,) and not flip:
            return self._predict_once(self.multi_scale_logits(x)["merged_logits"], size)
        if not scales:
            raise ValueError("predict: expected at least one scale, got none")
        total: Tensor | None = None
        for scale in scales:
            for mirrored in (False, True) if flip else (False,):
                seen = x.flip(3) if mirrored else x
                logits = self.multi_scale_logits(seen, (scale,))["merged_logits"]
                logits = logits.flip(3) if mirrored else logits
                share = self.resize_to_input(logits, size).softmax(1)
                total = share if total is None else total + share
        assert total is not None
        mean = total / (len(scales) * (2 if flip else 1))
        if self.quirks if quirks is None else quirks:
            warnings.warn(
                "probabilities over several scales are a softmax of the mean probabilities, as in "
                "the original program; quirks=False gives the mean",
                stacklevel=2,
            )
            return mean.argmax(1), mean.softmax(1)
        return mean.argmax(1), mean

    def endpoints(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        """Every tensor that the original names, under its name there.

        Args:
            x: as of :meth:`forward`.
            scale: factor by which the picture is resized first.

        Returns:
            (N, C, H, W) each: "ep/NAME" of the backbone, "features" (its last map), "preprocessed",
            "head/NAME" of what follows, "logits/merged_logits". With the options' `image_pyramid`
            also "logits_0/logits_0.50" and the like, and the other maps are those of its first
            size.
        """
        maps: dict[str, Tensor] = {}

        def record(endpoints: tuple[str, ...], module: nn.Module, given: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if self._is_fused:  # whose sums are written over their terms
                tensor = tensor.clone()
            for endpoint in endpoints:
                maps.setdefault(endpoint, tensor)

        handles = [
            module.register_forward_hook(partial(record, module.endpoints))  # type: ignore[arg-type]
            for module in self.modules()
            if hasattr(module, "endpoints")
        ]
        pyramid = None if scale == 1.0 else (scale,)
        try:
            logits = self.multi_scale_logits(x, pyramid)
            self.resize_to_input(logits["merged_logits"], _size(x))
        finally:
            for handle in handles:
                handle.remove()
        maps["logits/merged_logits"] = logits["merged_logits"]
        if len(logits) > 1:
            maps.update({f"logits_0/{name}": tensor for name, tensor in logits.items()})
        return maps

    def _logits(self, x: Tensor, scale: float) -> Tensor:
        """The scores of a picture that was resized by `scale`, at the stride of the network."""
        for window in self._windows:
            window.scale = scale
        features, finer = self.backbone(self.normalize(x))
        features = self.pyramid(features)
        if self.decoder is not None:
            features = self.decoder(features, finer, _size(x))
        logits: Tensor = self.logits(features)
        return logits

    def _predict_once(self, logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if self.options.prediction_with_upsampled_logits:
            logits = self.resize_to_input(logits, size)
            return logits.argmax(1), logits.softmax(1)
        return self.labels_of(logits, size), self.resize_to_input(logits.softmax(1), size)

    def labels_of(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Labels of a whole picture from coarse scores, as `prediction_with_upsampled_logits` says.

        Args:
            logits: (N, num_classes, h, w), of :meth:`multi_scale_logits`.
            size: (height, width) of the picture.

        Returns:
            (N, height, width) int64.
        """
        if self.options.prediction_with_upsampled_logits:
            return self.resize_to_input(logits, size).argmax(1)
        rows, columns = (
            nearest_positions(have, out).to(logits.device)
            for have, out in zip(logits.shape[2:], size, strict=True)
        )
        return logits.argmax(1)[:, rows[:, None], columns]

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(
                f"input: expected (N, 3, H, W) floating point, got {tuple(x.shape)} {x.dtype}"
            )
        crop = self.options.crop_size
        if crop is not None and _size(x) != crop:
            raise ValueError(
                f"input: expected {crop[0]}x{crop[1]}, the options' crop_size; "
                f"got {x.shape[2]}x{x.shape[3]}"
            )

    # ------------------------------------------------------------------------ weights and modes

    @property
    def variables(self) -> dict[str, nn.Parameter | Tensor]:
        """TensorFlow's names -> parameters and moving statistics, in our layout.

        See :mod:`deeplab_repro.models.v3.variables` for TensorFlow's.
        """
        if self._is_fused:
            raise ValueError("variables: a fused network no longer has those of TensorFlow")
        return variables_of(self)

    @property
    def output_stride(self) -> int:
        """Pixels of the input for a row or column of the backbone's map."""
        return self.options.output_stride

    def train(self, mode: bool = True) -> DeepLabV3:
        """Train or evaluation mode; normalization follows the options' `fine_tune_batch_norm`."""
        super().train(mode)
        if not self.options.fine_tune_batch_norm:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.train(False)
        return self

    def reset_parameters(self) -> None:
        """New weights: He's, classifiers from a normal distribution of deviation 0.01."""
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.reset_parameters()

    def fuse(self, accuracy: str | None = None) -> DeepLabV3:
        """A network for inference: normalization and ReLU are computed by the convolutions.

        Args:
            accuracy: of its convolutions, "exact" or "fast" as of
                :func:`deeplab_repro.ops.atrous_conv2d`; None leaves it.

        Returns:
            A network with weights of its own, in evaluation mode, without the variables of the
            original. Its values differ by rounding.

        Raises:
            ValueError: another accuracy.
        """
        result = fused(self, accuracy)
        result._is_fused = True
        return result

    def extra_repr(self) -> str:
        """Which network it is."""
        words = f"{self.options.model_variant}, output_stride={self.options.output_stride}"
        return words if self.name is None else f"{self.name}, {words}"


def meta_network(options: ModelOptions, file: object = None) -> DeepLabV3:
    """A network on the meta device: shapes without memory, to be checked before memory is taken.

    Args:
        options: of the network.
        file: where it comes from, for messages.

    Raises:
        BadInput: its parameters and buffers would take more bytes than `MAX_PARAMETER_BYTES`.
    """
    what = "the network of these options has too many bytes of parameters"
    try:
        with torch.device("meta"):
            net = DeepLabV3(options)
    except RuntimeError:  # one of them has more bytes than 64 bits count
        most = MAX_PARAMETER_BYTES.value
        raise InputError(what, file=file, expected=f"at most {most}", got="far more") from None
    total = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    MAX_PARAMETER_BYTES.check(total, what, file=file)
    return net


def _logits(options: ModelOptions, channels: int, names: GraphNames) -> nn.Module:
    """The classifier, or the sum of several, or the place where the decoder gives the scores."""
    if options.decoder_output_is_logits:
        return mark(Tap(), names("semantic"))
    rates: tuple[int, ...] = (1,)
    if not options.aspp_with_batch_norm and options.atrous_rates is not None:
        rates = options.atrous_rates
    branches = []
    for i, rate in enumerate(rates):
        scope = "logits/semantic" + (f"_{i}" if i else "")
        unit = ConvUnit(
            scope,
            channels,
            options.num_classes,
            options.logits_kernel_size,
            rate=rate,
            norm=None,
            std=_LOGITS_STD,
        )
        branches.append(mark(unit, names(f"{scope}/BiasAdd")))
    if len(branches) == 1:
        return branches[0]
    return ParallelBranches(branches, "SUM", mark(Tap(), names("logits/AddN")))


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]
