"""Features of the Gaussian kernels: positions and colours divided by their standard deviations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deeplab_repro.crf.params import Std

__all__ = ["bilateral_features", "learned_features", "spatial_features"]


def spatial_features(
    height: int,
    width: int,
    xy_std: Std,
    *,
    like: Tensor | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """Features of the spatial kernel: (x / std, y / std) of each pixel.

    Args:
        height, width: pixels.
        xy_std: pixels; a number or (x, y).
        like: gives the dtype and the device; float32 on the CPU by default.
        origin: row and column of the first pixel, where this is a part of a picture.

    Returns:
        (2, height, width).  In memory a pixel's features are
        neighbours, as the lattice wants them.
    """
    dtype, device = (torch.float32, None) if like is None else (like.dtype, like.device)
    x_std, y_std = _divisors(xy_std, 2, dtype, device)
    features = torch.empty((height, width, 2), dtype=dtype, device=device)
    # Divided, as the densecrf programs do: a product with 1 / std rounds differently.
    top, left = origin
    x = torch.arange(left, left + width, dtype=dtype, device=device)
    y = torch.arange(top, top + height, dtype=dtype, device=device)
    features[..., 0] = x / x_std
    features[..., 1] = (y / y_std)[:, None]
    return features.permute(2, 0, 1)


def bilateral_features(
    image: Tensor,
    xy_std: Std,
    rgb_std: Std,
    *,
    dtype: torch.dtype,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """Features of a bilateral kernel: (x, y, channels...) of each pixel, divided by their stds.

    Args:
        image: (N, channels, H, W) of any number type.
        xy_std: pixels; a number or (x, y).
        rgb_std: in the image's units; a number or one per channel.
        dtype: of the result.
        origin: as of :func:`spatial_features`.

    Returns:
        (N, 2 + channels, H, W).

    Raises:
        ValueError: another number of channels than ``rgb_std`` has.
    """
    batch, channels, height, width = image.shape
    stds = _divisors(rgb_std, channels, dtype, image.device)
    features = image.new_empty((batch, height, width, 2 + channels), dtype=dtype)
    positions = spatial_features(height, width, xy_std, like=features, origin=origin)
    features[..., :2] = positions.permute(1, 2, 0)
    values = image.to(dtype) if image.is_floating_point() else image
    torch.div(values.permute(0, 2, 3, 1), stds, out=features[..., 2:])
    return features.permute(0, 3, 1, 2)


def learned_features(image: Tensor | None, stds: Tensor, height: int, width: int) -> Tensor:
    """Features of a kernel whose stds are learned: gradients reach these.

    Args:
        image: (N, channels, height, width) of any number type; None for positions alone.
        stds: (2 + channels,): x, y and each channel.
        height, width: pixels.

    Returns:
        (N, 2 + channels, height, width), or (1, 2, height, width) without an image; the values are
        those of :func:`spatial_features` and :func:`bilateral_features`.
    """
    x = torch.arange(width, dtype=stds.dtype, device=stds.device).expand(height, width)
    y = torch.arange(height, dtype=stds.dtype, device=stds.device)[:, None].expand(height, width)
    positions = torch.stack([x, y])[None]
    if image is not None:
        values = image.detach().to(stds)
        positions = torch.cat([positions.expand(len(values), -1, -1, -1), values], 1)
    return positions / stds[:, None, None]


def _divisors(
    std: Std | Sequence[float], count: int, dtype: torch.dtype, device: torch.device | None
) -> Tensor:
    """``count`` stds as a tensor: a division by a Python number may become a product on a GPU."""
    values = tuple(std) if isinstance(std, Sequence) else (std,) * count
    if len(values) != count:
        raise ValueError(f"rgb_std has {len(values)} numbers, the image {count} channels")
    return torch.tensor(values, dtype=dtype, device=device)
