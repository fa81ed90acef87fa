"""The host's conversions of 16-bit floats, which stand in for the GPU's, against torch's."""

import numpy as np
import torch


def test_every_value_widens(on_host):
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = np.zeros((2, bits.size), np.float32)
    on_host("atrous_conv2d").call("widen", bits, bits, bits.size, wide)
    narrow = torch.from_numpy(bits.view(np.int16))
    for got, dtype in zip(wide, (torch.float16, torch.bfloat16), strict=True):
        np.testing.assert_array_equal(got, narrow.view(dtype).float().numpy())


def test_rounding_is_to_nearest_even(on_host):
    # All exponents, with low bits that are below, at and above a half of either type's last bit.
    exponents = np.arange(512, dtype=np.uint32) << 23
    fractions = np.array([b + d for b in range(0, 1 << 23, 1 << 12) for d in (0, 1, 0xFFF)])
    bits = (exponents[:, None] | fractions.astype(np.uint32)).ravel()
    wide = bits.view(np.float32)
    half, bfloat = np.zeros((2, wide.size), np.int16)
    on_host("atrous_conv2d").call("narrow", wide, wide.size, half, bfloat)
    for got, dtype in ((half, torch.float16), (bfloat, torch.bfloat16)):
        got = torch.from_numpy(got).view(dtype).float().numpy()
        np.testing.assert_array_equal(got, torch.from_numpy(wide).to(dtype).float().numpy())
