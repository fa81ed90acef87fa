"""The CUDA kernels of channel_affine: on the host harness everywhere, on a GPU with -m cuda."""

import numpy as np
import pytest
import torch

from deeplab_repro.ops import channel_affine
from tests.native.conftest import ORDERS
from tests.ops.channel_affine_cases import SHAPES, assert_agrees, loops, make

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
# One block and two blocks make the grid-stride loops loop; 0 is the real grid.
each_grid = pytest.mark.parametrize("max_blocks", [1, 2, 0])


def run_on_host(library, tensors, max_blocks, order):
    """(y, grad_x, grad_scale, grad_shift) by the kernels that a GPU would run."""
    x, scale, shift, grad_y = (t.numpy() for t in tensors)
    kind = {"float32": "float", "float64": "double"}[str(x.dtype)]
    sizes = np.array([x.shape[0], x.shape[1], int(np.prod(x.shape[2:]))], np.int64)
    y, grad_x = np.full_like(x, np.nan), np.full_like(x, np.nan)
    grad_scale, grad_shift = np.full_like(scale, np.nan), np.full_like(scale, np.nan)
    forward, reduce = f"channel_affine_{kind}", f"channel_affine_reduce_{kind}"
    if x.size:  # the entries return early, an empty grid cannot be launched
        library.call(forward, sizes, x, scale, shift, y, max_blocks, order)
        library.call(forward, sizes, grad_y, scale, None, grad_x, max_blocks, order)
    if scale.size:
        library.call(reduce, sizes, grad_y, x, grad_scale, grad_shift, max_blocks, order)
    return tuple(map(torch.from_numpy, (y, grad_x, grad_scale, grad_shift)))


@each_order
@each_grid
@each_dtype
@each_shape
@pytest.mark.sampled(12)
def test_agrees_with_loops_on_host(on_host, shape, dtype, max_blocks, order):
    tensors = make(shape, dtype)
    got = run_on_host(on_host("channel_affine"), tensors, max_blocks, order)
    assert_agrees(got, loops(*tensors), dtype)


def test_sums_do_not_depend_on_grid_or_order(on_host):
    tensors = make((2, 5, 700), torch.float32)
    results = [
        run_on_host(on_host("channel_affine"), tensors, max_blocks, order)
        for max_blocks in (0, 1, 3)
        for order in ORDERS.values()
    ]
    for result in results[1:]:
        assert all(a.equal(b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("wanted", ["scale", "shift"])
def test_either_sum_alone_on_host(on_host, wanted):
    x, scale, shift, grad_y = make((2, 3, 300), torch.float64)
    sizes, out = np.array([2, 3, 300], np.int64), np.zeros(3)
    outputs = (out, None) if wanted == "scale" else (None, out)
    library = on_host("channel_affine")
    library.call("channel_affine_reduce_double", sizes, grad_y.numpy(), x.numpy(), *outputs, 0, 0)
    expected = loops(x, scale, shift, grad_y)[2 if wanted == "scale" else 3]
    torch.testing.assert_close(torch.from_numpy(out), expected)


# On a GPU: the compiled library and CuPy, the same cases.


@pytest.mark.cuda
@each_grid
@each_dtype
@each_shape
def test_agrees_with_loops_on_gpu(on_gpu, shape, dtype, max_blocks):
    forward, backward = on_gpu("channel_affine"), on_gpu("channel_affine_backward")
    x, scale, shift, grad_y = make(shape, dtype, "cuda")
    y = forward(x, scale, shift, max_blocks)
    grads = backward(grad_y, x, scale, True, True, True, max_blocks)
    assert all(t.is_cuda for t in (y, *grads))
    assert_agrees((y, *grads), loops(x, scale, shift, grad_y), dtype)


@pytest.mark.cuda
def test_same_bits_in_every_run_on_gpu(on_gpu):
    forward, backward = on_gpu("channel_affine"), on_gpu("channel_affine_backward")
    x, scale, shift, grad_y = make((4, 64, 81, 81), torch.float32, "cuda")

    def run():
        return forward(x, scale, shift), *backward(grad_y, x, scale, True, True, True)

    first = run()
    for _ in range(5):
        assert all(a.equal(b) for a, b in zip(run(), first, strict=True))


@pytest.mark.cuda
def test_autograd_on_gpu():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    leaves = [t.requires_grad_() for t in make((2, 3, 4, 5), torch.float64, "cuda")[:3]]
    assert torch.autograd.gradcheck(channel_affine, leaves)
    torch.library.opcheck(torch.ops.deeplab_repro.channel_affine.default, tuple(leaves))
