"""Fused networks: what is folded, what must not be, and that nothing changes but rounding."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from deeplab_repro import CaffeImportError, CaffeNet, load_caffe
from deeplab_repro.caffe.fuse import FusedLayer
from deeplab_repro.parity.agreement import agreement
from deeplab_repro.parity.recordings import Recording, bundled_recordings
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import parse_net

RECORDINGS = bundled_recordings(Path(__file__).parents[1] / "data")
INPUT = 'input: "data" input_shape { dim: 2 dim: 4 dim: 6 dim: 7 } '
X = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))


def net_of(text, phase="TEST", dialect=None):
    """A network over INPUT with random weights, BatchNorm's being sums of variances."""
    net = load_caffe(parse_net(INPUT + text, phase, dialect=dialect))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, blobs in net.params.items():
            for blob in blobs:
                blob.copy_(torch.rand(blob.shape, generator=random) + 0.5)
                if net.net[name].type != "BatchNorm":
                    blob.mul_(torch.rand(blob.shape, generator=random).sub(0.5).sign())
    return net


def layer(name, type_, *bottoms, top=None, extra=""):
    wires = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{name}" type: "{type_}" {wires} top: "{top or name}" {extra} }} '


def conv(name="c", bottom="data", extra="", type_="Convolution"):
    given = f"num_output: 6 kernel_size: 3 pad: 1 {extra}"
    return layer(name, type_, bottom, extra=f"convolution_param {{ {given} }}")


def inner(extra=""):
    return layer(
        "c", "InnerProduct", "data", extra=f"inner_product_param {{ num_output: 6 {extra} }}"
    )


BN = layer("bn", "BatchNorm", "c", top="c")
SCALE = layer("s", "Scale", "c", top="c", extra="scale_param { bias_term: true }")
BARE_SCALE = layer("s", "Scale", "c", top="c")
BIAS = layer("b", "Bias", "c", top="c")
RELU = layer("r", "ReLU", "c", top="c")
DROP = layer("d", "Dropout", "c", top="c")


def check(net: CaffeNet, *expected: str, x: torch.Tensor = X) -> None:
    """The fused net runs the layers ``expected`` and agrees with ``net`` on each blob it has."""
    fused = net.fuse()
    assert [step.node.layer.name for step in fused._steps] == list(expected)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            theirs, ours, outputs = net.blobs(data=x), fused.blobs(data=x), fused(data=x)
        assert list(ours) == fused.kept_blobs
        for name, blob in ours.items():
            found = agreement(blob.detach().numpy(), theirs[name].detach().numpy())
            assert found.within(AGREEMENT["fused"]), f"{name}: {found}"
        assert list(outputs) == net.outputs
        assert all(torch.equal(outputs[name], ours[name]) for name in outputs)


# ---------------------------------------------------------------- the bundled networks


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
@pytest.mark.sampled(2)
def test_bundled_networks(recording: Recording):
    net = load_caffe(recording.prototxt, recording.model)
    fused = net.fuse()
    inputs = {name: torch.from_numpy(recording.whole(name)) for name in net.inputs}
    with torch.inference_mode():
        theirs, ours = net.blobs(**inputs), fused.blobs(**inputs)
        outputs = fused(**inputs)
    assert set(net.outputs) <= ours.keys() <= theirs.keys()
    recorded = set(recording.blobs())
    for name, blob in ours.items():
        found = agreement(blob.numpy(), theirs[name].numpy())
        assert found.within(AGREEMENT["fused"]), f"{name}: {found}"
        if name in recorded:
            found = recording.agreement(name, blob.numpy())
            assert found.within(AGREEMENT["fused"]), f"Caffe's {name}: {found}"
    assert all(torch.equal(outputs[name], ours[name]) for name in outputs)
    left = {step.node.layer.type for step in fused._steps}
    assert not left & {"BatchNorm", "Scale", "Bias", "Dropout", "ReLU"}


@pytest.mark.slow
def test_three_scales_still_share_their_weights():
    recording = next(r for r in RECORDINGS if r.name.startswith("resnet101_msc"))
    net = load_caffe(recording.prototxt, recording.model)
    fused = net.fuse()
    cores = [m.core for m in fused.layers.children() if isinstance(m, FusedLayer)]
    unique = {id(blob) for core in cores for blob in core.blobs}
    assert len(cores) == 3 * 108 == 3 * len({id(core.blob(0)) for core in cores})
    # Filters and one bias each; the network had a mean, a variance, ... for each besides.
    assert sum(p.numel() for p in fused.parameters()) < sum(
        b.numel() for b in {id(b): b for bs in net.params.values() for b in bs}.values()
    )
    assert len(unique) == len(list(fused.parameters()))
    moved = copy.deepcopy(fused).to(torch.float64)
    assert len(list(moved.parameters())) == len(unique)


