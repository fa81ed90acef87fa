"""What the arguments of `atrous_conv2d` mean, and what is said of those that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from deeplab_repro.ops._atrous_algorithms import is_depthwise
from deeplab_repro.ops._atrous_interlace import How
from deeplab_repro.ops._atrous_native import out_size, sides
from deeplab_repro.ops._atrous_rules import ACCURACIES, ALGORITHMS, DIRECT_DTYPES, PRECISIONS

Pair = int | Sequence[int]


def in_autocast(x: Any, *others: Any) -> list[Any]:
    """The tensors in autocast's dtype, where it is on and x is of a dtype that it casts."""
    tensors = [x, *others]
    if (
        not isinstance(x, torch.Tensor)
        or not torch.amp.is_autocast_available(x.device.type)  # not on the meta device
        or not torch.is_autocast_enabled(x.device.type)
    ):
        return tensors
    dtype = torch.get_autocast_dtype(x.device.type)
    return [
        t.to(dtype)
        if isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64
        else t
        for t in tensors
    ]


def as_pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    """(h, w), each at least so large."""
    both = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(both, tuple | list)
        or len(both) != 2
        or any(not isinstance(v, int) or v < least for v in both)
    ):
        raise ValueError(
            f"atrous_conv2d: {name} must be an int >= {least} or a pair (h, w) of them, got {value}"
        )
    return both[0], both[1]


def as_padding(value: Pair) -> tuple[int, ...]:
    """(h, w), or where opposite sides differ (top, bottom, left, right)."""
    if not isinstance(value, tuple | list) or len(value) != 4:
        return as_pair("padding", value, 0)
    top, left = as_pair("padding", value[::2], 0)
    bottom, right = as_pair("padding", value[1::2], 0)
    return (top, left) if (top, left) == (bottom, right) else (top, bottom, left, right)


def even_padding(
    x: torch.Tensor, weight: torch.Tensor, how: How, algorithm: str
) -> tuple[torch.Tensor, How, str]:
    """x with zeros of its own where the algorithm takes no (top, bottom, left, right)."""
    if (
        algorithm in ("auto", "direct")
        and is_depthwise(weight, how.groups)
        and x.dtype in DIRECT_DTYPES.get(x.device.type, ())
        and not torch.compiler.is_exporting()
    ):
        return x, how, "direct"
    top, bottom, left, right = how.padding
    return F.pad(x, (left, right, top, bottom)), how._replace(padding=(0, 0)), algorithm


def checked(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Pair,
    padding: Pair,
    rate: Pair,
    groups: int,
    precision: str,
    accuracy: str,
) -> How:
    """How the window moves, of arguments that fit each other."""
    how = How(
        as_pair("stride", stride, 1),
        as_padding(padding),
        as_pair("rate", rate, 1),
        groups,
        precision,
        accuracy == "fast",
    )
    op = "atrous_conv2d"
    check_map(x)
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"{op}: weight must be a tensor, got {type(weight).__name__}")
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"{op}: weight must have shape (K, C, R, S), got {tuple(weight.shape)}")
    filters, per_group = weight.shape[:2]
    check_groups(groups, x.shape[1], filters)
    if per_group * groups != x.shape[1]:
        raise ValueError(
            f"{op}: weight {tuple(weight.shape)} with groups={groups} needs x with "
            f"{per_group * groups} channels, got {tuple(x.shape)}"
        )
    if bias is not None and not isinstance(bias, torch.Tensor):
        raise TypeError(f"{op}: bias must be a tensor or None, got {type(bias).__name__}")
    if bias is not None and bias.shape != (filters,):
        raise ValueError(f"{op}: bias must have shape ({filters},), got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must have x's dtype {x.dtype}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{op}: {name} must be on x's device {x.device}, got {tensor.device}")
    checked_out_size(x, weight.shape[2:], *how[:3])
    return how


def check_map(x: Any) -> None:
    """Raise unless x is (N, C, H, W) floating point, with pixels."""
    op = "atrous_conv2d"
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{op}: x must be a tensor or a DLPack array, got {type(x).__name__}")
    if x.dim() != 4:
        raise ValueError(f"{op}: x must have shape (N, C, H, W), got {tuple(x.shape)}")
    if 0 in x.shape[2:]:
        raise ValueError(f"{op}: x must have pixels, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{op}: x must be floating point, got {x.dtype}")


def checked_out_size(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, ...],
    rate: tuple[int, int],
) -> tuple[int, int]:
    """(H', W'), of at least one pixel."""
    for axis, name in enumerate("HW"):
        reach = rate[axis] * (kernel_size[axis] - 1) + 1
        size = x.shape[2 + axis] + sum(sides(padding)[2 * axis : 2 * axis + 2])
        if size < reach:
            raise ValueError(
                f"atrous_conv2d: the filter spans {reach} pixels in {name} at rate {rate[axis]}, "
                f"the padded input only {size}"
            )
    return out_size(x.shape[2:], kernel_size, stride, padding, rate)


def check_groups(groups: int, channels: int, filters: int) -> None:
    """Raise unless they can be shared out."""
    if not isinstance(groups, int) or groups < 1 or channels % groups or filters % groups:
        raise ValueError(
            f"atrous_conv2d: groups must divide {channels} channels and {filters} filters, "
            f"got {groups}"
        )


def check_names(
    x: torch.Tensor,
    algorithm: str,
    accuracy: str,
    precision: str,
    activation: str | None = None,
    pre_activation: str | None = None,
) -> None:
    """Raise unless each is a name that there is, and they go together for x."""
    op = "atrous_conv2d"
    for name, value, allowed in (
        ("algorithm", algorithm, ("auto", *ALGORITHMS)),
        ("accuracy", accuracy, ACCURACIES),
        ("precision", precision, PRECISIONS),
        ("activation", activation, (None, "relu", "relu6")),
        ("pre_activation", pre_activation, (None, "relu")),
    ):
        if value not in allowed:
            raise ValueError(
                f"{op}: {name} must be one of {', '.join(map(str, allowed))}, got {value!r}"
            )
    device = x.device.type
    dtypes = DIRECT_DTYPES.get(device)
    if (
        algorithm in ("direct", "im2col", "winograd")
        and dtypes is not None
        and x.dtype not in dtypes
    ):
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(
            f"{op}: x must be {names} for algorithm {algorithm!r} on {device}, got {x.dtype}"
        )
    if precision == "fp32" or x.dtype != torch.float32 or algorithm in ("auto", "direct"):
        return
    if not (algorithm == "library" and precision == "tf32" and device == "cuda"):
        raise ValueError(
            f"{op}: precision {precision!r} needs algorithm 'auto' or 'direct', got {algorithm!r}"
        )
