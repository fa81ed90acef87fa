"""Transformed filters that a layer keeps: while its weight stays, and within a limit."""

from __future__ import annotations

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from deeplab_repro.native import backends
from deeplab_repro.ops import AtrousConv2d, _atrous_filters, atrous_conv2d
from deeplab_repro.ops._atrous_filters import kept_bytes

pytestmark = pytest.mark.skipif(
    not backends.has_cpu(), reason="the compiled CPU kernels are not loaded"
)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return AtrousConv2d(5, 7, 3, padding=2, rate=2, algorithm="winograd").eval()


@pytest.fixture
def x():
    return torch.randn(1, 5, 11, 9)


def fresh(layer, x):
    """Without anything kept."""
    return atrous_conv2d(x, layer.weight, layer.bias, 1, 2, 2, algorithm="winograd")


def made(monkeypatch):
    """How often filters are transformed to be kept."""
    calls = []
    op = _atrous_filters._OPS.atrous_winograd_filters

    class Ops:
        def __getattr__(self, name):
            return getattr(torch.ops.deeplab_repro, name)

        def atrous_winograd_filters(self, *arguments):
            calls.append(arguments)
            return op(*arguments)

    monkeypatch.setattr(_atrous_filters, "_OPS", Ops())
    return calls


@torch.no_grad()
def test_they_are_made_once_for_each_set_of_combinations(layer, x, monkeypatch):
    calls = made(monkeypatch)
    assert all(layer(x).equal(fresh(layer, x)) for _ in range(3))
    assert len(calls) == 1
    for size in ((1, 5, 12, 9), (2, 5, 13, 9)):  # other maps of the same set
        layer(torch.randn(size))
    assert len(calls) == 1
    layer(torch.randn(1, 5, 11, 13))
    layer(x)
    assert len(calls) == 2
    layer(torch.randn(1, 5, 2, 9))  # the third set: the one not used for longest goes
    layer(x)
    assert len(calls) == 3


def changed_in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(2)


def new_memory(layer):
    layer.weight.data = torch.randn_like(layer.weight)


def new_parameter(layer):
    layer.weight = torch.nn.Parameter(torch.randn_like(layer.weight))


def loaded(layer):
    layer.load_state_dict({k: torch.randn_like(v) for k, v in layer.state_dict().items()})


def learned(layer):
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(torch.randn(1, 5, 11, 9)).sum().backward()
    optimizer.step()


def behind_the_counter(layer):
    layer.weight.data.mul_(2)


def through_numpy(layer):
    layer.weight.numpy(force=True)[3, 4, 2, 2] += 1


def of_the_same_memory(layer):
    layer.weight = torch.nn.Parameter(layer.weight.data)
    with torch.no_grad():
        layer.weight[6, 0, 1, 1] = 7


def two_exchanged(layer):
    layer.weight.data = layer.weight.data.flip(0)


CHANGES = [
    changed_in_place, new_memory, new_parameter, loaded, learned, behind_the_counter,
    through_numpy, of_the_same_memory, two_exchanged,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_they_go_with_the_weight(layer, x, change):
    with torch.no_grad():
        before = layer(x)
    change(layer)
    with torch.no_grad():
        after = layer(x)
        assert after.equal(fresh(layer, x))
    assert not after.equal(before)


def test_a_layer_that_learns_keeps_none(layer, x, monkeypatch):
    calls = made(monkeypatch)
    layer(x)  # a gradient is asked for
    with torch.no_grad():
        layer.train()(x)
    assert not calls


def test_copies_keep_their_own(layer, x):
    with torch.no_grad():
        layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            other.weight.mul_(3)
            assert other(x).equal(fresh(other, x))
            assert layer(x).equal(fresh(layer, x))


@torch.no_grad()
def test_they_are_counted_and_bounded(layer, x, monkeypatch):
    gc.collect()
    before = kept_bytes()
    layer(x)
    assert kept_bytes() > before
    layer._kept.clear()
    assert kept_bytes() == before
    layer(x)
    one = kept_bytes() - before
    monkeypatch.setattr(_atrous_filters, "limit", lambda: before + one)
    layer(torch.randn(1, 5, 2, 9))  # takes the place of the other set: there is room for one
    assert before < kept_bytes() <= before + one
    layer._kept.clear()
    monkeypatch.setattr(_atrous_filters, "limit", lambda: before)
    assert layer(x).equal(fresh(layer, x))
    assert kept_bytes() == before


@torch.no_grad()
def test_they_go_when_the_layer_learns_or_moves(layer, x):
    gc.collect()
    before = kept_bytes()
    for leave in (layer.train, layer.double, lambda: layer.to("meta")):
        layer.eval()
        layer(x.to(layer.weight.dtype))
        assert kept_bytes() > before
        leave()
        assert kept_bytes() == before
        layer.float()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_recorded_layer_keeps_nothing(layer, x):
    with torch.no_grad():
        layer(x)
        traced = torch.jit.trace(layer, x, check_trace=False)
        other = torch.randn(1, 5, 15, 13)
        torch.testing.assert_close(traced(other), fresh(layer, other))
        make_fx(layer, tracing_mode="fake", _allow_non_fake_inputs=True)(x)
        assert layer(x).equal(fresh(layer, x))


def test_weights_of_inference_mode(x):
    with torch.inference_mode():
        layer = AtrousConv2d(5, 7, 3, padding=2, rate=2, algorithm="winograd").eval()
        assert layer(x).equal(fresh(layer, x))
        layer.weight.mul_(2)
        assert layer(x).equal(fresh(layer, x))


def test_a_limit_that_is_no_number(monkeypatch):
    monkeypatch.setenv("DEEPLAB_REPRO_KEPT_FILTERS", "lots")
    with pytest.raises(ValueError, match=r"must be a number of megabytes, got 'lots'"):
        _atrous_filters.limit.__wrapped__()


@pytest.mark.slow
@torch.no_grad()
def test_threads_may_share_a_layer(layer):
    pictures = [torch.randn(1, 5, 11, n) for n in (2, 9, 10, 12)]
    expected = [fresh(layer, picture) for picture in pictures]

    def run(i):
        with torch.no_grad():
            return all(layer(pictures[i % 4]).equal(expected[i % 4]) for _ in range(100))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(run, range(4)))