# ---------------------------------------------------------------- what is folded


@pytest.mark.parametrize(
    "after",
    [
        "",
        RELU,
        BN,
        BN + RELU,
        BN + SCALE + RELU,
        BN + BARE_SCALE + BIAS + RELU + DROP,
        SCALE + BN,
        BIAS + DROP + RELU,
        DROP,
    ],
)
@pytest.mark.parametrize(
    "first",
    [
        conv(),
        conv(extra="bias_term: false"),
        conv(extra="group: 2"),
        conv(extra="dilation: 2"),
        conv(type_="Deconvolution"),
        conv(type_="Deconvolution", extra="group: 2 stride: 2"),
        inner(),
        inner("bias_term: false transpose: true"),
    ],
)
@pytest.mark.sampled(24)
def test_chains(first, after):
    check(net_of(first + after), "c")


def test_weights_stay_as_they_are_and_are_copied():
    net = net_of(conv() + RELU)
    fused = net.fuse()
    before = {name: [b.clone() for b in blobs] for name, blobs in net.params.items()}
    core = fused.layers.get_submodule("c").core
    assert torch.equal(core.blob(0), before["c"][0])
    with torch.no_grad():
        core.blob(0).zero_()
    assert torch.equal(net.params["c"][0], before["c"][0])
    assert core.blob(0).is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in fused.parameters())


def test_its_weights_are_those_of_the_network_without_the_layers_that_are_gone():
    net = net_of(conv("c") + BN + SCALE + RELU + conv("e", "c", "bias_term: false"))
    weights = net.fuse().weights()
    assert [len(blobs) for blobs in weights.values()] == [2, 1]
    plain = load_caffe(parse_net(INPUT + conv("c") + RELU + conv("e", "c", "bias_term: false")))
    plain.load_weights(weights)
    found = agreement(plain(data=X)["e"].detach().numpy(), net(data=X)["e"].detach().numpy())
    assert found.within(AGREEMENT["fused"]), str(found)


def test_a_batch_norm_factor_of_zero():
    net = net_of(conv() + BN)
    net.params["bn"][2].zero_()
    check(net, "c")


def test_v1_fork_biases_of_four_axes():
    text = (
        'input: "data" input_dim: 2 input_dim: 4 input_dim: 6 input_dim: 7 '
        'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c"'
        " convolution_param { num_output: 6 kernel_size: 3 } } "
        'layers { name: "r" type: RELU bottom: "c" top: "c" } '
        'layers { name: "i" type: INNER_PRODUCT bottom: "c" top: "i"'
        " inner_product_param { num_output: 5 } } "
        'layers { name: "ri" type: RELU bottom: "i" top: "i" } '
    )
    net = load_caffe(parse_net(text, "TEST", dialect="dl1"))
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                blob.normal_(generator=torch.Generator().manual_seed(2))
    assert net.params["c"][1].shape == (1, 1, 1, 6)
    check(net, "c", "i")


def test_convolutions_of_one_and_three_axes():
    for axes, shape in ((1, (2, 4, 9)), (3, (2, 4, 5, 6, 7))):
        dims = " ".join(f"dim: {n}" for n in shape)
        text = f'input: "data" input_shape {{ {dims} }} ' + conv() + BN + SCALE + RELU
        net = load_caffe(parse_net(text))
        with torch.no_grad():
            for blobs in net.params.values():
                for blob in blobs:
                    blob.copy_(torch.rand(blob.shape, generator=torch.Generator().manual_seed(3)))
        x = torch.randn(shape, generator=torch.Generator().manual_seed(axes))
        check(net, "c", x=x)


SUM = layer("e", "Eltwise", "a", "c")
ONE = "convolution_param { num_output: 6 kernel_size: 1 }"
SHORTCUT = layer("a", "Convolution", "data", extra=ONE)


def test_a_shortcut_is_added_on_the_spot():
    after = layer("re", "ReLU", "e", top="e") + layer("f", "Convolution", "e", extra=ONE)
    check(net_of(SHORTCUT + conv() + BN + SUM + after), "a", "c", "f")
    # In whichever order: the later of the two convolutions adds.
    check(net_of(conv() + BN + SHORTCUT + SUM + after), "c", "a", "f")
    # The shortcut may be read by others, before and after.
    twice = layer("g", "Convolution", "a", extra=ONE)
    check(net_of(SHORTCUT + conv() + twice + SUM + after), "a", "c", "g", "f")


# ---------------------------------------------------------------- what must not be folded


