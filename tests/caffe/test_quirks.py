"""What real Caffe does that one would not expect, and what each program refuses."""

from __future__ import annotations

import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from deeplab_repro import load_caffe
from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.caffe.quirks import QuirkWarning
from deeplab_repro.cli import main
from deeplab_repro.parity.agreement import agreement
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import CaffeImportError, parse_net, read_model, write_weights

DATA = 'input: "data" input_shape { dim: 2 dim: 3 dim: 4 dim: 4 } '
CONV = (
    'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {param}'
    " convolution_param {{ num_output: 3 kernel_size: 1"
    ' weight_filler {{ type: "gaussian" }} }} }} '
)
FLATTEN = 'layer { name: "flat" type: "Flatten" bottom: "data" top: "flat" } '


def conv(name: str, bottom: str = "data", param: str = "") -> str:
    return CONV.format(name=name, bottom=bottom, param=param)


def relu(blob: str) -> str:
    return f'layer {{ name: "relu_{blob}" type: "ReLU" bottom: "{blob}" top: "{blob}" }} '


def v1(body: str) -> str:
    return (
        'input: "data" input_dim: 1 input_dim: 4 input_dim: 6 input_dim: 6 '
        f'layers {{ name: "op" bottom: "data" top: "t" {body} }}'
    )


# ------------------------------------------------------------------ gradients of parameters


def test_a_blob_with_lr_mult_0_gets_no_gradient_and_the_input_does() -> None:
    net = load_caffe(parse_net(DATA + conv("a", param="param { lr_mult: 0 } param { lr_mult: 2 }")))
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    net(data=x)["a"].sum().backward()
    weight, bias = net.params["a"]
    assert isinstance(weight, torch.nn.Parameter)
    assert (weight.requires_grad, bias.requires_grad) == (False, True)
    assert weight.grad is None
    assert bias.grad is not None
    assert x.grad is not None
    weight.requires_grad_()
    net(data=x)["a"].sum().backward()
    assert weight.grad is not None


def test_force_backward_computes_every_gradient() -> None:
    net = load_caffe(
        parse_net("force_backward: true " + DATA + conv("a", param="param { lr_mult: 0 }"))
    )
    assert net.params["a"][0].requires_grad


@pytest.mark.parametrize("frozen_first", [True, False])
def test_a_shared_blob_gets_its_gradient_from_the_layers_that_ask(frozen_first: bool) -> None:
    shared = ['param { name: "w" lr_mult: 0 } ', 'param { name: "w" } ']
    first, second = shared if frozen_first else shared[::-1]
    net = load_caffe(parse_net(DATA + conv("a", param=first) + conv("b", "a", second)))
    x = torch.randn(2, 3, 4, 4)
    blobs = net.blobs(data=x)
    blobs["b"].sum().backward()
    weight = net.params["a"][0]
    # By hand: what layer "b" sends to the weight, or what layer "a" does.
    w = weight.detach().view(3, 3)
    if frozen_first:
        expected = blobs["a"].detach().sum((0, 2, 3)).expand(3, 3)
    else:
        expected = torch.outer(w.sum(0), x.sum((0, 2, 3)))
    torch.testing.assert_close(weight.grad.view(3, 3), expected)


def test_the_program_of_2014_asks_for_rates_above_0() -> None:
    one_by_one = "convolution_param { num_output: 2 kernel_size: 1 }"
    text = v1(f"type: CONVOLUTION blobs_lr: -1 blobs_lr: 1 {one_by_one}")
    net = load_caffe(parse_net(text, dialect="dl1"))
    assert [blob.requires_grad for blob in net.params["op"]] == [False, True]


# ------------------------------------------------------------------ faults, and their switch


def exp_net(dialect: str | None, **options: bool) -> torch.Tensor:
    text = DATA + 'layer { name: "e" type: "Exp" bottom: "data" top: "e" exp_param { shift: 3 } }'
    net = load_caffe(parse_net(text, dialect=dialect), **options)
    return net(data=torch.zeros(2, 3, 4, 4))["e"]


