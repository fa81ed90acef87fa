"""AtrousConv2d, the module."""

import copy
import math

import pytest
import torch

from deeplab_repro.ops import AtrousConv2d, atrous_conv2d

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")


def test_it_is_the_function_with_its_own_weights():
    layer = AtrousConv2d(4, 6, (3, 2), (2, 1), (1, 2), (3, 2), 2, algorithm="im2col",
                         activation="relu")  # fmt: skip
    x = torch.randn(1, 4, 9, 8)
    expected = atrous_conv2d(
        x, layer.weight, layer.bias, (2, 1), (1, 2), (3, 2), 2, algorithm="im2col",
        activation="relu",
    )  # fmt: skip
    assert layer(x).equal(expected)
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert layer.bias.grad.shape == (6,)
    assert copy.deepcopy(layer)(x).equal(expected)


def test_it_takes_conv2ds_state_dict_and_values():
    theirs = torch.nn.Conv2d(3, 5, 3, padding=2, dilation=2)
    ours = AtrousConv2d(3, 5, 3, padding=2, rate=2)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 8, 7)
    torch.testing.assert_close(ours(x), theirs(x))
    plain = torch.nn.Conv2d(3, 5, 3, bias=False)
    AtrousConv2d(3, 5, 3, bias=False).load_state_dict(plain.state_dict())


def test_reset_parameters_is_conv2ds():
    ours = AtrousConv2d(8, 16, 3, groups=2)
    bound = 1 / math.sqrt(4 * 9)
    for seed in (0, 1):
        torch.manual_seed(seed)
        ours.reset_parameters()
        torch.manual_seed(seed)
        theirs = torch.nn.Conv2d(8, 16, 3, groups=2)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)
            assert bound * 0.8 < a.abs().max() <= bound


def test_repr():
    assert repr(AtrousConv2d(3, 5, 3)) == "AtrousConv2d(3, 5, kernel_size=(3, 3))"
    layer = AtrousConv2d(
        3, 6, 3, 2, 1, (4, 2), 3, False, algorithm="direct", precision="tf32", activation="relu"
    )
    assert repr(layer) == (
        "AtrousConv2d(3, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), rate=(4, 2), "
        "groups=3, algorithm=direct, precision=tf32, activation=relu, bias=False)"
    )


def test_device_and_dtype():
    layer = AtrousConv2d(2, 3, 1, device="meta", dtype=torch.float16)
    assert layer.weight.device.type == "meta"
    assert layer.bias.dtype == torch.float16
    assert AtrousConv2d(2, 3, 1).double()(torch.ones(1, 2, 4, 4).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("rate must be an int >= 1", {"rate": 0}),
        ("kernel_size must be an int >= 1", {"kernel_size": (3, 0)}),
        ("groups must divide 4 channels and 6 filters, got 3", {"groups": 3}),
        ("algorithm must be one of", {"algorithm": "fft"}),
        ("precision must be one of", {"precision": "fp8"}),
        ("activation must be one of", {"activation": "elu"}),
    ],
)
def test_wrong_arguments_are_told_at_once(message, options):
    with pytest.raises(ValueError, match=message):
        AtrousConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options})
