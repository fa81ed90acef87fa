"""deeplab_repro.ops.channel_affine on the CPU: compiled where it is built, else the reference."""

import pytest
import torch

import deeplab_repro.native.backends as native
from deeplab_repro.ops import channel_affine, reference
from tests.ops.channel_affine_cases import SHAPES, assert_agrees, loops, make

OP = torch.ops.deeplab_repro.channel_affine
BACKWARD = torch.ops.deeplab_repro.channel_affine_backward

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def test_literal():
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], requires_grad=True)
    scale = torch.tensor([10.0, -1.0], requires_grad=True)
    shift = torch.tensor([0.5, 0.0], requires_grad=True)
    y = channel_affine(x, scale, shift)
    assert y.tolist() == [[[10.5, 20.5], [-3.0, -4.0]]]
    y.backward(torch.tensor([[[1.0, 2.0], [0.0, 3.0]]]))
    assert x.grad.tolist() == [[[10.0, 20.0], [0.0, -3.0]]]
    assert scale.grad.tolist() == [1 * 1 + 2 * 2, 0 * 3 + 3 * 4]
    assert shift.grad.tolist() == [1 + 2, 0 + 3]


def test_no_shift_is_zero_shift():
    x, scale, _, _ = make((2, 3, 4), torch.float32)
    assert channel_affine(x, scale).equal(channel_affine(x, scale, torch.zeros(3)))


@each_dtype
@each_shape
def test_agrees_with_loops(shape, dtype):
    x, scale, shift, grad_y = make(shape, dtype)
    got = OP(x, scale, shift), *BACKWARD(grad_y, x, scale, True, True, True)
    assert_agrees(got, loops(x, scale, shift, grad_y), dtype)


@each_dtype
@each_shape
def test_reference_agrees_with_loops(shape, dtype):
    x, scale, shift, grad_y = make(shape, dtype)
    got = (
        reference.channel_affine(x, scale, shift),
        *reference.channel_affine_backward(grad_y, x, scale, True, True, True),
    )
    assert_agrees(got, loops(x, scale, shift, grad_y), dtype)


def test_agrees_with_reference_and_its_autograd_on_a_real_size():
    x, scale, shift, grad_y = make((2, 64, 81, 81), torch.float32)
    results = []
    for op in (channel_affine, reference.channel_affine):
        leaves = [t.clone().requires_grad_() for t in (x, scale, shift)]
        y = op(*leaves)
        y.backward(grad_y)
        results.append([y.detach(), *(t.grad for t in leaves)])
    for ours, theirs in zip(*results, strict=True):
        rel = (ours - theirs).norm() / theirs.norm()
        assert rel < 1e-5


def test_strides_do_not_matter():
    x, scale, shift, grad_y = make((3, 4, 5, 7), torch.float64)
    expected = loops(x, scale, shift, grad_y)
    strided = [t.contiguous(memory_format=torch.channels_last) for t in (x, grad_y)]
    strided += [torch.stack([t, t], 1)[:, 0] for t in (scale, shift)]
    assert not any(t.is_contiguous() for t in strided)
    x, grad_y, scale, shift = strided
    got = OP(x, scale, shift), *BACKWARD(grad_y, x, scale, True, True, True)
    assert_agrees(got, expected, torch.float64)
    leaf = x.clone().requires_grad_()
    channel_affine(leaf, scale).sum().backward()  # sum's gradient is one expanded number
    torch.testing.assert_close(leaf.grad[0, :, 0, 0], scale)


# Around the rows that a thread sums at once, 512.
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 64, 16, 32), (2, 21, 19, 27), (0, 3, 4, 5)])
@pytest.mark.parametrize("how", [OP, reference.channel_affine])
def test_channels_last_maps_stay_so(shape, how):
    tensors = make(shape, torch.float32)
    expected = OP(*tensors[:3]), *BACKWARD(tensors[3], *tensors[:2], True, True, True)
    x, scale, shift, grad_y = tensors
    last = {"memory_format": torch.channels_last}
    x, grad_y = x.contiguous(**last), grad_y.contiguous(**last)
    backward = BACKWARD if how is OP else reference.channel_affine_backward
    got = how(x, scale, shift), *backward(grad_y, x, scale, True, True, True)
    assert all(t.is_contiguous(**last) for t in got[:2])
    assert_agrees(got, [t.double() for t in expected], torch.float32)
    mixed = backward(grad_y, x.contiguous(), scale, True, True, True)
    for ours, other in zip(mixed, got[1:], strict=True):
        torch.testing.assert_close(ours, other)


