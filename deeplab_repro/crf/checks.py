"""What the dense CRF refuses, each with one error that says what was expected and what came."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

__all__ = ["check_energies", "check_image", "check_memory", "check_unary", "pictures_at_once"]

_FLOATS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_GIB: Final = 1 << 30


def check_unary(op: str, unary: Tensor, spatial_axes: int | None = 2) -> None:
    """Refuse what is no map of energies (N, C, ...).

    Args:
        op: the caller's name, for the message.
        unary: to check; its values are not looked at.
        spatial_axes: how many axes follow C; None: one or more.

    Raises:
        TypeError: no tensor of float32, float64, float16 or bfloat16.
        ValueError: another number of axes, or no labels.
    """
    layout = "(N, C, H, W)" if spatial_axes == 2 else "(N, C, ...)"
    if not isinstance(unary, Tensor) or unary.dtype not in _FLOATS:
        raise TypeError(
            f"{op}: unary must be a tensor of float32, float64, float16 or bfloat16,"
            f" got {_kind(unary)}"
        )
    if unary.dim() != 2 + spatial_axes if spatial_axes else unary.dim() < 3:
        raise ValueError(f"{op}: unary must have shape {layout}, got {_shape(unary)}")
    if unary.shape[1] == 0:
        raise ValueError(f"{op}: unary has no labels (C = 0), got {_shape(unary)}")


def check_energies(op: str, unary: Tensor) -> None:
    """Refuse energies that have no softmax: NaN, -inf, or +inf for every label of a pixel.

    Raises:
        ValueError: there are such.
    """
    if unary.numel() == 0:
        return
    least = unary.detach().amin(1)  # NaN wherever a label's energy is
    low, high = (float(v) for v in torch.aminmax(least))
    if low != low or high != high:
        raise ValueError(f"{op}: unary holds NaN")
    if low == -float("inf"):
        raise ValueError(f"{op}: unary holds -inf; energies are -log p or -score, +inf is allowed")
    if high == float("inf"):
        raise ValueError(f"{op}: unary is +inf for every label of a pixel")


def check_image(op: str, image: Tensor, unary: Tensor) -> None:
    """Refuse an image that does not belong to ``unary``.

    Raises:
        TypeError: no tensor of numbers.
        ValueError: another layout, size, batch or device.
    """
    if not isinstance(image, Tensor) or image.dtype is torch.bool or image.is_complex():
        raise TypeError(f"{op}: image must be a tensor of numbers, got {_kind(image)}")
    fits = image.dim() == 4 and image.shape[0] == unary.shape[0]
    if not fits or image.shape[2:] != unary.shape[2:]:
        raise ValueError(_misfit(op, image, unary))
    if image.shape[1] == 0:
        raise ValueError(f"{op}: image has no channels, got {_shape(image)}")
    if image.device != unary.device:
        raise ValueError(
            f"{op}: image must be on unary's device {unary.device}, got {image.device}"
        )


def _misfit(op: str, image: Tensor, unary: Tensor) -> str:
    """The message on another shape.  Apart, as a size in a string is a constant to a compiler."""
    batch, _, height, width = unary.shape
    hint = ""
    if image.dim() == 4 and image.shape[0] == batch:
        if tuple(image.shape[2:]) == (width, height):
            hint = ": height and width are swapped"
        elif tuple(image.shape[1:3]) == (height, width):
            hint = ": channels come last, use image.permute(0, 3, 1, 2)"
        elif tuple(image.shape[1:3]) == (width, height):
            hint = ": channels come last, and height and width are swapped"
    elif image.dim() == 3:
        hint = ": the batch axis is missing"
    elif image.dim() == 2:
        hint = ": batch and channel axis are missing"
    expected = f"(N, channels, H, W) = ({batch}, channels, {height}, {width})"
    return f"{op}: image must have shape {expected}, got {_shape(image)}{hint}"


def pictures_at_once(unary: Tensor) -> int:
    """How many pictures of a batch share their lattices.

    All on a GPU, which a batch fills.  One on the CPU: its lattice stays in the cache.
    """
    return max(1, len(unary)) if unary.is_cuda else 1


def check_memory(
    op: str,
    batch: int,
    points: int,
    labels: int,
    dimensions: Sequence[int],
    like: Tensor,
    at_once: int = 1,
) -> None:
    """Refuse what cannot fit into the memory that the machine or the GPU has at all.

    Counted is what is certain: energies, marginals and the messages' sum, and for each kernel the
    features, and vertex, weight and place in the vertex's list of each point and corner.

    Args:
        op: the caller's name, for the message.
        batch, points, labels: pictures, pixels of each, labels.
        dimensions: of the kernels' features.
        like: a tensor of the dtype and on the device of the computation.
        at_once: pictures whose lattices there are at the same time.

    Raises:
        MemoryError: too large, or beyond what 32-bit indexes count.
    """
    number = like.element_size()
    need = 3 * labels * number * batch * points
    corners = sum(d * number + (d + 1) * (4 + number + 4) for d in dimensions)
    need += corners * at_once * points
    have = _memory(like.device)
    what = f"{op}: {batch} x {points:,} points with {labels} labels"
    way_out = "cut the picture into tiles, or make it smaller"
    if need > have:
        raise MemoryError(
            f"{what} need at least {need / _GIB:,.1f} GiB of memory, and there are"
            f" {have / _GIB:,.1f} GiB; {way_out}"
        )
    entries = at_once * (points + 4) * (max(dimensions, default=0) + 1)
    if entries >= 2**31:
        raise MemoryError(f"{what} need {entries:,} lattice entries, and 2^31 can be; {way_out}")


def _memory(device: torch.device) -> int:
    """Bytes that a device has, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _kind(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
