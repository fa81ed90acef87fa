"""Shapes without running anything: unknown sizes, data layers, refusals; and, layer by layer, that
what is promised is what is made."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch

from prototxt_import import CaffeImportError, parse_net
from prototxt_import.layers import REFUSED, LayerShapes
from tests.caffe.layers.one_layer import layer, make

CAFFE = Path(__file__).parents[2] / "data" / "caffe"


def shapes(body: str, *bottoms: tuple[int | None, ...], **options: object) -> LayerShapes:
    """Shapes with some sizes unknown."""
    known = [tuple(8 if n is None else n for n in shape) for shape in bottoms]
    return layer(body, *known, **options).shapes(bottoms)


@pytest.mark.parametrize(
    ("body", "bottoms", "top", "params"),
    [
        pytest.param(
            'type: "Convolution" convolution_param { num_output: 5 kernel_size: 3 pad: 1 }',
            [(None, 4, None, 9)], (None, 5, None, 9), [(5, 4, 3, 3), (5,)], id="conv",
        ),
        pytest.param(
            'type: "Convolution" convolution_param { num_output: 6 kernel_size: 3 group: 2 }',
            [(1, None, 9, 9)], (1, 6, 7, 7), [(6, None, 3, 3), (6,)], id="conv without channels",
        ),
        pytest.param(
            'type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 3 stride: 2 }',
            [(1, 3, None, 5)], (1, 6, None, 11), [(3, 6, 3, 3), (6,)], id="deconv",
        ),
        pytest.param(
            'type: "InnerProduct" inner_product_param { num_output: 7 }',
            [(2, 3, None, 5)], (2, 7), [(7, None), (7,)], id="inner product",
        ),
        pytest.param('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }',
                     [(1, 2, None, 6)], (1, 2, None, 3), [], id="pooling"),
        pytest.param('type: "Concat"', [(1, 2, None), (1, 3, 5)], (1, 5, 5), [], id="concat"),
        pytest.param('type: "Concat"', [(1, None, 4), (1, 3, 4)], (1, None, 4), [], id="concat 2"),
        pytest.param('type: "Eltwise"', [(None, 2, 3), (1, 2, None)], (1, 2, 3), [], id="eltwise"),
        pytest.param('type: "Flatten"', [(2, None, 3)], (2, None), [], id="flatten"),
        pytest.param('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }',
                     [(2, None, 3)], (2, None), [], id="reshape"),
        pytest.param('type: "BatchNorm"', [(1, None, 2, 2)], (1, None, 2, 2),
                     [(None,), (None,), (1,)], id="batch norm"),
        pytest.param('type: "Scale" scale_param { bias_term: true }', [(1, 3, None, 2)],
                     (1, 3, None, 2), [(3,), (3,)], id="scale"),
    ],
)  # fmt: skip
def test_unknown_sizes_stay_unknown(
    body: str,
    bottoms: list[tuple[int | None, ...]],
    top: tuple[int | None, ...],
    params: list[tuple[int | None, ...]],
) -> None:
    assert shapes(body, *bottoms) == LayerShapes([top], params)


@pytest.mark.parametrize(
    ("body", "dialect", "tops"),
    [
        (
            'type: "ImageSegData" image_data_param { batch_size: 10 label_type: PIXEL }'
            " transform_param { crop_size: 321 }",
            "dl2",
            [(10, 3, 321, 321), (10, 1, 321, 321), (10, 1, 1, 2)],
        ),
        (
            'type: "ImageSegData" image_data_param { batch_size: 1 is_color: false }',
            "dl2",
            [(1, 1, None, None), (1, 1, None, None)],
        ),
        (
            "type: IMAGE_SEG_DATA image_data_param { batch_size: 4 }"
            " transform_param { crop_size: 306 }",
            "dl1",
            [(4, 3, 306, 306), (4, 1, 306, 306), (4, 1, 1, 2)],
        ),
        (
            'type: "ImageData" image_data_param { batch_size: 2 new_height: 5 new_width: 6 }',
            "bvlc",
            [(2, 3, 5, 6), (2,)],
        ),
        (
            'type: "MemoryData" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }',
            "bvlc",
            [(2, 3, 4, 5), (2,)],
        ),
        (
            "type: MEMORY_DATA memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }",
            "dl1",
            [(2, 3, 4, 5), (2, 1, 1, 1)],
        ),
        ('type: "HDF5Data" hdf5_data_param { batch_size: 4 }', "bvlc", [(4, None, None, None)] * 2),
        ('type: "MatRead" mat_read_param { prefix: "x" }', "dl2", [(1, None, None, None)]),
        ('type: "Input" input_param { shape { dim: 1 dim: 2 } }', "bvlc", [(1, 2)] * 3),
    ],
)
def test_data_layers_say_what_their_files_do_not(
    body: str, dialect: str, tops: list[tuple[int | None, ...]]
) -> None:
    names = " ".join(f'top: "t{i}"' for i in range(len(tops)))
    word = "layers" if dialect == "dl1" else "layer"
    net = parse_net(f'{word} {{ name: "op" {body} {names} }}', dialect=dialect)
    assert [net.inputs[f"t{i}"].shape for i in range(len(tops))] == tops


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_types_left_out_are_refused_by_name(kind: str) -> None:
    dialect = "dl2" if kind in ("DomainTransform", "UniqueLabel") else "bvlc"
    with pytest.raises(CaffeImportError, match=f"layer 'op': {kind}: layer type not supported: "):
        layer(f'type: "{kind}"', (1, 1, 1, 1), dialect=dialect).shapes([(1, 1, 1, 1)])


def test_unknown_types_are_refused() -> None:
    with pytest.raises(CaffeImportError, match="layer 'op': Magic: unknown layer type"):
        make('type: "Magic"', (1, 1, 1, 1))


@pytest.mark.parametrize(
    ("body", "bottoms", "tops", "message"),
    [
        ('type: "ReLU"', 2, 1, "wrong number of bottoms; expected 1, got 2"),
        ('type: "ReLU"', 1, 2, "wrong number of tops; expected 1, got 2"),
        ('type: "Eltwise"', 1, 1, "wrong number of bottoms; expected 2 or more, got 1"),
        ('type: "Scale"', 3, 1, "wrong number of bottoms; expected 1 to 2, got 3"),
        ('type: "Silence"', 1, 1, "wrong number of tops; expected 0, got 1"),
        ('type: "SoftmaxWithLoss"', 1, 1, "wrong number of bottoms; expected 2, got 1"),
    ],
)
def test_wrong_numbers_of_blobs(body: str, bottoms: int, tops: int, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        make(body, *[(1, 1, 1, 1)] * bottoms, tops=tops)


def test_a_loss_without_a_top_gets_one() -> None:
    found = layer('type: "SoftmaxWithLoss"', (2, 3), (2,), tops=0)
    assert found.shapes([(2, 3), (2,)]).tops == [()]


@pytest.mark.parametrize("file", ["layers.h5", "losses.h5"])
def test_recorded_layers_have_the_shapes_that_were_recorded(file: str) -> None:
    with h5py.File(CAFFE / file) as cases:
        for name, case in cases.items():
            if "weight_source" in case.attrs["prototxt"]:
                continue
            net = parse_net(case.attrs["prototxt"], phase="TRAIN")
            op = net["op"]
            found = op.shapes([case["in"][bottom].shape for bottom in op.bottoms])
            assert found.tops == [case["out"][top].shape for top in op.tops], name
            params = case["param/op"] if "param" in case else {}
            assert found.params == [params[i].shape for i in sorted(params)], name


@pytest.mark.parametrize(
    ("body", "bottoms", "tops"),
    [
        ('type: "ArgMax" argmax_param { top_k: 2 out_max_val: true }', [(2, 3, 4, 5)], 1),
        ('type: "ArgMax" argmax_param { axis: -1 top_k: 2 }', [(2, 3, 4, 5)], 1),
        ('type: "BatchReindex"', [(3, 2), (5,)], 1),
        ('type: "Crop" crop_param { axis: 1 }', [(2, 3, 4, 5), (9, 2, 3, 4)], 1),
        ('type: "Embed" embed_param { num_output: 2 input_dim: 3 }', [(2, 4)], 1),
        ('type: "Flatten" flatten_param { axis: 2 }', [(2, 3, 4, 5)], 1),
        ('type: "Im2col" convolution_param { kernel_size: 2 stride: 2 }', [(2, 3, 4, 5)], 1),
        ('type: "Interp" interp_param { zoom_factor: 3 shrink_factor: 2 }', [(2, 3, 4, 5)], 1),
        ('type: "MVN"', [(2, 3)], 1),
        ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 1 }', [(2, 3, 4, 5)], 2),
        ('type: "Reduction" reduction_param { axis: 1 }', [(2, 3, 4, 5)], 1),
        ('type: "Slice" slice_param { axis: -1 slice_point: 1 }', [(2, 3, 4, 5)], 2),
        ('type: "Tile" tile_param { axis: 2 tiles: 3 }', [(2, 3, 4, 5)], 1),
    ],
)
def test_what_is_promised_is_made(body: str, bottoms: list[tuple[int, ...]], tops: int) -> None:
    dialect = "dl2" if "Interp" in body else "bvlc"
    module = make(body, *bottoms, tops=tops, dialect=dialect)
    made = module(*(torch.zeros(shape) for shape in bottoms))
    made = [made] if isinstance(made, torch.Tensor) else made
    assert [tuple(y.shape) for y in made] == module.layer.shapes(bottoms).tops
