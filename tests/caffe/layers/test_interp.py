"""Interp in its four forms, and the v1 fork's Padding."""

from __future__ import annotations

import pytest
import torch

from prototxt_import import CaffeImportError
from prototxt_import.layers import interp_output
from tests.caffe.layers.one_layer import make, row, run, slope


def interp(param: str, x: torch.Tensor, dialect: str = "dl2") -> torch.Tensor:
    kind = "INTERP" if dialect == "dl1" else '"Interp"'
    return run(f"type: {kind} interp_param {{ {param} }}", x, dialect=dialect)


def test_sizes_of_the_four_forms() -> None:
    assert interp_output(41, zoom=8) == 321
    assert [interp_output(n, shrink=8) for n in (321, 322, 328, 329)] == [41, 41, 41, 42]
    assert interp_output(5, size=77) == 77
    # Shrink first, then zoom: 65 -> 9 -> 33.
    assert interp_output(65, shrink=8, zoom=4) == 33
    # A size goes before both together, and behind either alone.
    assert interp_output(65, shrink=8, zoom=4, size=7) == 7
    assert interp_output(65, shrink=8, size=7) == 9
    assert interp_output(306, shrink=8, pad_beg=-1) == 39  # networks.md section 4


def test_zoom_holds_the_corners() -> None:
    x = row(0, 3, 9)
    y = interp("zoom_factor: 3", x)
    assert y.flatten().tolist() == pytest.approx([0, 1, 2, 3, 5, 7, 9])
    third = 1 / 3
    assert slope(y, x) == pytest.approx([2, 1 + 2 * third * 3, 2])


def test_shrink_of_8k_plus_1_picks_values_exactly() -> None:
    x = torch.randint(0, 255, (1, 1, 33, 17)).float()
    assert torch.equal(interp("shrink_factor: 8", x), x[..., ::8, ::8])


def test_shrink_of_other_sizes_mixes() -> None:
    # 6 -> 2: the corners. 6 -> 3: the middle lies at 2.5.
    x = row(0, 1, 2, 3, 4, 50)
    assert interp("shrink_factor: 5", x).flatten().tolist() == [0, 50]
    assert interp("shrink_factor: 2", x).flatten().tolist() == [0, 2.5, 50]


def test_height_and_width() -> None:
    x = torch.tensor([[0.0, 4], [8, 12]]).reshape(1, 1, 2, 2)
    y = interp("height: 3 width: 5", x)
    assert y[0, 0].tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    assert interp("height: 1 width: 1", x).item() == 0


def test_shrink_and_zoom_resample_once() -> None:
    # 5 -> shrink 2 -> 3 -> zoom 4 -> 9, in one step from 5 to 9: half a pixel at a time.
    x = row(0, 10, 0, 0, 4)
    y = interp("shrink_factor: 2 zoom_factor: 4", x)
    assert y.flatten().tolist() == [0, 5, 10, 5, 0, 0, 0, 2, 4]


def test_pads_crop_first() -> None:
    x = row(90, 0, 2, 4, 80, 70).expand(1, 1, 6, 6)
    y = interp("zoom_factor: 2 pad_beg: -1 pad_end: -2", x)
    assert y.shape == (1, 1, 5, 5)
    assert y[0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_gradients() -> None:
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    for param in ("zoom_factor: 3", "shrink_factor: 2", "height: 7 width: 3 pad_beg: -1"):
        module = make(f'type: "Interp" interp_param {{ {param} }}', x.shape, dialect="dl2")
        assert torch.autograd.gradcheck(module, x), param


@pytest.mark.parametrize(
    ("param", "dialect", "message"),
    [
        ("", "dl2", "no output size"),
        ("height: 3", "dl2", "no output size"),
        ("zoom_factor: 0", "dl2", "bad zoom_factor"),
        ("zoom_factor: 2 pad_beg: 1", "dl2", "pad_beg can only crop"),
        ("zoom_factor: 2 pad_beg: -5", "dl2", "leaves nothing"),
        ("height: 0 width: 3", "dl2", "leaves nothing"),
        ("zoom_factor: 2 shrink_factor: 2", "dl1", "takes one of"),
        ("zoom_factor: 2 height: 3 width: 3", "dl1", "takes one of"),
    ],
)
def test_refused(param: str, dialect: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        interp(param, torch.ones(1, 1, 5, 5), dialect)


def padding(beg: int, end: int, x: torch.Tensor) -> torch.Tensor:
    body = f"type: PADDING padding_param {{ pad_beg: {beg} pad_end: {end} }}"
    return run(body, x, dialect="dl1")


def test_padding_adds_zeros_or_crops() -> None:
    x = torch.arange(1.0, 10).reshape(1, 1, 3, 3).requires_grad_()
    assert padding(1, 0, x)[0, 0].tolist() == [[0] * 4, [0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 8, 9]]
    cropped = padding(-1, -1, x)
    assert cropped.item() == 5
    assert slope(cropped, x) == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert padding(-7, -8, torch.ones(1, 1, 529, 529)).shape == (1, 1, 514, 514)


def test_padding_refuses_to_pad_and_crop_at_once() -> None:
    with pytest.raises(CaffeImportError, match="at one end"):
        padding(1, -1, torch.ones(1, 1, 3, 3))
    with pytest.raises(CaffeImportError, match="leaves nothing"):
        padding(-2, -2, torch.ones(1, 1, 3, 3))
