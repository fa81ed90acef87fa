"""The host harness sees what it is there to see."""

import numpy as np
import pytest

from deeplab_repro.native.cupy_backend import runtime
from tests.native.conftest import ORDERS

each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())


@pytest.fixture
def harness(on_host):
    return on_host("harness")


def reversed_blocks(values, threads):
    return values.reshape(-1, threads)[:, ::-1].ravel()


@each_order
@pytest.mark.parametrize("threads", [1, 2, 31, 64])
@pytest.mark.parametrize("function", ["reverse", "reverse_plain"])
def test_barrier_and_shared_memory(harness, function, threads, order):
    values = np.arange(3 * threads, dtype=np.float32)
    out = np.full_like(values, -1)
    barrier = (1,) if function == "reverse" else ()
    harness.call(function, *barrier, values, out, 3, threads, order)
    assert np.array_equal(out, reversed_blocks(values, threads))


@each_order
def test_a_missing_barrier_shows(harness, order):
    values = np.arange(3 * 8, dtype=np.float32)
    out = np.full_like(values, -1)
    harness.call("reverse", 0, values, out, 3, 8, order)
    assert np.isnan(out).any()  # garbage, not a neighbour's old value
    assert not np.array_equal(out, reversed_blocks(values, 8))


def test_shared_memory_starts_as_garbage_in_every_block(harness):
    out = np.zeros(4 * 16, np.float32)
    harness.call("unwritten_shared", out, 4, 16, 0)
    out = out.reshape(4, 16)
    assert np.isnan(out[:, 0]).all()
    assert (out[:, 1:] == 1).all()


def test_different_barriers_are_an_error(harness):
    with pytest.raises(RuntimeError, match="two different __syncthreads"):
        harness.call("divergent_barrier", np.zeros(8, np.float32), 8)


def test_barriers_that_never_meet_are_an_error(harness):
    with pytest.raises(RuntimeError, match="never reach"):
        harness.call("warp_waits_for_block", np.zeros(8, np.float32), 8)
    values = np.arange(8, dtype=np.float32)  # and the harness is fit for use afterwards
    out = np.zeros_like(values)
    harness.call("reverse", 1, values, out, 1, 8, 0)
    assert np.array_equal(out, values[::-1])


@pytest.mark.parametrize(("blocks", "threads"), [(0, 32), (1, 0), (1, 1025)])
def test_impossible_launches_are_an_error(harness, blocks, threads):
    with pytest.raises(RuntimeError, match="invalid launch"):
        harness.call("unwritten_shared", np.zeros(8, np.float32), blocks, threads, 0)


@each_order
@pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (1, 32), (3, 7), (40, 64)])
def test_atomics_and_grid_stride_loop(harness, blocks, threads, order):
    values = np.random.default_rng(0).integers(0, 5, 1000).astype(np.int32)
    bins = np.zeros(5, np.int32)
    harness.call("histogram", values, values.size, bins, blocks, threads, order)
    assert np.array_equal(bins, np.bincount(values))


@each_order
def test_warp_functions(harness, order):
    values = np.random.default_rng(0).integers(-9, 9, 96).astype(np.float32)
    out = np.zeros((4, 96), np.float32)
    harness.call("warp_sum", values, out, 96, order)
    warps = values.reshape(3, 32)
    assert np.array_equal(out[0], warps.sum(1).repeat(32))
    assert np.array_equal(out[1], values > 0)
    assert np.array_equal(out[2], warps[:, np.arange(32) ^ 1].ravel())
    assert np.array_equal(out[3], np.hstack([warps[:, :1], warps[:, :-1]]).ravel())


def test_three_dimensional_grid(harness):
    out = np.zeros((2 * 3 * 2, 2 * 2 * 3), np.int32)
    harness.call("position", out, 2, 3, 2, 2, 2, 3)
    assert np.array_equal(out, 1000 * np.arange(12)[:, None] + np.arange(12))


@pytest.mark.parametrize("value", [1, 2, 3, 5, 7, 8, 53, 1000, 65537, 2**30, 2**30 + 1, 2**31 - 1])
def test_divisor_is_exact_below_2_to_31(harness, value):
    # Where a quotient that is off by a little shows: around the multiples, the last ones above all.
    top = 2**31 - 1
    multiples = np.concatenate([np.arange(50), top // value - np.arange(50)]) * value
    numbers = (multiples[:, None] + [-1, 0, 1]).ravel()
    numbers = np.append(numbers[(numbers >= 0) & (numbers <= top)], top).astype(np.uint32)
    words, quotients = np.zeros(3, np.int64), np.zeros_like(numbers)
    harness.call("divide", value, words, numbers, numbers.size, quotients)
    assert np.array_equal(quotients, numbers // value)
    assert tuple(words) == runtime.divisor(value)
