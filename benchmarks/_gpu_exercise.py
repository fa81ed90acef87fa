"""Runs every kernel of the compiled library once, on little: what compute-sanitizer looks at.

python benchmarks/_gpu_exercise.py [cpu]
"""

from __future__ import annotations

import sys

import torch

from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.ops import atrous_conv2d, channel_affine

#: (channels, filters, size, rate, groups): whole and ragged tiles, the wide and the narrow one,
#: work cut into pieces.
CONVOLUTIONS = ((40, 140, 13, 4, 1), (520, 21, 12, 6, 1), (12, 6, 9, 2, 2))


def convolutions(device: str) -> None:
    """Forward and both gradients, in every type and precision."""
    single = [(torch.float32, p) for p in ("fp32", "tf32", "bf16", "fp16")]
    others = [(torch.bfloat16, "fp32"), (torch.float16, "fp32"), (torch.float64, "fp32")]
    for channels, filters, size, rate, groups in CONVOLUTIONS:
        for dtype, precision in [*single, *others] if device == "cuda" else single[:1]:
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(2, channels, size, size, dtype=dtype, device=device)
                x = x.contiguous(memory_format=memory_format).requires_grad_()
                weight = torch.randn(filters, channels // groups, 3, 3, dtype=dtype, device=device)
                bias = torch.randn(filters, dtype=dtype, device=device)
                how = {"padding": rate, "rate": rate, "groups": groups, "precision": precision}
                for algorithm in ("direct", "im2col") if precision == "fp32" else ("direct",):
                    leaves = [x, weight.requires_grad_(), bias]
                    y = atrous_conv2d(*leaves, **how, algorithm=algorithm, activation="relu")
                    y.sum().backward()


def single_channels(device: str) -> None:
    """Filters of single channels, forward and back, in every type; a stride leaves parts."""
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    for dtype in dtypes if device == "cuda" else dtypes[:2]:
        for kernel, stride, rate in ((3, 1, 4), (3, 2, 1), (5, 1, 2), (2, 3, 1)):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(2, 40, 21, 23, dtype=dtype, device=device)
                x = x.contiguous(memory_format=memory_format).requires_grad_()
                weight = torch.randn(40, 1, kernel, kernel, dtype=dtype, device=device)
                y = atrous_conv2d(
                    x, weight.requires_grad_(), None, stride, (1, 2, 8, 8), rate, 40,
                    algorithm="direct", activation="relu6", pre_activation="relu",
                )  # fmt: skip
                y.sum().backward()


def crfs(device: str) -> None:
    """All compatibilities and normalizations, with padding points, and the gradient's way."""
    unary = torch.randn(2, 21, 17, 23, device=device)
    image = torch.randint(0, 256, (2, 3, 17, 23), dtype=torch.uint8, device=device)
    params = CRFParams(2, 3, 3, 4, 20, 10)
    for mu in (None, torch.ones(21, device=device), torch.eye(21, device=device)):
        for normalization in ("after", "symmetric"):
            dense_crf(unary, image, params, mu, normalization, 0.5, padding_points=True)
    leaf = unary.clone().requires_grad_()
    dense_crf(leaf, image, params).square().sum().backward()
    dense_crf(unary.double(), image, params)


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    torch.manual_seed(0)
    convolutions(device)
    single_channels(device)
    crfs(device)
    leaves = [torch.randn(s, device=device).requires_grad_() for s in ((2, 70, 9, 9), (70,), (70,))]
    channel_affine(*leaves).sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    print("every kernel has run")


if __name__ == "__main__":
    main()
