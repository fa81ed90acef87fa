"""Layers that join, cut, repeat, pick, reduce and multiply by a matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prototxt_import import CaffeImportError
from tests.caffe.layers.one_layer import make, row, run, slope


def grid(*shape: int) -> torch.Tensor:
    """0, 1, 2, ... in a shape."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize("param", ["axis: 1", "axis: -1", "concat_dim: 1"])
def test_concat(param: str) -> None:
    a, b = grid(2, 1), 10 + grid(2, 2)
    assert run(f'type: "Concat" concat_param {{ {param} }}', a, b).tolist() == [
        [0, 10, 11],
        [1, 12, 13],
    ]


def test_concat_of_one_bottom_passes_it_through() -> None:
    x = grid(2, 3)
    assert run('type: "Concat"', x) is x


@pytest.mark.parametrize(
    ("param", "shapes", "message"),
    [
        ("", [(1, 2, 3), (1, 2, 4)], "bottom 1 is not shaped like"),
        ("axis: 0", [(1, 2), (1, 3)], "bottom 1 is not shaped like"),
        ("", [(1, 2, 3), (1, 2)], "other axes"),
        ("axis: 3", [(1, 2, 3)] * 2, "bad axis"),
        ("axis: 1 concat_dim: 1", [(1, 2)] * 2, "both given"),
    ],
)
def test_concat_refused(param: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        make(f'type: "Concat" concat_param {{ {param} }}', *shapes)


@pytest.mark.parametrize(
    ("param", "sizes"),
    [
        ("", [2, 2, 2]),
        ("slice_point: 1 slice_point: 5", [1, 4, 1]),
        ("slice_dim: 1 slice_point: 3 slice_point: 4", [3, 1, 2]),
        ("axis: -2 slice_point: 1 slice_point: 2", [1, 1, 4]),
    ],
)
def test_slice(param: str, sizes: list[int]) -> None:
    x = grid(2, 6, 2)
    tops = run(f'type: "Slice" slice_param {{ {param} }}', x, tops=3)
    assert [y.shape[1] for y in tops] == sizes
    assert torch.equal(torch.cat(tops, 1), x)


def test_slice_gradients_land_in_their_part() -> None:
    x = row(1, 2, 3)
    _, b = run('type: "Slice" slice_param { axis: 3 slice_point: 1 }', x, tops=2)
    assert slope(b, x) == [0, 1, 1]


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("slice_point: 1", "one slice_point fewer"),
        ("slice_point: 3 slice_point: 2", "must rise"),
        ("slice_point: 0 slice_point: 2", "must rise"),
        ("slice_point: 1 slice_point: 6", "beyond the bottom"),
        ("axis: 0", "does not split evenly"),
    ],
)
def test_slice_refused(param: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        make(f'type: "Slice" slice_param {{ {param} }}', (2, 6), tops=3)


def test_split_adds_gradients_up() -> None:
    x = row(1, 2)
    a, b = run('type: "Split"', x, tops=2)
    assert slope(a + 3 * b, x) == [4, 4]


@pytest.mark.parametrize(
    ("param", "shape"),
    [
        ("", (2, 60)),
        ("axis: 0", (120,)),
        ("axis: 2", (2, 3, 20)),
        ("end_axis: 2", (2, 12, 5)),
        ("axis: -3 end_axis: -2", (2, 12, 5)),
        ("axis: 1 end_axis: 1", (2, 3, 4, 5)),
    ],
)
def test_flatten(param: str, shape: tuple[int, ...]) -> None:
    x = grid(2, 3, 4, 5)
    y = run(f'type: "Flatten" flatten_param {{ {param} }}', x)
    assert y.shape == shape
    assert torch.equal(y.flatten(), x.flatten())


def test_flatten_of_the_v1_fork_keeps_four_axes() -> None:
    assert run("type: FLATTEN", grid(2, 3, 4, 5), dialect="dl1").shape == (2, 60, 1, 1)


@pytest.mark.parametrize(
    ("param", "shape"),
    [
        ("shape { dim: 0 dim: -1 }", (2, 60)),
        ("shape { dim: 0 dim: 0 dim: 10 dim: 2 }", (2, 3, 10, 2)),
        ("shape { dim: 4 dim: 5 } axis: 2", (2, 3, 4, 5)),
        ("shape { dim: 2 dim: 2 } axis: 2 num_axes: 1", (2, 3, 2, 2, 5)),
        ("shape { dim: -1 dim: 2 } axis: -3 num_axes: 2", (2, 3, 10, 2)),
        ("shape { dim: 1 dim: 1 } axis: -1", (2, 3, 4, 5, 1, 1)),
        ("shape { dim: 1 } axis: 0 num_axes: 0", (1, 2, 3, 4, 5)),
        ("shape { }", None),
    ],
)
def test_reshape(param: str, shape: tuple[int, ...] | None) -> None:
    x = grid(2, 3, 4, 5)
    body = f'type: "Reshape" reshape_param {{ {param} }}'
    if shape is None:
        with pytest.raises(CaffeImportError, match="number of values changes"):
            run(body, x)
        return
    y = run(body, x)
    assert y.shape == shape
    assert torch.equal(y.flatten(), x.flatten())


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("shape { dim: -1 dim: -1 }", "more than one -1"),
        ("shape { dim: 7 dim: -1 }", "cannot be inferred"),
        ("shape { dim: 7 }", "number of values changes"),
        ("shape { dim: 2 dim: 3 dim: 4 dim: 5 dim: 0 }", "no axis of the bottom to copy"),
        ("shape { dim: 1 } axis: 5", "bad axis"),
        ("shape { dim: 1 } axis: 2 num_axes: 3", "beyond the bottom's axes"),
    ],
)
def test_reshape_refused(param: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        make(f'type: "Reshape" reshape_param {{ {param} }}', (2, 3, 4, 5))


def test_tile_repeats_whole_slices() -> None:
    x = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    y = run('type: "Tile" tile_param { axis: -1 tiles: 2 }', x)
    assert y.tolist() == [[1, 2, 1, 2], [3, 4, 3, 4]]
    assert slope(y * grid(2, 4), x) == [0 + 2, 1 + 3, 4 + 6, 5 + 7]
    assert run('type: "Tile" tile_param { axis: 0 tiles: 3 }', x).shape == (6, 2)


@pytest.mark.parametrize(
    ("param", "corner"),
    [
        ("", (0, 0)),
        ("offset: 1", (1, 1)),
        ("offset: 1 offset: 3", (1, 3)),
        ("axis: 3 offset: 2", (None, 2)),
        ("axis: -2 offset: 2 offset: 0", (2, 0)),
    ],
)
def test_crop(param: str, corner: tuple[int | None, int]) -> None:
    x = grid(1, 2, 5, 6).requires_grad_()
    y = run(f'type: "Crop" crop_param {{ {param} }}', x, torch.empty(1, 2, 3, 3))
    rows = slice(None) if corner[0] is None else slice(corner[0], corner[0] + 3)
    assert torch.equal(y, x[:, :, rows, corner[1] : corner[1] + 3])
    assert sum(slope(y, x)) == y.numel()


@pytest.mark.parametrize(
    ("param", "reference", "message"),
    [
        ("offset: 3", (1, 2, 3, 3), "exceeds axis 2"),
        ("offset: 1 offset: 1 offset: 1", (1, 2, 3, 3), "wrong number"),
        ("", (2, 3, 3), "as many axes"),
    ],
)
def test_crop_refused(param: str, reference: tuple[int, ...], message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        make(f'type: "Crop" crop_param {{ {param} }}', (1, 2, 5, 6), reference)


def test_batch_reindex_adds_up_the_gradients_of_repeated_items() -> None:
    x = grid(3, 2).requires_grad_()
    y = run('type: "BatchReindex"', x, torch.tensor([2.0, 0, 2, 2]))
    assert y.tolist() == [[4, 5], [0, 1], [4, 5], [4, 5]]
    assert slope(y, x) == [1, 1, 0, 0, 3, 3]


def test_batch_reindex_refuses_items_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"layer 'op'.*3"):
        run('type: "BatchReindex"', grid(3, 2), torch.tensor([3.0]))


def test_filter_keeps_items_whose_selector_is_not_zero() -> None:
    x, z = grid(4, 2).requires_grad_(), grid(4, 1)
    selector = torch.tensor([1.0, 0, -1, 0]).reshape(4, 1, 1, 1)
    a, b = run('type: "Filter"', x, z, selector, tops=2)
    assert a.tolist() == [[0, 1], [4, 5]]
    assert b.tolist() == [[0], [2]]
    assert slope(a, x) == [1, 1, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("operation", "axis", "top", "gradient"),
    [
        ("SUM", 1, [-2, 10], [2, 2, 2, 2]),
        ("ASUM", 1, [6, 10], [2, -2, 2, 2]),
        ("SUMSQ", 1, [10, 50], [4, -8, 0, 20]),
        ("MEAN", 1, [-1, 5], [1, 1, 1, 1]),
        ("SUM", 0, 8, [2, 2, 2, 2]),
        ("MEAN", -2, 2, [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_reduction(operation: str, axis: int, top: Any, gradient: list[float]) -> None:
    values = {"SUM": [1, -2, 0, 5], "MEAN": [1, -2, 0, 5], "ASUM": [1, -2, 1, 4],
              "SUMSQ": [1, -2, 0, 5]}[operation]  # fmt: skip
    x = torch.tensor(values, dtype=torch.float32).reshape(2, 2).requires_grad_()
    param = f"reduction_param {{ operation: {operation} axis: {axis} coeff: 2 }}"
    y = run(f'type: "Reduction" {param}', x)
    assert y.tolist() == top
    assert slope(y, x) == gradient


def test_asum_has_no_slope_at_zero() -> None:
    x = torch.zeros(1, 2, requires_grad=True)
    assert slope(run('type: "Reduction" reduction_param { operation: ASUM }', x), x) == [0, 0]


def test_softmax_axes() -> None:
    x = torch.log(torch.tensor([[1.0, 3], [2, 2]]))
    assert run('type: "Softmax"', x).flatten().tolist() == pytest.approx([0.25, 0.75, 0.5, 0.5])
    y = run('type: "Softmax" softmax_param { axis: 0 }', x)
    assert y.flatten().tolist() == pytest.approx([1 / 3, 0.6, 2 / 3, 0.4])


def test_argmax_over_items_puts_values_behind_indices() -> None:
    x = torch.tensor([[1.0, 9, 9, 3], [7, 5, 6, 0]]).reshape(2, 2, 1, 2)
    argmax = 'type: "ArgMax" argmax_param {{ {} }}'
    # Of equal values the higher index goes first.
    assert run(argmax.format("top_k: 2"), x).tolist() == [[[[2], [1]]], [[[0], [2]]]]
    y = run(argmax.format("top_k: 3 out_max_val: true"), x.reshape(2, 4))
    assert y.tolist() == [[[2, 1, 3], [9, 9, 3]], [[0, 2, 1], [7, 6, 5]]]


def test_argmax_over_an_axis_gives_indices_or_values() -> None:
    x = torch.tensor([[1.0, 4], [1, 6], [0, 5]])
    argmax = 'type: "ArgMax" argmax_param {{ {} }}'
    assert run(argmax.format("axis: 0"), x).tolist() == [[1, 1]]
    assert run(argmax.format("axis: -2 top_k: 2"), x).tolist() == [[1, 1], [0, 2]]
    assert run(argmax.format("axis: 0 out_max_val: true"), x).tolist() == [[1, 6]]


def test_argmax_of_the_v1_fork_goes_over_channels() -> None:
    x = torch.tensor([1.0, 2, 5, 2, 3, 0]).reshape(1, 3, 1, 2)
    y = run("type: ARGMAX argmax_param { top_k: 2 out_max_val: true }", x, dialect="dl1")
    assert y.tolist() == [[[[1, 1]], [[2, 0]], [[5, 2]], [[3, 2]]]]


def test_argmax_refuses_more_than_there_is() -> None:
    with pytest.raises(CaffeImportError, match=r"bad top_k; expected 1..4, got 5"):
        make('type: "ArgMax" argmax_param { top_k: 5 }', (2, 4))


@pytest.mark.parametrize("transpose", [False, True])
def test_inner_product(transpose: bool) -> None:
    module = make(
        'type: "InnerProduct" inner_product_param { num_output: 2 axis: 2 bias_filler { value: 1 }'
        f" transpose: {str(transpose).lower()} }}",
        (1, 2, 3),
    )
    matrix = torch.tensor([[1.0, 0, 0], [1, 1, 1]])
    module.set_blob(0, matrix.t() if transpose else matrix)
    assert module.blobs[0].shape == ((3, 2) if transpose else (2, 3))
    assert module(grid(1, 2, 3)).tolist() == [[[1, 4], [4, 13]]]


def test_inner_product_of_the_v1_fork_has_four_axes() -> None:
    module = make(
        "type: INNER_PRODUCT inner_product_param { num_output: 2 weight_filler { value: 1 } }",
        (3, 2, 1, 2),
        dialect="dl1",
    )
    assert [tuple(blob.shape) for blob in module.blobs] == [(1, 1, 2, 4), (1, 1, 1, 2)]
    y = module(grid(3, 2, 1, 2))
    assert y.shape == (3, 2, 1, 1)
    assert y.flatten().tolist() == [6, 6, 22, 22, 38, 38]


def test_embed_looks_rows_up() -> None:
    module = make(
        'type: "Embed" embed_param { num_output: 2 input_dim: 3 bias_filler { value: 10 } }', (2, 2)
    )
    module.set_blob(0, grid(3, 2))
    y = module(torch.tensor([[0.0, 2], [2, 1]]))
    assert y.tolist() == [[[10, 11], [14, 15]], [[14, 15], [12, 13]]]
    y.sum().backward()
    assert module.blobs[0].grad.tolist() == [[1, 1], [1, 1], [2, 2]]
    assert module.blobs[1].grad.tolist() == [4, 4]
    with pytest.raises(ValueError, match="layer 'op': Embed"):
        module(torch.tensor([[3.0]]))


def test_silence_swallows_everything() -> None:
    assert run('type: "Silence"', grid(2), grid(3), tops=0) == ()
