"""How layers hold their parameters: names, shapes, values from files, sharing, fillers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deeplab_repro.caffe.layers import LAYERS
from deeplab_repro.caffe.layers.fillers import fill
from prototxt_import import CaffeImportError
from prototxt_import.layers import KINDS, Filler
from prototxt_import.schema import unified
from tests.caffe.layers.one_layer import layer, make, run, shaped

CONV = 'type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 }'


def test_every_type_that_has_shapes_has_a_module() -> None:
    assert LAYERS.keys() == KINDS.keys()


def test_blobs_are_registered_by_number() -> None:
    module = make(CONV, (1, 3, 5, 5))
    assert [name for name, _ in module.named_parameters()] == ["0", "1"]
    assert all(isinstance(blob, nn.Parameter) for blob in module.blobs)
    assert module.state_dict().keys() == {"0", "1"}


def test_a_blob_waits_for_its_weights_where_sizes_are_unknown() -> None:
    module = shaped(layer(CONV, (1, 3, 5, 5)), [(None, None, None, None)])
    assert not module.has_blob(0)
    assert module.has_blob(1)
    with pytest.raises(CaffeImportError, match="layer 'op': Convolution: parameter 0 is missing"):
        module(torch.ones(1, 3, 5, 5))
    module.set_blob(0, torch.ones(2, 3, 3, 3))
    assert module(torch.ones(1, 3, 3, 3)).flatten().tolist() == [27, 27]


@pytest.mark.parametrize("shape", [(2,), (1, 1, 1, 2), (1, 2)])
def test_leading_axes_of_one_may_differ_from_the_file(shape: tuple[int, ...]) -> None:
    module = make(CONV, (1, 3, 5, 5))
    before = module.blobs[1]
    module.set_blob(1, torch.tensor([7.0, 8.0]).reshape(shape))
    assert module.blobs[1] is before
    assert before.tolist() == [7, 8]


def test_wrong_shapes_are_refused() -> None:
    module = make(CONV, (1, 3, 5, 5))
    with pytest.raises(CaffeImportError, match="expected 2x3x3x3, got 2x3x5x5"):
        module.set_blob(0, torch.ones(2, 3, 5, 5))
    with pytest.raises(CaffeImportError, match="no such parameter"):
        module.set_blob(2, torch.ones(1))
    waiting = shaped(layer(CONV, (1, 3, 5, 5)), [(None, None, 5, 5)])
    with pytest.raises(CaffeImportError, match=r"expected 2x\?x3x3, got 4x3x3x3"):
        waiting.set_blob(0, torch.ones(4, 3, 3, 3))


def test_a_shared_parameter_is_one_tensor() -> None:
    first, second = make(CONV, (1, 3, 5, 5)), make(CONV, (1, 3, 5, 5))
    second.share_blob(0, first.blobs[0])
    assert second.blobs[0] is first.blobs[0]
    first.set_blob(0, torch.ones(2, 3, 3, 3))
    x = torch.ones(1, 3, 3, 3)
    (first(x) + 2 * second(x)).sum().backward()
    assert (first.blobs[0].grad == 3).all()


def test_a_shared_parameter_may_have_another_shape() -> None:
    product = 'type: "InnerProduct" inner_product_param { num_output: 2 bias_term: false }'
    first, second = make(product, (1, 6)), make(product.replace("2", "3"), (1, 4))
    first.set_blob(0, torch.arange(12.0).reshape(2, 6))
    second.share_blob(0, first.blobs[0])
    assert second.registered(0) is first.registered(0)
    assert second.blobs[0].shape == (3, 4)
    assert second(torch.ones(1, 4)).tolist() == [[6, 22, 38]]


def test_shared_statistics_are_one_buffer() -> None:
    body = 'type: "BatchNorm" batch_norm_param { eps: 1 }'
    first, second = make(body, (1, 1, 1, 1)), make(body, (1, 1, 1, 1))
    for i in range(3):
        second.share_blob(i, first.blobs[i])
    first.set_blob(0, torch.tensor([3.0]))
    first.set_blob(2, torch.tensor([1.0]))
    assert second(torch.ones(1, 1, 1, 1)).item() == -2
    assert not list(second.parameters())


def filled(words: str, shape: tuple[int, ...], is_legacy: bool = False) -> torch.Tensor:
    from google.protobuf import text_format

    filler = text_format.Parse(words, unified("FillerParameter")())
    torch.manual_seed(0)
    return fill(torch.empty(shape), Filler.read(filler), is_legacy=is_legacy)


@pytest.mark.parametrize(
    ("words", "low", "high", "mean", "deviation"),
    [
        ("value: 3", 3, 3, 3, 0),
        ('type: "uniform" min: -1 max: 3', -1, 3, 1, 4 / math.sqrt(12)),
        ('type: "gaussian" mean: 5 std: 2', None, None, 5, 2),
        # fan in 25 * 40, fan out 25 * 20.
        ('type: "xavier"', -math.sqrt(3e-3), math.sqrt(3e-3), 0, math.sqrt(1e-3)),
        ('type: "xavier" variance_norm: FAN_OUT', None, None, 0, math.sqrt(1 / 500)),
        ('type: "xavier" variance_norm: AVERAGE', None, None, 0, math.sqrt(1 / 750)),
        ('type: "msra"', None, None, 0, math.sqrt(2e-3)),
        ('type: "msra" variance_norm: FAN_OUT', None, None, 0, math.sqrt(2 / 500)),
    ],
)
def test_fillers(
    words: str, low: float | None, high: float | None, mean: float, deviation: float
) -> None:
    x = filled(words, (20, 40, 5, 5)).double()
    assert float(x.mean()) == pytest.approx(mean, abs=0.02 * (1 + abs(mean)))
    assert float(x.std(correction=0)) == pytest.approx(deviation, rel=0.03)
    if low is not None and high is not None:
        margin = 0.01 * (high - low)
        assert low - 1e-9 <= float(x.min()) <= low + margin
        assert high - margin <= float(x.max()) <= high + 1e-9


def test_a_sparse_gaussian_keeps_that_many_weights_an_output() -> None:
    # 4 in 100 outputs: the share of weights that are not 0 is 4 %.
    dense = filled('type: "gaussian" sparse: 4', (100, 1000)) != 0
    assert float(dense.float().mean()) == pytest.approx(0.04, rel=0.05)
    legacy = filled('type: "gaussian" sparse: 4', (1, 1, 100, 1000), is_legacy=True) != 0
    assert float(legacy.float().mean()) == pytest.approx(0.04, rel=0.05)


@pytest.mark.slow
def test_positive_unitball_adds_up_to_one_an_item() -> None:
    x = filled('type: "positive_unitball"', (4, 3, 5, 5))
    assert bool((x >= 0).all())
    torch.testing.assert_close(x.flatten(1).sum(1), torch.ones(4))


@pytest.mark.slow
def test_bilinear() -> None:
    # Size 4: factor 2, centre 0.75: 1 - |i / 2 - 0.75| = 1/4, 3/4, 3/4, 1/4.
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(filled('type: "bilinear"', (2, 1, 4, 4))[1, 0], torch.outer(ramp, ramp))
    # Size 3: factor 2, centre 0.75.
    ramp = torch.tensor([0.25, 0.75, 0.75])
    assert torch.equal(filled('type: "bilinear"', (1, 1, 3, 3))[0, 0], torch.outer(ramp, ramp))
    # Size 5, for a stride of 3: factor 3, centre 2/3.
    ramp = torch.tensor([1.0, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(filled('type: "bilinear"', (1, 1, 5, 5))[0, 0],
                               torch.outer(ramp, ramp))  # fmt: skip


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        ('type: "magic"', (1,), "unknown filler"),
        ('type: "bilinear"', (1, 1, 3, 4), "square kernel"),
        ('type: "xavier" sparse: 3', (4, 4), "cannot be sparse"),
    ],
)
def test_fillers_refused(words: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        filled(words, shape)


def test_dummy_data() -> None:
    body = (
        'type: "DummyData" dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 1000 }'
        ' data_filler { value: 7 } data_filler { type: "gaussian" } }'
    )
    module = make(body, tops=2)
    constant, random = module()
    assert constant.tolist() == [[7] * 3] * 2
    again = module()
    assert again[0] is not constant  # layers further on may work in place
    assert not torch.equal(random, again[1])
    assert module.state_dict() == {}


def test_dummy_data_of_old_files_has_zeros() -> None:
    body = 'type: "DummyData" dummy_data_param { num: 2 channels: 3 height: 1 width: 4 }'
    assert run(body, tops=2)[1].shape == (2, 3, 1, 4)
    assert float(run(body).abs().sum()) == 0


def test_parameter_is_learned() -> None:
    module = make('type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }')
    module().sum().backward()
    assert module.blobs[0].grad.tolist() == [[1] * 3] * 2


@pytest.mark.slow
def test_layers_compile_without_breaking_the_graph() -> None:
    bodies = [
        CONV,
        'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 1 }',
        'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 pad: 1 }',
        'type: "ReLU"',
        'type: "Dropout"',
        'type: "Softmax"',
        'type: "Flatten"',
        'type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }',
        'type: "Interp" interp_param { zoom_factor: 8 }',
    ]
    x = torch.randn(1, 3, 7, 7)
    for body in bodies:
        module = make(body, x.shape, dialect="dl2" if "Interp" in body else "bvlc")
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), module(x))
