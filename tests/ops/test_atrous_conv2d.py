"""deeplab_repro.ops.atrous_conv2d: every algorithm against loops, each other and torch."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplab_repro.ops import ALGORITHMS, atrous_conv2d, im2col
from deeplab_repro.parity.tolerances import CLOSE
from tests.ops.atrous_conv2d_cases import (
    CASES,
    Case,
    assert_close,
    columns_of,
    loops,
    make,
    random_case,
)

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

each_algorithm = pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
COMPILED = torch._C._dispatch_has_kernel_for_dispatch_key(
    "deeplab_repro::atrous_conv2d_direct", "CPU"
)


def run(case, tensors, algorithm, activation=None):
    """y and the gradients of x, weight and bias."""
    *leaves, grad_y = (t.detach() for t in tensors)
    leaves = [t.requires_grad_() for t in leaves]
    y = atrous_conv2d(*leaves, *case.how, algorithm=algorithm, activation=activation)
    return y, *torch.autograd.grad(y, leaves, grad_y)


# -------------------------------------------------------------------- values


@each_algorithm
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.sampled(60)
def test_agrees_with_loops(case, algorithm, device):
    tensors = make(case, device=device)
    expected = loops(case, *tensors)
    for ours, theirs in zip(run(case, tensors, algorithm), expected, strict=True):
        assert_close(ours, theirs)
    with torch.no_grad():
        y = atrous_conv2d(*tensors[:3], *case.how, algorithm=algorithm, activation="relu")
    assert_close(y, expected[0].relu())


@pytest.mark.parametrize("seed", range(40))
def test_algorithms_agree_on_any_geometry(seed, device):
    case = random_case(seed)
    tensors = make(case, device=device)
    leaves = [t.clone().requires_grad_() for t in tensors[:3]]
    y = F.conv2d(*leaves, *case.how).relu()
    expected = y, *torch.autograd.grad(y, leaves, tensors[3])
    for algorithm in ALGORITHMS:
        for ours, theirs in zip(run(case, tensors, algorithm, "relu"), expected, strict=True):
            assert_close(ours, theirs.detach().cpu())


@each_algorithm
@pytest.mark.parametrize("rate", [2, 6, 12])
@pytest.mark.sampled(4)
def test_float32_at_a_real_size(rate, algorithm, device):
    case = Case((2, 64, 41, 41), (21, 64, 3, 3), (1, 1), (rate, rate), (rate, rate))
    tensors = make(case, torch.float32, device)
    exact = run(case, [t.double() for t in tensors], "library")
    for ours, theirs in zip(run(case, tensors, algorithm), exact, strict=True):
        assert ours.dtype == torch.float32
        # The library's gradient of the weight, a sum of 3,362 products in one order, is 1.1e-6 off.
        assert (ours.double() - theirs).norm() < 2e-6 * theirs.norm()


def test_int_means_both_axes():
    x, weight = torch.randn(1, 1, 9, 9), torch.randn(1, 1, 3, 3)
    assert atrous_conv2d(x, weight, None, 2, 1, 2).equal(
        atrous_conv2d(x, weight, None, (2, 2), [1, 1], (2, 2))
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="half precision is the GPU's")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_algorithm
def test_half_precision(algorithm, dtype):
    case = Case((1, 16, 20, 20), (24, 16, 3, 3), (1, 1), (6, 6), (6, 6))
    tensors = [t.to("cuda", dtype) for t in make(case)]
    exact = run(case, [t.double() for t in tensors], "library")
    for ours, theirs in zip(run(case, tensors, algorithm), exact, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() < 2 ** (-7 if dtype == torch.bfloat16 else -10) * (
            theirs.norm()
        )


# `direct` copies planar maps, and `im2col` those with their channels last: all of the zeros.
@pytest.mark.parametrize(
    ("algorithm", "channels"),
    [("auto", 1), ("im2col", 1), ("library", 1), ("auto", 2), ("direct", 2), ("library", 2)],
)
def test_more_values_than_32_bits_can_count(algorithm, channels):
    """A row of over 2**31 values, nearly all of it zeros that no memory was taken for."""
    size, stride = 2**31 // channels + 7, 2**24 // channels
    x = torch.from_numpy(np.zeros((1, 1, size, channels), np.float32)).permute(0, 3, 1, 2)
    x[..., -3:] = torch.tensor([1.0, 2, 3])
    weight = torch.tensor([1.0, 10]).expand(1, channels, 1, 2) / channels
    x = x[..., (size - 3) % stride :]  # so that the last window is the last three pixels
    y = atrous_conv2d(x, weight, None, (1, stride), 0, (1, 2), algorithm=algorithm)
    assert y.shape == (1, 1, 1, 129)
    assert y[0, 0, 0, -2:].tolist() == [0, 31]


# -------------------------------------------------------------------- memory


VIEWS = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "every other": lambda t: torch.stack([t, -t], 4)[..., 0],
    "with an offset": lambda t: F.pad(t, (3, 1, 2, 1))[..., 2:-1, 3:-1],
    "channels last with an offset": lambda t: F.pad(t, (3, 1, 2, 1)).contiguous(
        memory_format=torch.channels_last
    )[..., 2:-1, 3:-1],
    "some channels of channels last": lambda t: torch.cat([t, t], 1).contiguous(
        memory_format=torch.channels_last
    )[:, : t.shape[1]],
}


@each_algorithm
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_strides_do_not_matter(view, algorithm, device):
    case = Case((2, 4, 7, 6), (6, 2, 3, 3), (1, 1), (2, 2), (2, 2), 2)
    tensors = make(case, device=device)
    strided = [view(tensors[0]), view(tensors[1]), tensors[2], view(tensors[3])]
    assert strided[0].equal(tensors[0])
    assert not strided[0].is_contiguous()
    expected = run(case, tensors, "library")
    for ours, theirs in zip(run(case, strided, algorithm), expected, strict=True):
        assert_close(ours, theirs.detach().cpu())


@each_algorithm
def test_expanded_views(algorithm, device):
    case = Case((3, 4, 5, 5), (2, 4, 3, 3), (1, 1), (1, 1))
    tensors = make(case, device=device)
    for x in (tensors[0][:1], tensors[0][:, :1], tensors[0][..., :1]):
        x = x.expand(case.x)
        grad_y = tensors[3][:1, :1, :1, :1].expand(case.y)  # as of y.sum()
        expected = run(case, [x.contiguous(), *tensors[1:3], grad_y.contiguous()], "library")
        for ours, theirs in zip(
            run(case, [x, *tensors[1:3], grad_y], algorithm), expected, strict=True
        ):
            assert_close(ours, theirs.detach().cpu())


@each_algorithm
@pytest.mark.parametrize(
    "name", ["channels last", "channels last with an offset", "with an offset"]
)
def test_the_result_has_the_memory_format_that_torch_gives(name, algorithm, device):
    case = CASES["same size at rate 2"]
    x, weight, bias, _ = make(case, device=device)
    y = atrous_conv2d(VIEWS[name](x), weight, bias, *case.how, algorithm=algorithm)
    assert y.stride() == F.conv2d(VIEWS[name](x), weight, bias, *case.how).stride()


@each_algorithm
def test_nothing_is_kept_that_the_backward_pass_does_not_read(algorithm):
    case = CASES["same size at rate 2"]
    for needs in itertools.product([False, True], repeat=3):
        if not any(needs):
            continue
        for activation in (None, "relu"):
            leaves = [t.requires_grad_(need) for t, need in zip(make(case)[:3], needs, strict=True)]
            kept: list[torch.Tensor] = []

            def keep(tensor, kept=kept):
                kept.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                y = atrous_conv2d(*leaves, *case.how, algorithm=algorithm, activation=activation)
            pointers = {t.data_ptr() for t in kept}
            need_x, need_weight, _ = needs
            expected = {leaves[0].data_ptr()} if need_weight else set()
            expected |= {leaves[1].data_ptr()} if need_x else set()
            expected |= {y.data_ptr()} if activation else set()
            assert pointers == expected
            y.sum().backward()
            assert [t.grad is not None for t in leaves] == list(needs)


# -------------------------------------------------------------------- gradients and repeatability


@pytest.mark.slow
@each_algorithm
@pytest.mark.parametrize("name", ["unequal pairs", "groups", "stride 2 at rate 3", "one row"])
def test_gradcheck(name, algorithm):
    case = CASES[name]
    leaves = [t.requires_grad_() for t in make(case)[:3]]
    for activation in (None, "relu"):

        def op(*tensors, activation=activation):
            return atrous_conv2d(*tensors, *case.how, algorithm=algorithm, activation=activation)

        # Each value of the first gradient is compared with loops, above.
        assert torch.autograd.gradcheck(op, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(op, leaves, fast_mode=True)


@each_algorithm
def test_a_result_may_be_used_twice(algorithm):
    case = CASES["same size at rate 2"]
    x, weight, bias, grad_y = make(case)
    x.requires_grad_()
    y = atrous_conv2d(x, weight, bias, *case.how, algorithm=algorithm, activation="relu")
    once, *_ = torch.autograd.grad(y, x, grad_y, retain_graph=True)
    (twice,) = torch.autograd.grad((y * grad_y).sum() + (2 * y * grad_y).sum(), x)
    torch.testing.assert_close(twice, 3 * once)


@each_algorithm
def test_same_bits_in_every_run(algorithm, device):
    case = Case((2, 16, 23, 19), (24, 16, 3, 3), (1, 1), (4, 4), (4, 4))
    tensors = make(case, torch.float32, device)
    first = run(case, tensors, algorithm)
    for _ in range(3):
        assert all(a.equal(b) for a, b in zip(run(case, tensors, algorithm), first, strict=True))


def of_each_thread_count(algorithm, filters=21):
    case = Case((3, 32, 141, 137), (filters, 32, 3, 3), (1, 1), (6, 6), (6, 6))
    tensors = make(case, torch.float32)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            yield run(case, tensors, algorithm)
    finally:
        torch.set_num_threads(threads)


@each_algorithm
@pytest.mark.sampled(2)
def test_same_bias_gradient_for_every_thread_count(algorithm):
    # One channel: the sum that torch would divide among the threads.
    first, *others = (result[3] for result in of_each_thread_count(algorithm, filters=1))
    assert all(other.equal(first) for other in others)


@pytest.mark.skipif(not COMPILED, reason="a promise of the compiled kernels")
def test_same_bits_for_every_thread_count():
    first, *others = of_each_thread_count("direct")
    for other in others:
        assert all(a.equal(b) for a, b in zip(first, other, strict=True))


# -------------------------------------------------------------------- autocast, compile, export


@each_algorithm
def test_autocast_is_conv2ds(algorithm, device):
    if device == "cpu" and algorithm in ("direct", "im2col", "winograd"):
        pytest.skip("the kernels have no half precision on the CPU")
    case = CASES["same size at rate 2"]
    x, weight, bias, _ = (t.float().to(device) for t in make(case))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    with torch.autocast(device, torch.bfloat16):
        y = atrous_conv2d(*leaves, *case.how, algorithm=algorithm)
        expected = F.conv2d(*leaves, *case.how)
        wide = atrous_conv2d(*(t.double() for t in leaves), *case.how, algorithm=algorithm)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert wide.dtype == torch.float64
    torch.testing.assert_close(y, expected, **CLOSE["bfloat16"].kwargs)
    grads = torch.autograd.grad(y.float().sum(), leaves)
    assert all(grad.dtype == torch.float32 for grad in grads)


@pytest.mark.slow
@each_algorithm
def test_compiles_in_one_graph(algorithm):
    case = CASES["unequal pairs"]
    tensors = make(case)

    def op(x, weight, bias):
        return atrous_conv2d(
            x, weight, bias, *case.how, algorithm=algorithm, activation="relu"
        ).square()

    torch.compiler.reset()
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    leaves = [t.requires_grad_() for t in tensors[:3]]
    with torch.no_grad():
        torch.testing.assert_close(compiled(*leaves), op(*leaves))
    ours, theirs = (torch.autograd.grad(f(*leaves), leaves, tensors[3]) for f in (compiled, op))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["auto", "direct", "library", "interlace"])
def test_compiles_once_for_every_size(algorithm):
    weight = torch.randn(3, 2, 3, 3)

    def op(x):
        return atrous_conv2d(x, weight, None, 1, 2, 2, algorithm=algorithm)

    torch.compiler.reset()
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True, dynamic=True)
    # Interlace compiles anew where a side's remainder by the rate is another one.
    other = (7, 2, 21, 13) if algorithm == "interlace" else (7, 2, 12, 14)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in ((5, 2, 9, 11), other):
            x = torch.randn(shape)
            torch.testing.assert_close(compiled(x), op(x))


class Layer(torch.nn.Module):
    def __init__(self, algorithm):
        super().__init__()
        self.algorithm = algorithm
        self.weight = torch.nn.Parameter(torch.randn(3, 2, 3, 3))

    def forward(self, x):
        y = atrous_conv2d(x, self.weight, rate=2, algorithm=self.algorithm, activation="relu")
        return y, im2col(x, 2, rate=3)


@pytest.mark.slow
@each_algorithm
def test_exports_as_torchs_own_operations(algorithm):
    layer = Layer(algorithm)
    program = torch.export.export(layer, (torch.randn(1, 2, 9, 8),))
    assert "deeplab_repro" not in str(program.graph)
    x = torch.randn(1, 2, 9, 8)
    for ours, theirs in zip(program.module()(x), layer(x), strict=True):
        torch.testing.assert_close(ours, theirs)


# -------------------------------------------------------------------- im2col


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_im2col(case, device):
    x = make(case, device=device)[0]
    columns = im2col(x, case.weight[2:], *case.how[:3])
    assert columns.shape == (case.x[0], case.x[1] * case.weight[2] * case.weight[3], *case.out)
    assert columns.flatten(2).cpu().equal(columns_of(case, x.cpu()))


# -------------------------------------------------------------------- errors

X, W = torch.ones(1, 2, 5, 5), torch.ones(4, 2, 3, 3)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"x must have shape \(N, C, H, W\)", lambda: atrous_conv2d(X[0], W)),
        (ValueError, r"weight must have shape \(K, C, R, S\)", lambda: atrous_conv2d(X, W[0])),
        (ValueError, r"weight must have shape .* got \(4, 2, 0, 3\)",
         lambda: atrous_conv2d(X, W[:, :, :0])),
        (ValueError, r"x must have pixels, got \(1, 2, 5, 0\)",
         lambda: atrous_conv2d(X[..., :0], W, padding=9)),
        (TypeError, "x must be floating point", lambda: atrous_conv2d(X.int(), W.int())),
        (TypeError, "x must be floating point", lambda: atrous_conv2d(X.cfloat(), W.cfloat())),
        (TypeError, "x must be a tensor or a DLPack array, got int", lambda: atrous_conv2d(1, W)),
        (TypeError, "weight must be a tensor, got list", lambda: atrous_conv2d(X, [1])),
        (TypeError, "bias must be a tensor or None, got float", lambda: atrous_conv2d(X, W, 1.0)),
        (ValueError, "needs x with 1 channels", lambda: atrous_conv2d(X, W[:, :1])),
        (ValueError, "groups must divide 2 channels and 4 filters, got 3",
         lambda: atrous_conv2d(X, W, groups=3)),
        (ValueError, "groups must divide", lambda: atrous_conv2d(X, W, groups=0)),
        (ValueError, r"bias must have shape \(4,\), got \(3,\)",
         lambda: atrous_conv2d(X, W, W[0, 0, 0])),
        (TypeError, "weight must have x's dtype", lambda: atrous_conv2d(X, W.double())),
        (TypeError, "bias must have x's dtype", lambda: atrous_conv2d(X, W, torch.ones(4).half())),
        (ValueError, "weight must be on x's device cpu, got meta",
         lambda: atrous_conv2d(X, W.to("meta"))),
        (ValueError, "rate must be an int >= 1.*got 0", lambda: atrous_conv2d(X, W, rate=0)),
        (ValueError, "stride must be an int >= 1.*got 0", lambda: atrous_conv2d(X, W, stride=0)),
        (ValueError, "stride must be an int >= 1", lambda: atrous_conv2d(X, W, stride=(1, 1, 1))),
        (ValueError, "stride must be an int >= 1", lambda: atrous_conv2d(X, W, stride=1.5)),
        (ValueError, "padding must be an int >= 0.*got -1",
         lambda: atrous_conv2d(X, W, padding=-1)),
        (ValueError, "padding must be an int >= 0.*got same",
         lambda: atrous_conv2d(X, W, padding="same")),
        (ValueError, "spans 7 pixels in H at rate 3, the padded input only 5",
         lambda: atrous_conv2d(X, W, rate=3)),
        (ValueError, "spans 9 pixels in W", lambda: atrous_conv2d(X, W, rate=(1, 4))),
        (ValueError, "algorithm must be one of auto, direct, .*got 'fft'",
         lambda: atrous_conv2d(X, W, algorithm="fft")),
        (ValueError, "precision must be one of fp32, tf32, .*got 'int8'",
         lambda: atrous_conv2d(X, W, precision="int8")),
        (ValueError, "activation must be one of None, relu, relu6, got 'tanh'",
         lambda: atrous_conv2d(X, W, activation="tanh")),
        (ValueError, "precision 'bf16' needs algorithm 'auto' or 'direct', got 'im2col'",
         lambda: atrous_conv2d(X, W, algorithm="im2col", precision="bf16")),
        (ValueError, "precision 'tf32' needs algorithm .* got 'library'",
         lambda: atrous_conv2d(X, W, algorithm="library", precision="tf32")),
        (TypeError, "x must be float32, float64 for algorithm 'direct' on cpu, got torch.float16",
         lambda: atrous_conv2d(X.half(), W.half(), algorithm="direct")),
        (ValueError, "kernel_size must be an int >= 1", lambda: im2col(X, 0)),
        (ValueError, "spans 6 pixels in H", lambda: im2col(X, 6)),
        (ValueError, r"x must have shape", lambda: im2col(X[0], 1)),
    ],
)  # fmt: skip
def test_error_names_the_argument(error, message, call):
    with pytest.raises(error, match=f"^atrous_conv2d: .*{message}"):
        call()
