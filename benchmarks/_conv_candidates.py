"""Ways of computing an atrous convolution that `atrous_vs_cudnn.py` holds against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from _convolutions import Shape

from deeplab_repro.ops import AtrousConv2d, atrous_conv2d

#: The peer: cuDNN, or on the CPU oneDNN, in full float32.
LIBRARY = "library fp32"
CHANNELS_LAST = " channels-last"

Convolve = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Run = Callable[[], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Candidate:
    """One way of computing.

    Attributes:
        name: in tables and results.
        call: x, weight -> y.
        layer: what the forward pass of a network calls in its place: weight -> (x -> y).
        limit: key of `_convolutions.LIMITS`.
        channels_last: the memory format of its operands.
        tf32: torch's own setting.
    """

    name: str
    call: Convolve
    layer: Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]] | None = None
    limit: str = "fp32"
    channels_last: bool = False
    tf32: bool = False

    @property
    def key(self) -> str:
        """Its name with its memory format."""
        return self.name + CHANNELS_LAST * self.channels_last


def candidates(shape: Shape, device: str, direction: str, full: bool) -> Iterator[Candidate]:
    """What is compared: few of them on the CPU, all on a GPU or where it is to be full."""
    if device == "cuda":
        yield from _on_gpu(shape)
        return
    ours: dict[str, dict[str, Any]] = {
        "auto": {},
        "auto fast": {"accuracy": "fast"},
        "direct fp32": {"algorithm": "direct"},
        "winograd": {"algorithm": "winograd"},
    }
    if full:
        ours["winograd fast"] = {"algorithm": "winograd", "accuracy": "fast"}
    for last in (False, True):
        for name, options in ours.items():
            candidate = _ours(name, shape, last, options)
            yield candidate
            if full and direction == "forward" and name.startswith("winograd"):
                # Without a layer that keeps its filters.
                yield replace(candidate, name=f"{name} anew", layer=None)
        yield Candidate(LIBRARY, _library(shape), channels_last=last)
    if full:
        yield from _column_buffers(shape)
        if direction == "forward":
            yield Candidate("library packed", _library(shape), _packed(shape), channels_last=True)


def _on_gpu(shape: Shape) -> Iterator[Candidate]:
    yield _ours("auto", shape, False, {})
    yield from _column_buffers(shape)
    for last in (False, True):
        for precision in ("fp32", "tf32", "bf16", "fp16"):
            options = {"algorithm": "direct", "precision": precision}
            yield _ours(f"direct {precision}", shape, last, options)
        yield Candidate(LIBRARY, _library(shape), channels_last=last)
        yield Candidate("library tf32", _library(shape), None, "tf32", last, tf32=True)


def _column_buffers(shape: Shape) -> Iterator[Candidate]:
    for name in ("im2col", "interlace"):
        yield _ours(name, shape, False, {"algorithm": name})

    def unfolded(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        columns = F.unfold(x, 3, shape.rate, shape.rate)
        y = torch.matmul(weight.flatten(1), columns)
        return y.view(x.shape[0], -1, *x.shape[2:])

    yield Candidate("unfold", unfolded)


def _ours(name: str, shape: Shape, channels_last: bool, options: dict[str, Any]) -> Candidate:
    how = {"padding": shape.rate, "rate": shape.rate, **options}

    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return atrous_conv2d(x, weight, **how)

    def layer(weight: torch.Tensor) -> AtrousConv2d:
        """In evaluation mode, so that it keeps what it has made of its filters."""
        sizes = shape.channels, shape.filters, 3
        module = AtrousConv2d(*sizes, bias=False, device=weight.device, **how)
        module.weight = torch.nn.Parameter(weight)
        return module.eval()

    limit = "fast" if options.get("accuracy") == "fast" else options.get("precision", "fp32")
    return Candidate(name, call, layer, limit, channels_last)


def _library(shape: Shape) -> Convolve:
    return lambda x, weight: F.conv2d(x, weight, padding=shape.rate, dilation=shape.rate)


def _packed(shape: Shape) -> Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """oneDNN with its filters reordered once, as torch.compile has it in a frozen network."""
    ops, pad = torch.ops.mkldnn, [shape.rate, shape.rate]
    size = [1, shape.channels, shape.size, shape.size]

    def layer(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        packed = ops._reorder_convolution_weight(weight, pad, [1, 1], pad, 1, size)
        how = (pad, [1, 1], pad, 1, "none", [], "")
        return lambda x: ops._convolution_pointwise(x, packed, None, *how)

    return layer


def passes(candidate: Candidate, tensors: list[torch.Tensor], direction: str) -> Run:
    """One run of the candidate: (y,) or (grad_x, grad_weight)."""
    format = torch.channels_last if candidate.channels_last else torch.contiguous_format
    x, weight, grad_y = (t.contiguous(memory_format=format) for t in tensors)

    def with_setting(run: Run) -> tuple[torch.Tensor, ...]:
        torch.backends.cudnn.allow_tf32 = candidate.tf32
        return run()

    if direction == "forward":
        layer = candidate.layer(weight) if candidate.layer else None

        def forward() -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                return (layer(x) if layer else candidate.call(x, weight),)

        return lambda: with_setting(forward)
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    y = with_setting(lambda: (candidate.call(*leaves),))[0]
    return lambda: with_setting(lambda: torch.autograd.grad(y, leaves, grad_y, retain_graph=True))


def best(seconds: dict[str, float]) -> dict[str, float]:
    """Of each candidate the faster memory format."""
    found: dict[str, float] = {}
    for name, value in seconds.items():
        plain = name.removesuffix(CHANNELS_LAST)
        found[plain] = min(value, found.get(plain, value))
    return found
