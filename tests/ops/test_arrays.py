"""Ops on arrays of other libraries."""

import numpy as np
import pytest
import torch

from deeplab_repro.ops import atrous_conv2d, channel_affine
from deeplab_repro.ops._arrays import as_tensor

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")


class Foreign:
    """An array of a library that nobody knows, but for DLPack."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


X, WEIGHT, BIAS = torch.randn(1, 2, 5, 6), torch.randn(3, 2, 3, 3), torch.randn(3)
Y = atrous_conv2d(X, WEIGHT, BIAS, rate=2, padding=2, activation="relu")


def test_numpy_in_numpy_out():
    y = atrous_conv2d(
        X.numpy(), WEIGHT.numpy(), bias=BIAS.numpy(), rate=2, padding=2, activation="relu"
    )
    assert isinstance(y, np.ndarray)
    assert np.array_equal(y, Y.numpy())
    scaled = channel_affine(X.numpy(), np.ones(2, np.float32), np.zeros(2, np.float32))
    assert np.array_equal(scaled, X.numpy())


def test_the_first_argument_decides():
    y = atrous_conv2d(
        X.numpy(), WEIGHT.clone().requires_grad_(), BIAS, rate=2, padding=2, activation="relu"
    )
    assert isinstance(y, np.ndarray)
    y = atrous_conv2d(x=X.numpy(), weight=WEIGHT, rate=2)
    assert isinstance(y, np.ndarray)


def test_any_dlpack_array_gives_a_tensor():
    arrays = (Foreign(t.detach()) for t in (X, WEIGHT, BIAS))
    y = atrous_conv2d(*arrays, rate=2, padding=2, activation="relu")
    assert isinstance(y, torch.Tensor)
    assert y.equal(Y)
    assert channel_affine(Foreign(X), Foreign(torch.ones(2))).equal(X)


def test_memory_is_shared_and_read_only_arrays_are_copied():
    array = np.zeros(3, np.float32)
    tensor = as_tensor(array)
    array[0] = 1
    assert tensor[0] == 1
    array.flags.writeable = False
    assert as_tensor(array).tolist() == [1, 0, 0]
    assert as_tensor(tensor) is tensor
    assert as_tensor((1, 2)) == (1, 2)


def test_arrays_are_checked_as_tensors_are():
    with pytest.raises(ValueError, match=r"x must have shape \(N, C, H, W\), got \(2, 5, 6\)"):
        atrous_conv2d(X[0].numpy(), WEIGHT.numpy())
    with pytest.raises(TypeError, match="weight must be a tensor, got ndarray"):
        atrous_conv2d(X, WEIGHT.numpy())
    with pytest.raises(TypeError, match="x must be a tensor or a DLPack array, got list"):
        atrous_conv2d([[1.0]], WEIGHT)


@pytest.mark.cuda
def test_cupy_in_cupy_out():
    cupy = pytest.importorskip("cupy")
    y = atrous_conv2d(*map(cupy.asarray, (X.numpy(), WEIGHT.numpy())), rate=2)
    assert isinstance(y, cupy.ndarray)
    expected = atrous_conv2d(X, WEIGHT, rate=2)
    np.testing.assert_allclose(cupy.asnumpy(y), expected.numpy(), rtol=1e-4, atol=1e-5)
