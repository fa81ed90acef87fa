"""The torch twin of every op: same arguments, plain torch, differentiable.

Documentation, oracle of the tests, rival of the benchmarks, and what runs where nothing could be
compiled. Imports torch alone.
"""

from deeplab_repro.ops.reference.channel_affine import channel_affine, channel_affine_backward

__all__ = ["channel_affine", "channel_affine_backward"]
