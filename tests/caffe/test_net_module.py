"""The graph as a module: what Caffe's net.cpp does around the layers."""

from __future__ import annotations

import copy
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab_repro import CaffeImportError, load_caffe
from prototxt_import import parse_net, read_weights, write_weights

DATA = Path(__file__).parents[1] / "data" / "caffe"
INPUT = 'input: "data" input_shape { dim: 1 dim: 2 dim: 4 dim: 5 } '


def conv(name, bottom="data", outputs=2, extra=""):
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {extra}'
        f" convolution_param {{ num_output: {outputs} kernel_size: 1"
        ' weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 } } } '
    )


def simple(name, type_, bottom, top=None, extra=""):
    top = top or name
    return f'layer {{ name: "{name}" type: "{type_}" bottom: "{bottom}" top: "{top}" {extra} }} '


def net_of(text, phase="TEST"):
    return load_caffe(parse_net(INPUT + text, phase))


X = torch.linspace(-3, 3, 40).reshape(1, 2, 4, 5)


# ---------------------------------------------------------------- blobs


def test_blobs_hold_the_last_value_written():
    net = net_of(conv("c") + simple("r", "ReLU", "c", "c") + simple("p", "Power", "c"))
    blobs = net.blobs(data=X)
    assert list(blobs) == ["data", "c", "p"]
    assert (blobs["c"] >= 0).all()
    assert (blobs["c"] == 0).any()
    assert torch.equal(blobs["p"], blobs["c"])
    assert torch.equal(net(data=X)["p"], blobs["p"])
    assert list(net(data=X)) == net.outputs == ["p"]


@pytest.mark.parametrize("grad", [True, False])
def test_an_input_is_never_overwritten(grad):
    net = net_of(simple("r", "ReLU", "data", "data") + simple("p", "Power", "data"))
    x = X.clone()
    with torch.set_grad_enabled(grad):
        blobs = net.blobs(data=x)
    assert torch.equal(x, X)
    assert (blobs["data"] >= 0).all()  # the blob is, as in Caffe


@pytest.mark.parametrize("grad", [True, False])
def test_in_place_layers_spare_what_others_see(grad):
    """Flatten and Split hand out views; as meant, an earlier reader keeps what it read."""
    text = (
        conv("c")
        + 'layer { name: "s" type: "Split" bottom: "c" top: "a" top: "b" } '
        + simple("r", "ReLU", "a", "a")
        + conv("d")
        + simple("f", "Flatten", "d")
        + simple("rd", "ReLU", "d", "d")
    )
    net = load_caffe(parse_net(INPUT + text), quirks=False)
    with torch.set_grad_enabled(grad):
        blobs = net.blobs(data=X)
    assert torch.equal(blobs["a"], blobs["b"].clamp(min=0))
    assert (blobs["b"] < 0).any()
    assert (blobs["f"] < 0).any()
    assert torch.equal(blobs["d"].flatten(1), blobs["f"].clamp(min=0))


def test_in_place_layers_do_overwrite_where_nobody_looks():
    net = net_of(conv("c") + simple("r", "ReLU", "c", "c"))
    assert [step.overwrites for step in net._steps] == [False, True]


LEAKY = simple("r", "ReLU", "c", "c", "relu_param { negative_slope: SLOPE }")
POOL = 'layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 } } '
PRODUCT = (
    conv("c")
    + conv("d")
    + (
        'layer { name: "p" type: "Eltwise" bottom: "c" bottom: "d" top: "p"'
        " eltwise_param { operation: PROD } } "
    )
)