def test_exp_with_a_shift_multiplies_by_a_power_of_minus_one_in_the_forks() -> None:
    with pytest.warns(QuirkWarning, match=r"layer 'e': Exp: .*quirks=False \(--no-quirks\)"):
        assert exp_net("dl2").unique().item() == -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert exp_net("dl2", quirks=False).unique().item() == pytest.approx(np.exp(3))
        assert exp_net("bvlc").unique().item() == pytest.approx(np.exp(3))


def test_a_file_of_several_dialects_gives_what_was_meant_and_names_the_switch() -> None:
    with pytest.warns(QuirkWarning, match='dialect="dl2"'):
        assert exp_net(None).unique().item() == pytest.approx(np.exp(3))


def test_one_warning_a_fault() -> None:
    norm = 'layer {{ name: "{0}" type: "BatchNorm" bottom: "data" top: "{0}" }} '
    text = DATA + norm.format("a") + norm.format("b")
    with pytest.warns(QuirkWarning) as caught:
        load_caffe(parse_net(text, phase="TRAIN", dialect="dl2"))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_caffe(parse_net(text, dialect="dl2"))  # TEST: the global statistics


# ------------------------------------------------------------------ shared memory


def test_an_in_place_layer_overwrites_what_shares_its_memory() -> None:
    """Flatten's top is its bottom's memory: the ReLU changes both, and conv reads what it left."""
    net = load_caffe(parse_net(DATA + FLATTEN + relu("flat") + conv("c"), dialect="bvlc"))
    x = torch.randn(2, 3, 4, 4)
    with pytest.warns(QuirkWarning, match="memory") as caught:
        net = load_caffe(net.net, None)
    assert len(caught) == 1
    with torch.no_grad():
        blobs = net.blobs(data=x)
        weight, bias = net.params["c"]
        assert torch.equal(blobs["data"], x.relu())
        expected = torch.nn.functional.conv2d(x.relu(), weight, bias)
        torch.testing.assert_close(blobs["c"], expected)
        torch.testing.assert_close(net(data=x)["c"], expected)
        torch.testing.assert_close(net.fuse()(data=x)["c"], expected)
        meant = load_caffe(net.net, quirks=False)
        assert torch.equal(meant.blobs(data=x)["data"], x)
    assert float(x.min()) < 0, "the caller's tensor stays as it was"