def test_a_blob_that_another_layer_reads():
    branch = layer("p", "Power", "c")
    net = net_of(conv() + layer("bn", "BatchNorm", "c") + branch)
    check(net, "c", "bn", "p")
    # In place, the other reader keeps the old value.
    check(net_of(conv() + branch + RELU), "c", "p", "r")
    check(net_of(conv() + RELU + branch + DROP), "c", "p")


def test_an_affine_layer_behind_relu_or_a_sum():
    check(net_of(conv() + RELU + BN), "c", "bn")
    check(net_of(SHORTCUT + conv() + SUM + layer("s", "Scale", "e")), "a", "c", "s")
    check(net_of(conv() + RELU + RELU.replace('"r"', '"r2"')), "c", "r2")


def test_what_does_not_follow_a_convolution():
    text = (
        layer("bn", "BatchNorm", "data") + layer("s", "Scale", "bn", top="bn") + conv(bottom="bn")
    )
    check(net_of(text + RELU), "bn", "s", "c")


@pytest.mark.parametrize(
    "after",
    [
        layer("q", "BatchNorm", "c", extra="batch_norm_param { use_global_stats: false }"),
        layer("q", "Scale", "c", extra="scale_param { axis: 0 }"),
        layer("q", "Scale", "c", extra="scale_param { axis: 1 num_axes: 2 }"),
        layer("q", "Scale", "c", extra="scale_param { axis: 0 num_axes: 0 }"),
        layer("q", "Scale", "c", "twin", extra="scale_param { axis: 0 }"),
        layer("q", "Bias", "c", extra="bias_param { axis: 2 }"),
        layer("q", "ReLU", "c", extra="relu_param { negative_slope: 0.1 }"),
        layer("q", "Eltwise", "c", "c"),
        layer("q", "Eltwise", "c", "twin", extra="eltwise_param { coeff: 1 coeff: -1 }"),
        layer("q", "Eltwise", "c", "twin", extra="eltwise_param { operation: MAX }"),
        layer("q", "ReLU", "c", extra="propagate_down: false"),
    ],
)
def test_steps_that_stay(after):
    if "twin" in after:
        twin = layer("twin", "Convolution", "data", extra=ONE)
        check(net_of(twin + conv() + after), "twin", "c", "q")
    else:
        check(net_of(conv() + after), "c", "q")


def test_channels_of_another_axis():
    per_row = inner("axis: 2")  # (2, 4, 6): the matrix makes axis 2, BatchNorm goes along axis 1
    check(net_of(per_row + BN), "c", "bn")


def test_a_shortcut_that_is_not_there_yet_or_not_any_more():
    late = conv() + SHORTCUT.replace('"a"', '"a0"') + layer("a", "Power", "a0") + SUM
    check(net_of(late), "c", "a0", "a", "e")
    overwritten = SHORTCUT + conv() + layer("ra", "ReLU", "a", top="a") + SUM
    check(net_of(overwritten), "a", "c", "e")
    in_place = (
        SHORTCUT + conv() + layer("p", "Power", "a") + layer("e", "Eltwise", "a", "c", top="a")
    )
    check(net_of(in_place), "a", "c", "p", "e")


def test_several_bottoms_stay():
    text = layer("d2", "Power", "data", extra="power_param { scale: 2 }")
    two = (
        'layer { name: "c" type: "Convolution" bottom: "data" bottom: "d2" top: "c" top: "k"'
        " convolution_param { num_output: 6 kernel_size: 1 } } "
    )
    check(net_of(text + two + RELU), "d2", "c", "r")


# ---------------------------------------------------------------- the module


def test_training_networks_are_refused():
    net = net_of(conv() + BN, "TRAIN")
    with pytest.raises(CaffeImportError, match="eval mode"):
        net.fuse()
    check(net.eval(), "c")


def test_it_stays_in_evaluation_mode():
    fused = net_of(conv() + BN + layer("p", "Dropout", "c")).fuse()
    assert not fused.train().training
    assert torch.equal(fused(data=X)["p"], fused(data=X)["p"])


def test_gradients_reach_the_input():
    net = net_of(SHORTCUT + conv() + BN + SUM + layer("re", "ReLU", "e", top="e"))
    grads = []
    for module in (net, net.fuse()):
        x = X.clone().requires_grad_()
        (grad,) = torch.autograd.grad(module(data=x)["e"].square().sum(), x)
        grads.append(grad.numpy())
    assert agreement(grads[1], grads[0]).within(AGREEMENT["fused"])


def test_inputs_are_checked_as_before():
    fused = net_of(conv()).fuse()
    with pytest.raises(CaffeImportError, match="layer 'c'"):
        fused(data=torch.zeros(1, 5, 6, 7))
    with pytest.raises(CaffeImportError, match="'data' is missing"):
        fused()
