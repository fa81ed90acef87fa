"""Networks by name."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from deeplab_repro.models.catalogue import NETWORKS, check_whole, check_width, find
from deeplab_repro.models.deeplab import DeepLab
from deeplab_repro.models.modules import NormFactory

__all__ = ["create_model", "list_models"]


def create_model(
    name: str,
    num_classes: int = 21,
    output_stride: int | None = None,
    *,
    width: int = 1,
    exp: str = "voc12",
    norm: NormFactory | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> DeepLab:
    """A network of the papers with new weights, in train mode.

    New weights are those of the released files: classifiers and DeepLab-MSc's side branches from
    their Gaussians (0.01 in general), `pool3_ms` 0, biases 0.  The released files start the
    backbone from given weights; here it gets He's initialisation (arXiv 1502.01852), with the first
    convolution divided by 255, since pixels come as 0 to 255, and the last one of every residual
    unit divided by the root of their number, since frozen statistics do not hold the variance.
    Every loss then begins near log(num_classes).

    The papers never train from such weights, and neither the frozen statistics nor the released
    learning rates suit it: start from the weights that the released training starts from
    (`deeplab-repro weights list`, "to start from"), which `deeplab_repro.models.load` fills in with
    `strict=False`.

    Args:
        name: in `NETWORKS`, or its full name; see :func:`list_models`.
        num_classes: channels of the scores.
        output_stride: pixels of the input for a row or column of scores, 1, 2, 4, 8, 16 or, where
            all rates stay whole numbers, 32; 8 as published where None.
            At 16 rates are half as large, so that the field of view stays.
        width: divides the published channel counts: a small network of the same shape.
        exp: what the released files call ${EXP} in the names of the classifiers.
        norm: makes every normalization from its number of channels, such as `nn.BatchNorm2d`, in
            place of the frozen ones of DeepLab v2.
        device: of the parameters; "meta" gives a network without memory.
        dtype: of the parameters; float32 where None.

    Raises:
        ValueError: one of the arguments is none of those.

    Example:
        >>> model = create_model("deeplab_v2_resnet101_msc", width=16).eval()
        >>> with torch.inference_mode():
        ...     model(torch.zeros(1, 3, 65, 65)).shape
        torch.Size([1, 21, 65, 65])
    """
    network = find(name)
    check_whole("num_classes", num_classes)
    if output_stride is not None:
        check_whole("output_stride", output_stride)
    check_width(width)
    with torch.device(torch.get_default_device() if device is None else device):
        model = DeepLab(
            network.architecture,
            num_classes=num_classes,
            output_stride=output_stride,
            width=width,
            exp=exp,
            norm=norm,
        )
    model.name = network.full_name
    if dtype is not None:
        model.to(dtype)
    return model


def list_models(pattern: str | None = None) -> list[str]:
    """The full names of all networks, or of those whose name or full name fits a pattern.

    Args:
        pattern: with "*" and "?" as in a shell.

    Example:
        >>> list_models("*msc-largefov")
        ['deeplab_v1_vgg16_largefov_msc', 'deeplab_v2_resnet101_largefov_msc']
    """
    return [
        network.full_name
        for name, network in NETWORKS.items()
        if pattern is None or any(fnmatchcase(n, pattern) for n in (name, network.full_name))
    ]
