"""`accuracy`: which forms an algorithm may use; it goes wherever `algorithm` does."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from deeplab_repro.native import backends
from deeplab_repro.ops import (
    AtrousConv2d,
    _atrous_algorithms,
    _atrous_filters,
    atrous_conv2d,
    choose_algorithm,
    set_accuracy,
)

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

X, WEIGHT, BIAS = torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3), torch.randn(6)
HOW = {"padding": 2, "rate": 2, "algorithm": "winograd"}
BOTH = pytest.mark.parametrize(("accuracy", "fast"), [("exact", False), ("fast", True)])


class Seen(TorchDispatchMode):
    """Whether each call of the op was a fast one."""

    def __init__(self):
        super().__init__()
        self.fast = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.deeplab_repro.atrous_conv2d_winograd.default:
            self.fast.append(args[7])
        return func(*args, **(kwargs or {}))


def layer(**options):
    torch.manual_seed(0)
    return AtrousConv2d(4, 6, 3, padding=2, rate=2, **{"algorithm": "winograd", **options})


@BOTH
def test_forward_and_the_gradient_of_the_input(accuracy, fast):
    leaves = [t.clone().requires_grad_() for t in (X, WEIGHT, BIAS)]
    with Seen() as seen:
        y = atrous_conv2d(*leaves, **HOW, accuracy=accuracy)
        y.sum().backward()
    assert seen.fast == [fast, fast]
    with Seen() as seen, torch.no_grad():
        atrous_conv2d(*leaves, **HOW, accuracy=accuracy)
    assert seen.fast == [fast]


def test_it_is_exact_unless_asked():
    with Seen() as seen:
        atrous_conv2d(X, WEIGHT, **HOW)
        layer()(X)
    assert seen.fast == [False, False]


@BOTH
def test_second_derivatives(accuracy, fast):
    x, weight = X.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    with Seen() as seen:
        y = atrous_conv2d(x, weight, **HOW, accuracy=accuracy)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        grad.square().sum().backward()
    assert len(seen.fast) > 2
    assert set(seen.fast) == {fast}


@BOTH
@pytest.mark.parametrize("dims", [(0, None), (0, 0)])
def test_vmap(accuracy, fast, dims):
    x = torch.stack([X, X + 1])
    weight = WEIGHT if dims[1] is None else torch.stack([WEIGHT, WEIGHT])

    def loss(x, weight):
        return atrous_conv2d(x, weight, **HOW, accuracy=accuracy).sum()

    with Seen() as seen:
        torch.func.vmap(torch.func.grad(loss), dims)(x, weight)
    assert seen.fast == [fast, fast]


@BOTH
def test_compile(accuracy, fast):
    calls = []

    def record(graph, inputs):
        calls.extend(n.args[7] for n in graph.graph.nodes if "winograd" in str(n.target))
        return make_boxed_func(graph)

    op = layer(accuracy=accuracy)
    torch.compiler.reset()
    compiled = torch.compile(op, backend=aot_autograd(fw_compiler=record), fullgraph=True)
    x = X.clone().requires_grad_()
    y = compiled(x)
    torch.testing.assert_close(y, op(X))
    y.sum().backward()
    assert calls == [fast, fast]


def test_export_writes_down_torchs_own_operations():
    op = layer(accuracy="fast").eval()
    program = torch.export.export(op, (X,))
    assert not [n for n in program.graph.nodes if "deeplab_repro" in str(n.target)]
    torch.testing.assert_close(program.module()(X), op(X))


def test_the_rules_are_told(monkeypatch):
    seen = []
    monkeypatch.setattr(_atrous_algorithms, "choose", lambda p: seen.append(p.fast) or "library")
    for accuracy in ("exact", "fast"):
        choose_algorithm(X, WEIGHT, accuracy=accuracy)
        atrous_conv2d(X, WEIGHT.clone().requires_grad_(), accuracy=accuracy).sum().backward()
    assert seen == [False] * 3 + [True] * 3


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_it_does_not_change_the_precision(precision):
    exact, fast = (
        atrous_conv2d(X, WEIGHT, padding=2, rate=2, precision=precision, accuracy=accuracy)
        for accuracy in ("exact", "fast")
    )
    assert fast.equal(exact)
    assert choose_algorithm(X, WEIGHT, precision=precision, accuracy="fast") == "direct"


# -------------------------------------------------------------------- layers


def test_a_layer_has_it_and_copies_keep_it():
    op = layer(accuracy="fast")
    assert "accuracy=fast" in repr(op)
    assert "accuracy" not in repr(layer())
    for other in (op, copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        with Seen() as seen:
            other(X)
            other.eval()(X)
        assert seen.fast == [True, True]
    assert op.state_dict().keys() == layer().state_dict().keys()


def test_a_layer_stored_before_there_was_a_choice_is_exact():
    op = layer()
    del op.__dict__["accuracy"]
    with Seen() as seen:
        pickle.loads(pickle.dumps(op))(X)
    assert seen.fast == [False]


def test_of_a_whole_network():
    net = torch.nn.Sequential(layer(), torch.nn.ReLU(), torch.nn.Sequential(layer()))
    set_accuracy(net, "fast")
    assert [m.accuracy for m in net.modules() if isinstance(m, AtrousConv2d)] == ["fast", "fast"]
    with pytest.raises(ValueError, match="accuracy: expected exact or fast, got 'quick'"):
        set_accuracy(net, "quick")


@pytest.mark.parametrize(
    "call",
    [
        lambda: atrous_conv2d(X, WEIGHT, accuracy="quick"),
        lambda: choose_algorithm(X, WEIGHT, accuracy="quick"),
        lambda: AtrousConv2d(4, 6, 3, accuracy="quick"),
    ],
    ids=["op", "choose_algorithm", "layer"],
)
def test_another_value_is_told_at_once(call):
    with pytest.raises(ValueError, match="accuracy must be one of exact, fast, got 'quick'"):
        call()


# -------------------------------------------------------------------- filters that are kept


@pytest.mark.skipif(not backends.has_cpu(), reason="the compiled CPU kernels are not loaded")
@torch.no_grad()
def test_a_layer_that_changes_its_accuracy_takes_the_filters_of_the_new_one():
    op, x, found = layer().eval(), torch.randn(1, 4, 41, 41), {}
    for accuracy in ("exact", "fast", "exact", "fast"):
        op.accuracy = accuracy
        fresh = atrous_conv2d(x, op.weight, op.bias, **HOW, accuracy=accuracy)
        assert op(x).equal(fresh)
        found[accuracy] = fresh
    assert not found["fast"].equal(found["exact"])


@pytest.mark.skipif(not backends.has_cpu(), reason="the compiled CPU kernels are not loaded")
@torch.no_grad()
def test_filters_are_kept_by_their_set(monkeypatch):
    ops, made = torch.ops.deeplab_repro, []

    class Ops:
        def __getattr__(self, name):
            return getattr(ops, name)

        def atrous_winograd_filters(self, weight, filter_set, groups):
            made.append(filter_set)
            return ops.atrous_winograd_filters(weight, filter_set, groups)

    monkeypatch.setattr(_atrous_filters, "_OPS", Ops())
    op = layer().eval()
    how = _atrous_algorithms.How((1, 1), (2, 2), (2, 2), 1, "fp32", False)
    for _ in range(2):
        exact, exact_set = op.kept.find(op.weight, (41, 41), how)
        fast, fast_set = op.kept.find(op.weight, (41, 41), how._replace(fast=True))
        assert exact_set != fast_set
        assert exact.equal(ops.atrous_winograd_filters(op.weight, exact_set, 1))
        assert fast.equal(ops.atrous_winograd_filters(op.weight, fast_set, 1))
    assert made == [exact_set, fast_set]