@pytest.mark.parametrize(
    ("text", "blob", "in_place"),
    [
        (conv("c") + simple("r", "ReLU", "c", "c"), "c", True),
        # The scale's gradient reads its bottom, the ReLU's its top: two layers in one memory.
        (conv("c") + simple("s", "Scale", "c", "c") + simple("r", "ReLU", "c", "c"), "c", True),
        (conv("c") + LEAKY.replace("SLOPE", "0.1"), "c", True),
        (conv("c") + LEAKY.replace("SLOPE", "-1"), "c", False),
        # Their gradients read what they returned, or nobody has said that they do not.
        (conv("c") + simple("s", "Sigmoid", "c", "c") + simple("r", "ReLU", "c", "c"), "c", False),
        (conv("c") + POOL + simple("r", "ReLU", "p", "p"), "p", False),
        (PRODUCT + simple("r", "ReLU", "p", "p"), "p", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("algorithm", ["library", "direct"])
def test_a_relu_overwrites_under_gradients_what_no_gradient_reads(
    text, blob, in_place, order, algorithm
):
    net = net_of(text, "TRAIN").to(memory_format=order)
    net.set_algorithm(algorithm)
    seen = []
    net.layers.get_submodule("r").register_forward_hook(
        lambda module, bottoms, top: seen.append(bottoms[0].data_ptr() == top.data_ptr())
    )
    x = X.clone(memory_format=order).requires_grad_()
    out = net(data=x)[blob]
    out.square().sum().backward()
    assert seen == [in_place]
    grads = [x.grad, *(p.grad.clone() for p in net.parameters())]
    for step in net._steps:
        object.__setattr__(step, "learns_inplace", False)
    net.zero_grad()
    apart = X.clone(memory_format=order).requires_grad_()
    net(data=apart)[blob].square().sum().backward()
    assert seen == [in_place, False]
    expected = [apart.grad, *(p.grad for p in net.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
    assert x.grad.abs().max() > 0


def test_a_layer_without_tops_runs_under_gradients_and_when_blobs_are_kept():
    net = net_of(conv("c") + 'layer { name: "s" type: "Silence" bottom: "c" }', "TRAIN")
    assert list(net.blobs(data=X)) == ["data", "c"]


def test_what_a_checkpoint_remembers_is_not_overwritten():
    """A leaky ReLU that began a part and overwrote its bottom would be computed twice over it."""
    net = net_of(conv("c") + LEAKY.replace("SLOPE", "0.1") + simple("p", "Power", "c"), "TRAIN")
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(data=x)["p"].square().sum(), x)
    net.checkpointing = True
    net(data=x)
    net._parts = [[step] for step in net._steps]
    (grad,) = torch.autograd.grad(net(data=x)["p"].square().sum(), x)
    assert torch.equal(grad, expected)


def test_blobs_are_freed_after_their_last_reader():
    net = net_of(conv("a") + conv("b", "a") + simple("s", "Power", "b") + conv("c", "s"))
    alive = []
    refs = []

    def watch(module, bottoms, top):
        refs.append(weakref.ref(top))
        alive.append(sum(ref() is not None for ref in refs))

    for module in net.layers.children():
        module.register_forward_hook(watch)
    with torch.no_grad():
        net(data=X)
    assert max(alive) == 2
    with torch.no_grad():
        alive.clear(), refs.clear()
        blobs = net.blobs(data=X)
    assert max(alive) == len(blobs) - 1  # all but the input


def test_shapes_other_than_declared():
    net = net_of(conv("c"))
    x = torch.randn(3, 2, 7, 9)
    assert net(data=x)["c"].shape == (3, 2, 7, 9)
    with pytest.raises(CaffeImportError, match="layer 'c'"):
        net(data=torch.randn(1, 5, 4, 4))


def test_inputs_by_any_name_and_from_numpy():
    net = load_caffe(parse_net(INPUT.replace("data", "in") + simple("r", "ReLU", "in")))
    ours = net(**{"in": X.numpy()})["r"]
    assert torch.equal(ours, X.clamp(min=0))
    assert net_of(conv("c"))(data=np.ones((1, 2, 3, 3), np.uint8))["c"].dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'data' is missing"),
        ({"data": X, "label": X}, "unknown input 'label'"),
        ({"data": X[0]}, "input 'data' lacks an axis, perhaps the first"),
        ({"data": X.double()}, "input 'data' holds numbers of another type than the weights"),
    ],
)
def test_wrong_inputs(inputs, message):
    with pytest.raises(CaffeImportError, match=message):
        net_of(conv("c"))(**inputs)


def test_gradients_flow_to_inputs_and_parameters():
    net = net_of(conv("c") + simple("r", "ReLU", "c", "c") + simple("p", "Power", "c"))
    x = X.clone().requires_grad_()
    net.blobs(data=x)["p"].sum().backward()
    weight, bias = net.params["c"]
    assert weight.grad is not None
    assert bias.grad.shape == bias.shape
    assert x.grad.abs().sum() > 0


# ---------------------------------------------------------------- data layers, losses, phases

TRAINING = (
    'layer { name: "d" type: "ImageSegData" top: "data" top: "label" image_data_param '
    '{ source: "l" batch_size: 1 label_type: PIXEL } } '
    + conv("c", outputs=3, extra="")
    + simple("drop", "Dropout", "c", "c")
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "loss"'
    " loss_weight: 0.5 } "
    + 'layer { name: "mean" type: "Reduction" bottom: "c" top: "mean" loss_weight: 2 } '
)


def test_without_labels_the_rest_of_the_network_runs():
    net = load_caffe(parse_net(TRAINING))
    assert net.inputs == ["data", "label"]
    assert set(net(data=torch.randn(1, 3, 4, 5))) == {"mean"}
    with pytest.raises(CaffeImportError, match="its top 'loss' is not among the blobs"):
        net.loss(net(data=torch.randn(1, 3, 4, 5)))


def test_a_picture_runs_through_a_net_that_was_trained_on_batches():
    """The labels' declared batch must not matter where no labels are given."""
    net = load_caffe(next((DATA / "train_sgd_poly").glob("*.caffemodel")))
    assert net.net.inputs["label"].shape[0] == 2
    blobs = net.blobs(data=torch.randn(1, 3, 33, 41))
    assert "loss" not in blobs
    assert blobs["conv1_1"].shape[0] == 1


def test_the_objective_weighs_the_losses_and_forward_does_not():
    net = load_caffe(parse_net(TRAINING))
    x, label = torch.randn(1, 3, 4, 5), torch.randint(0, 3, (1, 1, 4, 5)).float()
    out = net(data=x, label=label)
    assert torch.allclose(net.loss(out), 0.5 * out["loss"] + 2 * out["mean"])
    plain = net_of(conv("c"))
    with pytest.raises(CaffeImportError, match="no loss"):
        plain.loss({})


def test_phases():
    x = torch.randn(1, 3, 4, 5)
    test = load_caffe(parse_net(TRAINING, "TEST"))
    train = load_caffe(parse_net(TRAINING, "TRAIN"))
    assert not test.training
    assert train.training
    assert torch.equal(test.blobs(data=x)["c"], test.blobs(data=x)["c"])
    assert (train.blobs(data=x)["c"] == 0).any()  # dropout
    assert not (test.blobs(data=x)["c"] == 0).any()


# ---------------------------------------------------------------- parameters


def test_params_in_caffes_order_and_shapes():
    v2 = load_caffe(DATA / "largefov_v2_w8" / "deploy.prototxt")
    assert [tuple(p.shape) for p in v2.params["conv1_1"]] == [(8, 3, 3, 3), (8,)]
    v1 = load_caffe(DATA / "largefov_v1_w8" / "deploy.prototxt")
    assert [tuple(p.shape) for p in v1.params["conv1_1"]] == [(8, 3, 3, 3), (1, 1, 1, 8)]


@pytest.mark.parametrize("name", ["largefov_v1_w8", "resnet101_msc_w16"])
def test_params_are_the_files_weights_bit_for_bit(name):
    net = load_caffe(DATA / name / "weights.caffemodel")
    weights = read_weights(DATA / name / "weights.caffemodel")
    params = net.params
    assert params.keys() == weights.keys()
    for layer, blobs in weights.items():
        for ours, theirs in zip(params[layer], blobs, strict=True):
            assert ours.shape == theirs.shape
            assert ours.detach().numpy().tobytes() == theirs.tobytes()


@pytest.mark.slow
def test_shared_parameters_are_one_tensor():
    net = load_caffe(DATA / "resnet101_msc_w16" / "weights.caffemodel")
    for layer in ("conv1", "bn_conv1", "scale_conv1"):
        for own, shared in zip(net.params[layer], net.params[f"{layer}_res05"], strict=True):
            assert own is shared
    count = sum(p.numel() for p in net.parameters())
    single = sum(
        p.numel()
        for layer, blobs in net.params.items()
        if not layer.endswith(("_res05", "_res075")) and "_res05_" not in layer
        and "_res075_" not in layer
        for p in blobs
        if isinstance(p, torch.nn.Parameter)
    )  # fmt: skip
    assert count == single


def test_shared_gradients_add_up():
    share = 'param { name: "w" } param { name: "b" }'
    net = net_of(conv("a", extra=share) + conv("b", "a", extra=share))
    net(data=X)["b"].sum().backward()
    both = net.params["a"][0].grad
    assert net.params["b"][0].grad is both
    assert both.abs().sum() > 0


def test_sharing_needs_equal_shapes_unless_permissive():
    text = conv("a", extra='param { name: "w" }') + conv("b", "a", 4, 'param { name: "w" }')
    with pytest.raises(CaffeImportError, match="layer 'b': shares parameter 'w' with layer 'a'"):
        net_of(text)
    permissive = (
        conv("a", outputs=6, extra='param { name: "w" }')
        + 'layer { name: "b" type: "Convolution" bottom: "a" top: "b" param { name: "w" '
        "share_mode: PERMISSIVE } convolution_param { num_output: 2 kernel_size: 1 } }"
    )
    net = net_of(permissive)
    assert net(data=X)["b"].shape == (1, 2, 4, 5)
    weight = net.params["a"][0]
    expected = torch.einsum("nchw,kc->nkhw", net.blobs(data=X)["a"], weight.reshape(2, 6))
    assert torch.allclose(net(data=X)["b"], expected, atol=1e-6)


def test_of_differing_copies_the_last_in_the_file_wins_with_a_warning(tmp_path):
    share = 'param { name: "w" } param { name: "b" }'
    net = parse_net(INPUT + conv("a", extra=share) + conv("b", extra=share))
    ones, twos = (np.full((2, 2, 1, 1), v, np.float32) for v in (1, 2))
    bias = np.zeros(2, np.float32)
    path = tmp_path / "w.caffemodel"
    write_weights(path, {"a": [ones, bias], "b": [twos, bias]}, net)
    with pytest.warns(UserWarning, match="'a' and 'b' share blob 0"):
        module = load_caffe(net, path)
    assert (module.params["a"][0] == 2).all()


def test_missing_weights_are_said():
    net = net_of(conv("a") + conv("b", "a"))
    before = net.params["b"][0].clone()
    weights = {"a": [np.ones((2, 2, 1, 1), np.float32), np.ones(2, np.float32)], "z": []}
    with pytest.warns(UserWarning, match="no weights for 1 layer, which keeps .*: b"):
        report = net.load_weights(weights)
    assert (report.copied, report.unused, report.missing) == (["a"], ["z"], ["b"])
    assert torch.equal(net.params["b"][0], before)


def test_an_inner_product_of_unknown_size_waits_for_its_weights(tmp_path):
    text = (
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        'param { name: "w" } inner_product_param { num_output: 3 bias_term: false } } '
        'layer { name: "ip2" type: "InnerProduct" bottom: "data" top: "ip2" '
        'param { name: "w" } inner_product_param { num_output: 3 bias_term: false } } '
    )
    weight = np.arange(120, dtype=np.float32).reshape(3, 40)
    net = parse_net('input: "data" ' + text)
    path = tmp_path / "ip.caffemodel"
    write_weights(path, {"ip": [weight], "ip2": [weight]}, net)
    module = load_caffe(path)
    assert module.params["ip"][0] is module.params["ip2"][0]
    out = module(data=X)
    assert torch.allclose(out["ip"], X.reshape(1, 40) @ torch.from_numpy(weight).T)


def test_layer_names_that_modules_do_not_allow():
    net = net_of(conv("a.b", "data") + conv("type", "a.b") + conv("data/x", "type"))
    state = net.state_dict()
    other = net_of(conv("a.b", "data") + conv("type", "a.b") + conv("data/x", "type"))
    other.load_state_dict(state)
    assert torch.equal(net(data=X)["data/x"], other(data=X)["data/x"])
    assert set(net.params) == {"a.b", "type", "data/x"}


def test_one_name_for_two_layers_as_a_released_test_net_has_it():
    net = net_of(
        simple("f", "Eltwise", "data", extra='bottom: "data"')
        + 'layer { name: "f" type: "MatWrite" bottom: "f" mat_write_param { prefix: "x" } }'
    )
    assert torch.equal(net(data=X)["f"], 2 * X)


# ---------------------------------------------------------------- every way to name a model


@pytest.mark.parametrize("ending", [".caffemodel", ".safetensors", ".caffemodel.h5"])
def test_every_kind_of_model(ending, tmp_path):
    folder = DATA / "largefov_v1_w8"
    x = torch.randn(1, 3, 33, 41)
    expected = load_caffe(folder / "deploy.prototxt", folder / "weights.caffemodel")(data=x)
    from prototxt_import import read_model

    model = read_model(folder / "weights.caffemodel")
    path = tmp_path / f"m{ending}"
    write_weights(path, model.weights, model.raw, filtered=True)
    nets = [load_caffe(folder / "deploy.prototxt", path)]
    if ending == ".caffemodel.h5":
        with pytest.raises(CaffeImportError, match="weights but no network"):
            load_caffe(path)
    else:
        nets.append(load_caffe(path))
    for net in nets:
        assert torch.equal(net(data=x)["fc8_interp"], expected["fc8_interp"])


@pytest.mark.parametrize("copy", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_modules_can_be_copied_and_pickled(copy):
    net = load_caffe(DATA / "largefov_v1_w8" / "weights.caffemodel")
    x = torch.randn(1, 3, 33, 41)
    assert torch.equal(copy(net)(data=x)["fc8_interp"], net(data=x)["fc8_interp"])


def test_refused_layers_are_named():
    with pytest.raises(CaffeImportError, match="layer 'p'.*Python"):
        net_of(simple("p", "Python", "data", extra='python_param { module: "m" layer: "l" }'))


def test_parameters_keep_caffes_order_where_a_shape_comes_with_the_weights():
    """Optimisers number parameters, so that the order must not depend on what was known when."""
    text = 'input: "data" ' + conv("a") + conv("b", "a", 3)
    weights = {
        "a": [np.ones((2, 5, 1, 1), np.float32), np.zeros(2, np.float32)],
        "b": [np.ones((3, 2, 1, 1), np.float32), np.zeros(3, np.float32)],
    }
    net = load_caffe(parse_net(text))
    net.load_weights(weights)
    assert [tuple(p.shape) for p in net.parameters()] == [(2, 5, 1, 1), (2,), (3, 2, 1, 1), (3,)]


def test_an_error_of_a_network_without_a_file_names_none():
    with pytest.raises(CaffeImportError) as error:
        load_caffe(parse_net(INPUT + simple("q", "Python", "data")))
    assert str(error.value).startswith("layer 'q'")


@pytest.mark.parametrize(
    ("filler", "message"),
    [
        ('type: "foo"', "unknown filler; got foo"),
        ('type: "gaussian" std: -1', "bad std"),
        ('type: "gaussian" std: nan', "bad std"),
        ('type: "uniform" min: 2', "no range"),
        ('type: "uniform" max: nan', "no range"),
        ('type: "uniform" max: inf', "no range"),
        ('type: "bilinear"', "square kernel"),
    ],
)
def test_a_filler_that_cannot_fill_is_refused_with_its_layer(filler, message):
    product = f"inner_product_param {{ num_output: 2 weight_filler {{ {filler} }} }}"
    dummy = f"dummy_data_param {{ shape {{ dim: 2 }} data_filler {{ {filler} }} }}"
    texts = [
        simple("q", "InnerProduct", "data", extra=product),
        f'layer {{ name: "q" type: "DummyData" top: "q" {dummy} }}',
    ]
    for text in texts:
        with pytest.raises(CaffeImportError, match=f"layer 'q'.*{message}"):
            net_of(text)