def test_a_dropout_of_the_test_phase_overwrites_nothing() -> None:
    dropout = 'layer { name: "drop" type: "Dropout" bottom: "flat" top: "flat" } '
    net = parse_net(DATA + FLATTEN + dropout + conv("c"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_caffe(net)
    with pytest.warns(QuirkWarning, match="memory"):
        load_caffe(parse_net(DATA + FLATTEN + dropout + conv("c"), "TRAIN"))


def test_the_gradient_through_overwritten_memory_is_each_readers_own() -> None:
    with pytest.warns(QuirkWarning):
        net = load_caffe(parse_net(DATA + FLATTEN + relu("flat") + conv("c"), dialect="bvlc"))
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    net(data=x)["c"].sum().backward()
    # conv's bottom diff goes straight to the input: no ReLU lies on its way.
    expected = net.params["c"][0].detach().sum(0).expand(2, -1, 4, 4)
    torch.testing.assert_close(x.grad, expected)


# ------------------------------------------------------------------ sizes, levels, losses


def test_interp_keeps_a_constant_map_exactly() -> None:
    for value in (1.0, 15.0, 255.0, 0.1):
        x = torch.full((1, 2, 5, 7), value)
        for size in ((13, 19), (3, 50), (1, 1), (33, 49)):
            assert torch.equal(align_corners(x, *size), torch.full((1, 2, *size), value))


@pytest.mark.parametrize("size", [(5, 7), (33, 49), (3, 3), (1, 1), (13, 19), (17, 2), (9, 37)])
def test_interp_is_torch_with_aligned_corners(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    ours = align_corners(x, *size)
    assert torch.equal(align_corners(x.detach(), *size), ours)
    theirs = torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=True)
    grads = [torch.autograd.grad(y.square().sum(), x)[0].numpy() for y in (ours, theirs)]
    assert agreement(ours.detach().numpy(), theirs.detach().numpy()).within(AGREEMENT["caffe"])
    assert agreement(*grads).within(AGREEMENT["caffe"])


@pytest.mark.parametrize(
    ("dialect", "given", "there"),
    [("bvlc", 0, False), ("bvlc", 5, True), ("dl2", 0, True), ("dl2", 5, True)],
)
def test_the_level_of_the_file_is_replaced_in_bvlc(dialect: str, given: int, there: bool) -> None:
    text = "state { level: 3 } " + DATA + conv("a", param="include { min_level: 2 }")
    net = parse_net(text, dialect=dialect, level=given)
    assert bool(net.layers) is there


LOSSES = (
    'input: "x" input_shape { dim: 2 dim: 3 } input: "y" input_shape { dim: 2 dim: 3 } '
    'layer { name: "a" type: "EuclideanLoss" bottom: "x" bottom: "y" } '
    'layer { name: "b" type: "EuclideanLoss" bottom: "x" bottom: "y" loss_weight: 10 } '
)


def test_losses_without_a_top() -> None:
    net = load_caffe(parse_net(LOSSES))
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    assert net.outputs == []
    for result in (net(x=x, y=y), net.blobs(x=x, y=y)):
        assert float(net.loss(result)) == pytest.approx(11 * 1.5)
    assert dict(net(x=x, y=y)) == {}
    assert float(net.blobs(x=x, y=y)["(automatic)"]) == pytest.approx(1.5)
    with pytest.raises(CaffeImportError, match="what the network returned"):
        net.loss({})


def test_permissive_sharing_lists_a_view_in_each_layers_shape() -> None:
    product = (
        'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}"'
        ' param {{ name: "w" share_mode: PERMISSIVE }}'
        " inner_product_param {{ num_output: {2} bias_term: false axis: {3}"
        ' weight_filler {{ type: "gaussian" }} }} }} '
    )
    text = 'input: "data" input_shape { dim: 2 dim: 6 } '
    net = load_caffe(
        parse_net(text + product.format("a", "data", 4, 1) + product.format("b", "a", 6, 1))
    )
    first, second = net.params["a"][0], net.params["b"][0]
    assert (tuple(first.shape), tuple(second.shape)) == ((4, 6), (6, 4))
    assert second.data_ptr() == first.data_ptr()
    net(data=torch.ones(2, 6))["b"].sum().backward()
    assert first.grad is not None
    assert [name for name, _ in net.named_parameters()] == ["layers.a.0", "layers.b.0"][:1]


# ------------------------------------------------------------------ what is refused, and what not

WEAK = (
    'layers {{ name: "weak" type: UNIQUE_LABEL bottom: "data" top: "w" {0}'
    " unique_label_param {{ ignore_label: 255 }} }}"
)


def test_a_layer_of_the_weakly_supervised_fork_is_refused_by_name() -> None:
    text = 'input: "data" input_dim: 1 input_dim: 4 input_dim: 6 input_dim: 6 '
    with pytest.raises(CaffeImportError, match="layer 'weak': UniqueLabel: layer type not supp"):
        load_caffe(parse_net(text + WEAK.format("")))
    net = load_caffe(parse_net(text + WEAK.format("include { phase: TRAIN }")))
    assert not net.net.layers


WINDOW = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 "
BARE = "convolution_param { num_output: 4 kernel_size: 3 "


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("type: CONVOLUTION " + WINDOW + "hole_h: 2 }", "hole_h and hole_w"),
        ("type: CONVOLUTION " + WINDOW + "hole: 2 hole_h: 3 hole_w: 3 }", "hole_h and hole_w"),
        ("type: CONVOLUTION " + BARE + "pad_h: 1 }", "pad_h"),
        (
            "type: CONVOLUTION " + BARE + "stride_w: 1 }",
            "stride",
        ),
        ("type: CONVOLUTION blobs_lr: 1 " + WINDOW + "}", "for all blobs or none"),
        ('type: CONVOLUTION param: "w" ' + WINDOW + "}", "for all blobs or none"),
        ('type: CONVOLUTION param: "w" blobs_lr: 1 blobs_lr: 2 ' + WINDOW + "}", "all blobs"),
        ("type: CONCAT", "single bottom"),
        ('type: SOFTMAX_LOSS bottom: "data" top: "p"', "too many tops"),
    ],
)
def test_what_the_v1_fork_refuses(body: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message) as error:
        load_caffe(parse_net(v1(body), dialect="dl1"))
    assert error.value.layer == "op"


