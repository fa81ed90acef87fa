"""Networks by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import torch

from deeplab_repro.errors import InputError
from deeplab_repro.models.catalogue import NETWORKS, check_whole, check_width, find
from deeplab_repro.models.deeplab import DeepLab
from deeplab_repro.models.modules import NormFactory
from deeplab_repro.models.v3.catalogue import NETWORKS_V3
from deeplab_repro.models.v3.network import DeepLabV3

__all__ = ["create_deeplab", "create_model", "list_models"]


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
    **options: Any,
) -> DeepLab | DeepLabV3:
    """A network of the papers with new weights, in train mode.

    New weights of v1 and v2 are those of the released files: classifiers and DeepLab-MSc's side
    branches from their Gaussians (0.01 in general), `pool3_ms` 0, biases 0.  The released files
    start the backbone from given weights; here it gets He's initialisation (arXiv 1502.01852), with
    the first convolution divided by 255, since pixels come as 0 to 255, and the last one of every
    residual unit divided by the root of their number, since frozen statistics do not hold the
    variance.  Every loss then begins near log(num_classes).

    The papers never train from such weights, and neither the frozen statistics nor the released
    learning rates suit it: start from the weights that the released training starts from
    (`deeplab-repro weights list`, "to start from"), which `deeplab_repro.models.load` fills in with
    `strict=False`.

    New weights of v3 and v3+ are He's, and classifiers' of deviation 0.01; batch normalization
    follows the batches.

    Args:
        name: in `NETWORKS`, its full name, or in `NETWORKS_V3`; see :func:`list_models`.
        num_classes: channels of the scores.
        output_stride: pixels of the input for a row or column of scores; as published where None,
            which is 8 of v1 and v2, 16 of v3 and v3+, 32 of MobileNetV3. Rates follow it, so that
            the field of view stays. Of v1 and v2, 1, 2, 4, 8, 16 or, where all rates stay whole
            numbers, 32; of v3 and v3+, what the backbone can have, in general 4, 8, 16 or 32.
        width: divides the published channel counts, of v1 and v2: a small network of the same
            shape.
        exp: what the released files call ${EXP} in the names of the classifiers, of v1 and v2.
        norm: makes every normalization of v1 and v2 from its number of channels, such as
            `nn.BatchNorm2d`, in place of the frozen ones of DeepLab v2.
        device: of the parameters; "meta" gives a network without memory.
        dtype: of the parameters; float32 where None.
        **options: of v3 and v3+: other fields of
            :class:`~deeplab_repro.models.v3.options.ModelOptions` than the network's, such as
            `depth_multiplier` of MobileNets, or `model_variant="resnet_v1_101"` for the ResNet
            with a 7x7 root.

    Raises:
        ValueError: one of the arguments is none of those.

    Example:
        >>> model = create_model("deeplab_v2_resnet101_msc", width=16).eval()
        >>> with torch.inference_mode():
        ...     model(torch.zeros(1, 3, 65, 65)).shape
        torch.Size([1, 21, 65, 65])
        >>> model = create_model("deeplab_v3_mobilenet_v2", depth_multiplier=0.5).eval()
        >>> with torch.inference_mode():
        ...     model(torch.zeros(1, 3, 64, 90)).shape
        torch.Size([1, 21, 64, 90])
    """
    if name in NETWORKS_V3:
        if width != 1 or norm is not None:
            option = "width" if width != 1 else "norm"
            raise InputError(f"{option} of {name}", expected="a network of DeepLab v1 or v2")
        chosen = NETWORKS_V3[name].options(num_classes, output_stride, **options)
        with _on(device):
            model = DeepLabV3(chosen)
        model.name = name
        return model if dtype is None else model.to(dtype)
    find(name, also=NETWORKS_V3)
    if options:
        raise InputError(f"option {next(iter(options))} of {name}", expected="a network of v3")
    return create_deeplab(
        name,
        num_classes,
        output_stride,
        width=width,
        exp=exp,
        norm=norm,
        device=device,
        dtype=dtype,
    )


def create_deeplab(
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
    """A network of v1 or v2; the arguments are those of :func:`create_model`."""
    network = find(name)
    check_whole("num_classes", num_classes)
    if output_stride is not None:
        check_whole("output_stride", output_stride)
    check_width(width)
    with _on(device):
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


def _on(device: torch.device | str | None) -> torch.device:
    """Where new parameters go."""
    return torch.device(torch.get_default_device() if device is None else device)


def list_models(pattern: str | None = None) -> list[str]:
    """The full names of all networks, or of those whose name or full name fits a pattern.

    Args:
        pattern: with "*" and "?" as in a shell.

    Example:
        >>> list_models("*msc-largefov")
        ['deeplab_v1_vgg16_largefov_msc', 'deeplab_v2_resnet101_largefov_msc']
    """
    names = {network.full_name: (name, network.full_name) for name, network in NETWORKS.items()}
    names |= {name: (name, name) for name in NETWORKS_V3}
    return [
        full_name
        for full_name, known_as in names.items()
        if pattern is None or any(fnmatchcase(name, pattern) for name in known_as)
    ]
