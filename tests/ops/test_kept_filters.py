"""Transformed filters that a layer keeps: while its weight stays, and within a limit."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch

from deeplab_repro.native import backends
from deeplab_repro.ops import AtrousConv2d, _atrous_filters, atrous_conv2d
from deeplab_repro.ops._atrous_filters import KeptFilters, kept_bytes

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
        @staticmethod
        def atrous_winograd_filters(*arguments):
            calls.append(arguments)
            return op(*arguments)

    monkeypatch.setattr(_atrous_filters, "_OPS", Ops)
    return calls


@torch.no_grad()
def test_they_are_made_once(layer, x, monkeypatch):
    calls = made(monkeypatch)
    assert all(layer(x).equal(fresh(layer, x)) for _ in range(3))
    assert len(calls) == 1
    layer(torch.randn(2, 5, 11, 9))  # the batch does not matter
    assert len(calls) == 1
    layer(torch.randn(1, 5, 12, 9))
    layer(x)
    assert len(calls) == 2
    layer(torch.randn(1, 5, 13, 9))  # the third size: the one not used for longest goes
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


@pytest.mark.parametrize("change", [changed_in_place, new_memory, new_parameter, loaded, learned])
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
    monkeypatch.setattr(_atrous_filters, "LIMIT", before + 6 * layer.weight.nbytes)
    layer(x)
    one = kept_bytes()
    layer(torch.randn(1, 5, 11, 10))  # takes the place of the other size: there is room for one
    assert before < kept_bytes() <= one
    layer._kept.clear()
    monkeypatch.setattr(_atrous_filters, "LIMIT", before)
    assert layer(x).equal(fresh(layer, x))
    assert kept_bytes() == before


def test_a_weight_without_a_counter_is_not_kept(x):
    with torch.inference_mode():
        weight = torch.randn(7, 5, 3, 3)
        assert KeptFilters().find(weight, (11, 9), (2, 2), (2, 2), 1) is None