@pytest.mark.parametrize("kind", ["Flatten", "Reshape", "AbsVal"])
def test_what_caffe_does_not_do_in_place(kind: str) -> None:
    """flatten_layer.cpp, reshape_layer.cpp, absval_layer.cpp: CHECK_NE(top[0], bottom[0])."""
    text = DATA + f'layer {{ name: "f" type: "{kind}" bottom: "data" top: "data" }}'
    with pytest.raises(CaffeImportError, match=f"layer 'f': {kind}: cannot work in place"):
        parse_net(text)


# ------------------------------------------------------------------ for users of the module


def test_a_network_with_one_input_takes_it_without_its_name() -> None:
    net = load_caffe(parse_net(DATA + conv("a")))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(net(x)["a"], net(data=x)["a"])
    assert torch.equal(net.blobs(x)["a"], net(data=x)["a"])
    with pytest.raises(CaffeImportError, match=r"net\(x=..., y=...\)"):
        load_caffe(parse_net(LOSSES))(x)
    with pytest.raises(CaffeImportError, match="by name"):
        net(x, data=x)


@pytest.mark.parametrize("fused", [False, True])
def test_a_network_can_be_pickled(fused: bool, tmp_path) -> None:
    net = load_caffe(parse_net(DATA + conv("a") + relu("a")))
    net = net.fuse() if fused else net
    x = torch.randn(2, 3, 4, 4)
    torch.save(net, tmp_path / "net.pt")
    for again in (
        pickle.loads(pickle.dumps(net)),
        torch.load(tmp_path / "net.pt", weights_only=False),
    ):
        assert torch.equal(again(data=x)["a"], net(data=x)["a"])
        assert again.net["a"].num_output == 3


def test_the_command_line_computes_faults_or_what_was_meant(tmp_path) -> None:
    text = DATA + 'layer { name: "e" type: "Exp" bottom: "data" top: "e" exp_param { shift: 3 } }'
    (tmp_path / "net.prototxt").write_text(text)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 4), np.float32))
    for switch, value in (("--quirks", -1.0), ("--no-quirks", np.exp(3))):
        arguments = ["activations", str(tmp_path / "net.prototxt"), "--dialect", "dl2", switch]
        arguments += ["--input", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.h5")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(SystemExit) as end:
                main(arguments)
        assert end.value.code == 0
        with h5py.File(tmp_path / "out.h5") as file:
            assert file["blobs/e"][0, 0, 0, 0] == pytest.approx(value)


@pytest.mark.parametrize("convert_again", [False, True])
def test_a_conversion_does_not_settle_what_its_file_left_open(tmp_path, convert_again) -> None:
    """The file reads the same in bvlc and dl2, so that neither form computes the v2 fork's Exp."""
    text = (
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"'
        " inner_product_param { num_output: 1 } } "
        'layer { name: "e" type: "Exp" bottom: "ip" top: "e" exp_param { shift: 1 } } '
    )
    path = tmp_path / "e.safetensors"
    weights = {"ip": [np.ones((1, 48), np.float32), np.zeros(1, np.float32)]}
    write_weights(path, weights, parse_net(DATA + text))
    if convert_again:
        model = read_model(path)
        write_weights(path, model.weights, model.raw)
    x = torch.zeros(2, 3, 4, 4)
    with pytest.warns(QuirkWarning, match='dialect="dl2"'):
        meant = load_caffe(path)(x)["e"]
    assert torch.equal(meant, torch.full((2, 1), 1.0).exp())
    with pytest.warns(QuirkWarning, match="computed here"):
        fork = load_caffe(path, dialect="dl2")(x)["e"]
    assert not torch.allclose(fork, meant)


@pytest.mark.parametrize("recorded", ["{", '"bvlc"', '["dl3"]', "[[]]"])
def test_a_damaged_list_of_dialects_is_refused(tmp_path, recorded) -> None:
    path = tmp_path / "n.safetensors"
    metadata = {
        "caffe.prototxt": DATA,
        "caffe.dialect": "bvlc",
        "caffe.layers": "[]",
        "caffe.alternatives": recorded,
    }
    save_file({}, path, metadata)
    with pytest.raises(CaffeImportError, match="dialect"):
        load_caffe(path)
