"""Is channel_affine, forward and backward, limited by memory? Against torch's own operations.

python benchmarks/channel_affine.py [--device cpu|cuda] [--threads N] [--runs N] [--json FILE]
"""

from __future__ import annotations

import sys

import torch
from _timing import arguments, check_agreement, compare, parse, show, write_json

from deeplab_repro.native import backends
from deeplab_repro.ops import reference

# Where ResNet-101 at 321 has its BatchNorm and Scale layers.
SHAPES = {"conv1": (1, 64, 161, 161), "res3": (1, 512, 41, 41), "res5": (1, 2048, 41, 41)}
# Bytes moved at the least, in tensors of x's size: read x, write y; read grad_y and x for the sums,
# read grad_y and write grad_x.
FORWARD_TENSORS, BACKWARD_TENSORS = 2, 4
LIMIT = 1e-5  # relative, what all agreement with Caffe is held to


def implementations(device: str) -> dict:
    """(forward, backward) by name: the library that the dispatcher takes, CuPy, the reference."""
    found = {"torch": (reference.channel_affine, reference.channel_affine_backward)}
    if backends.backends()[device].available:
        op = torch.ops.deeplab_repro
        found = {"compiled": (op.channel_affine, op.channel_affine_backward), **found}
    if device == "cuda" and backends.backends()["cupy"].available:
        from deeplab_repro.native import cupy_backend

        found["cupy"] = (
            cupy_backend.KERNELS["channel_affine"],
            cupy_backend.KERNELS["channel_affine_backward"],
        )
    return found


def main() -> None:
    options = parse(arguments(__doc__))
    candidates = implementations(options.device)
    if "compiled" not in candidates:
        print(f"compiled kernels: {backends.backends()[options.device].reason}", file=sys.stderr)
    results = []
    for layer, shape in SHAPES.items():
        generator = torch.Generator().manual_seed(0)
        sizes = (shape, shape[1:2], shape[1:2], shape)
        x, scale, shift, grad_y = (
            torch.randn(s, generator=generator).to(options.device) for s in sizes
        )
        calls = {
            "forward": lambda f, b, x=x, a=scale, t=shift: (f(x, a, t),),
            "backward": lambda f, b, x=x, a=scale, g=grad_y: b(g, x, a, True, True, True),
        }
        for direction, call in calls.items():
            expected = call(*candidates["torch"])
            differences = {
                name: max(
                    check_agreement(f"{layer} {direction} {name}", ours, theirs, LIMIT)
                    for ours, theirs in zip(call(*functions), expected, strict=True)
                )
                for name, functions in candidates.items()
            }
            timings = compare(
                {
                    name: (lambda functions=functions, call=call: call(*functions))
                    for name, functions in candidates.items()
                },
                options.device,
                options.runs,
            )
            tensors = FORWARD_TENSORS if direction == "forward" else BACKWARD_TENSORS
            moved = tensors * x.numel() * x.element_size()
            show(
                f"{layer} {direction}",
                timings,
                lambda t, moved=moved: f"{moved / t.median / 1e9:.1f} GB/s",
            )
            results.append(
                {
                    "layer": layer,
                    "shape": shape,
                    "direction": direction,
                    "device": options.device,
                    "bytes": moved,
                    "relative_difference": differences,
                    "seconds": timings,
                    "gb_per_s": {k: moved / t.median / 1e9 for k, t in timings.items()},
                }
            )
    print(write_json(options.json, "channel_affine", results))


if __name__ == "__main__":
    main()