def test_unneeded_gradients_are_not_computed():
    x, scale, _, grad_y = make((2, 3, 4), torch.float32)
    for needs in [(True, False, False), (False, True, False), (False, False, True)]:
        grads = BACKWARD(grad_y, x, scale, *needs)
        full = BACKWARD(grad_y, x, scale, True, True, True)
        for grad, expected, need in zip(grads, full, needs, strict=True):
            assert grad.equal(expected) if need else grad.shape == (0,)


def test_frozen_scale_keeps_no_input_alive():
    x, scale, shift, _ = make((2, 3, 4), torch.float32)
    x.requires_grad_()
    y = channel_affine(x, scale, shift)
    assert all(saved is not x for saved in y.grad_fn.saved_tensors if saved is not None)
    y.sum().backward()
    torch.testing.assert_close(x.grad[0, :, 0], scale)


@pytest.mark.parametrize("with_shift", [True, False])
def test_gradcheck(with_shift):
    x, scale, shift, _ = (t.requires_grad_() for t in make((2, 3, 2, 2), torch.float64))
    inputs = (x, scale, shift) if with_shift else (x, scale)
    assert torch.autograd.gradcheck(channel_affine, inputs)
    assert torch.autograd.gradgradcheck(channel_affine, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3, 4), (2, 3), (2, 3, 4, 5)])
def test_opcheck(shape):
    x, scale, shift, grad_y = make(shape, torch.float32)
    if len(shape) == 4:
        x, grad_y = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad_y))
    leaves = [t.requires_grad_() for t in (x, scale, shift)]
    torch.library.opcheck(OP.default, tuple(leaves))
    torch.library.opcheck(OP.default, (leaves[0], leaves[1], None))
    torch.library.opcheck(BACKWARD.default, (grad_y, x.detach(), scale.detach(), True, False, True))


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    x, scale, shift, _ = make((2, 3, 4), torch.float32)
    compiled = torch.compile(channel_affine, backend="aot_eager", fullgraph=True)
    assert compiled(x, scale, shift).equal(channel_affine(x, scale, shift))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_same_bits_for_every_thread_count(order):
    x, scale, shift, grad_y = make((3, 21, 97, 61), torch.float32)
    x, grad_y = x.contiguous(memory_format=order), grad_y.contiguous(memory_format=order)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            y = OP(x, scale, shift)
            results.append([y, *BACKWARD(grad_y, x, scale, True, True, True)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(a.equal(b) for a, b in zip(result, results[0], strict=True))


V = torch.ones(3)


@pytest.mark.parametrize(
    ("error", "message", "args"),
    [
        (TypeError, "x must be float32 or float64, got torch.float16", (V.half(), V)),
        (ValueError, r"x must have shape \(N, C, ...\), got \(3,\)", (V, V)),
        (ValueError, r"scale must have shape \(2,\).*got \(3,\)", (torch.ones(1, 2), V)),
        (ValueError, r"shift must have shape \(3,\).*got \(1, 3\)", (V[None], V, V[None])),
        (TypeError, "scale must have x's dtype torch.float32", (V[None], V.double())),
        (ValueError, "scale must be on x's device cpu, got meta", (V[None], V.to("meta"))),
    ],
)
def test_error_names_the_argument(error, message, args):
    with pytest.raises(error, match=message):
        channel_affine(*args)


@pytest.mark.skipif(not native.has_cpu(), reason="the checks of the compiled entry")
@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("channel_affine: x must be float32 or float64, got Int", (V[None].int(), V)),
        (r"channel_affine: x must have shape \(N, C, ...\), got \(3\)", (V, V)),
        (r"channel_affine: scale must have shape \(2\), got \(3\)", (torch.ones(1, 2), V)),
        ("channel_affine: shift must have the dtype of x", (V[None], V, V.double())),
    ],
)
def test_compiled_entry_checks_for_itself(message, args):
    with pytest.raises(RuntimeError, match=message):
        OP(args[0], args[1], args[2] if len(args) > 2 else None)


@pytest.mark.skipif(not native.has_cpu(), reason="the checks of the compiled entry")
def test_compiled_backward_checks_shapes():
    x, scale, _, grad_y = make((2, 3, 4), torch.float32)
    with pytest.raises(RuntimeError, match=r"grad_y must have the shape of x \(2, 3, 4\)"):
        BACKWARD(grad_y[:, :, :3], x, scale, True, True, True)
