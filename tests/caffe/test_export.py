"""torch.compile, torch.export and ONNX: the same numbers, at sizes that were not the example's."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deeplab_repro import CaffeImportError, load_caffe
from deeplab_repro.caffe.export import (
    export_onnx,
    export_program,
    input_shapes,
    onnx_model,
    other_shapes,
    without_labels,
)
from deeplab_repro.cli import main
from deeplab_repro.models import NETWORKS, write_network
from deeplab_repro.models.architectures import expand
from deeplab_repro.models.graph import Settings, net_message
from deeplab_repro.models.prototxt import to_text
from deeplab_repro.parity.agreement import Agreement, agreement
from deeplab_repro.parity.onnx import Check, check_onnx
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import parse_net

CAFFE = Path(__file__).parents[1] / "data" / "caffe"
BUNDLED = Path(__file__).parents[2] / "weights" / "largefov_v1_w8" / "weights.caffemodel"
SNAPSHOT = CAFFE / "train_sgd_poly" / "snap_iter_10.caffemodel"
INPUT = 'input: "data" input_shape { dim: 1 dim: 4 dim: 9 dim: 11 } '
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param {'
    ' num_output: 3 kernel_size: 3 dilation: 2 weight_filler { type: "xavier" } } } '
)
NET = (
    CONV + 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" } '
    'layer { name: "r" type: "ReLU" bottom: "c" top: "c" } '
    'layer { name: "p" type: "Pooling" bottom: "c" top: "p"'
    " pooling_param { kernel_size: 2 stride: 2 } } "
    'layer { name: "up" type: "Interp" bottom: "p" top: "up" interp_param { zoom_factor: 4 } } '
)
#: The TEST phase of a training file: scores of unknown size, labels, losses.
RELEASED = """
layer { name: "data" type: "ImageSegData" top: "data" top: "label"
        image_data_param { source: "val.txt" label_type: PIXEL } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 3 kernel_size: 1 stride: 8
                            weight_filler { type: "xavier" } } }
layer { name: "up" type: "Interp" bottom: "c" top: "up" interp_param { zoom_factor: 8 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "up" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "SegAccuracy" bottom: "up" bottom: "label" top: "accuracy" }
"""


def net_of(text):
    torch.manual_seed(0)
    return load_caffe(parse_net(INPUT + text))


def picture(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 50


def bundled(name):
    return load_caffe(CAFFE / name / "deploy.prototxt", CAFFE / name / "weights.caffemodel")


def same(ours, theirs, key="fused"):
    assert ours.keys() == theirs.keys()
    for name, blob in ours.items():
        found = agreement(blob.detach().numpy(), theirs[name].detach().numpy())
        assert found.within(AGREEMENT[key]), f"{name}: {found}"


# ---------------------------------------------------------------- torch.compile


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_compile_in_one_graph_for_every_size(fused):
    net = net_of(NET)
    net = net.fuse() if fused else net
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in ((1, 4, 9, 11), (2, 4, 12, 15), (3, 4, 21, 10)):
            same(compiled(data=picture(*size)), net(data=picture(*size)))


@pytest.mark.slow
def test_compile_with_gradients():
    net = net_of(NET)
    x = picture(2, 4, 9, 11).requires_grad_()
    torch.compiler.reset()
    grads = []
    for module in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        total = module(data=x)["up"].square().sum()
        grads.append(torch.autograd.grad(total, [x, *net.parameters()]))
    for ours, theirs in zip(*grads, strict=True):
        assert agreement(ours.numpy(), theirs.numpy()).within(AGREEMENT["fused"])


@pytest.mark.slow
def test_compile_a_bundled_network():
    net = bundled("largefov_v2_w8").fuse()
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        same(compiled(data=picture(1, 3, 65, 49)), net(data=picture(1, 3, 65, 49)))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compile_by_inductor():
    net = net_of(NET)
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True)
    with torch.no_grad():
        same(compiled(data=picture(1, 4, 9, 11)), net(data=picture(1, 4, 9, 11)))


# ---------------------------------------------------------------- torch.export


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_exported_programs_take_every_size(fused):
    net = net_of(NET)
    net = net.fuse() if fused else net
    program = export_program(net, {"data": (1, 4, 9, 11)})
    assert "deeplab_repro" not in str(program.graph)  # torch's own operations only
    for size in ((1, 4, 9, 11), (3, 4, 21, 10)):
        same(program.module()({"data": picture(*size)}), net(data=picture(*size)))


@pytest.mark.slow
def test_plain_torch_export():
    net = net_of(NET)
    program = torch.export.export(net, (), {"data": picture(1, 4, 9, 11)})
    x = picture(1, 4, 9, 11, seed=1)
    same(program.module()(data=x), net(data=x))


@pytest.mark.slow
def test_what_a_network_cannot_leave_free_stays_fixed():
    net = net_of(
        CONV + 'layer { name: "i" type: "InnerProduct" bottom: "c" top: "i"'
        ' inner_product_param { num_output: 2 weight_filler { type: "xavier" } } } '
    )
    shapes = input_shapes(net.net)
    assert shapes == {"data": (1, 4, 9, 11)}
    assert other_shapes(net, shapes) is None
    assert other_shapes(net, shapes, batch=True) == {"data": (2, 4, 9, 11)}
    program = export_program(net, shapes)
    x = picture(5, 4, 9, 11)
    same(program.module()({"data": x}), net(data=x))


def test_input_shapes():
    net = parse_net('input: "data" ' + CONV)
    with pytest.raises(CaffeImportError, match=r"--input-shape data=1x3xHxW.*got \?x\?x\?x\?"):
        input_shapes(net)
    assert input_shapes(net, {"data": (1, 4, 9, 9)}) == {"data": (1, 4, 9, 9)}
    with pytest.raises(CaffeImportError, match="unknown input 'dota'"):
        input_shapes(net, {"dota": (1,)})
    with pytest.raises(CaffeImportError, match="layer 'c'"):
        export_program(load_caffe(net), {"data": (1, 4, 3, 3)})


def test_a_network_without_a_size_is_exported_at_the_test_crop():
    for text, side in ((RELEASED, 513), (write_network("plain", "TEST"), 514)):
        net = parse_net(text, phase="TEST")
        assert input_shapes(without_labels(net)) == {"data": (1, 3, side, side)}
        given = {"data": (2, 3, 65, 73)}
        assert input_shapes(without_labels(net), given) == given


@pytest.mark.slow
def test_a_training_network_is_cut_at_its_scores():
    net = parse_net(RELEASED, phase="TEST")
    part = without_labels(net)
    assert (list(part.inputs), part.outputs) == (["data"], ["up"])
    assert without_labels(net, "c").outputs == ["c"]
    with pytest.raises(CaffeImportError, match="no blob 'd'.*--blob"):
        without_labels(net, "d")
    whole = parse_net(INPUT + NET)
    assert without_labels(whole) is whole
    with pytest.raises(CaffeImportError, match="no output .* can be computed from these inputs"):
        export_program(load_caffe(net), {"data": (1, 3, 513, 513)})


# ---------------------------------------------------------------- ONNX


@pytest.fixture(scope="module")
def onnx():
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    return pytest.importorskip("onnx")


def holds(net, path, shapes, *others, exported=None):
    """Export, and hold the file against ``net`` at the example's shapes and at others."""
    export_onnx(exported or net, path, shapes)
    for case in (shapes, *others):
        for check in check_onnx(net, path, case):
            assert check.agreement.within(AGREEMENT["fused"]), check


@pytest.mark.slow
def test_onnx_of_largefov_at_two_sizes(onnx, tmp_path):
    net = bundled("largefov_v2_w8")
    path = tmp_path / "net.onnx"
    sizes = [{"data": shape} for shape in ((1, 3, 97, 97), (2, 3, 65, 130))]
    holds(net, path, *sizes, exported=net.fuse())
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]  # weights inside, nothing beside
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == net.inputs
    assert [o.name for o in model.graph.output] == net.outputs
    assert str(Path(torch.__file__).parent).encode() not in path.read_bytes()
    assert b".py" not in path.read_bytes()


def three_scale_resnet():
    """DeepLab v2's three scales and ASPP over one block of each stage: as a graph, the whole of it.

    The rest of ResNet-101 repeats these blocks, and torch.onnx takes two minutes for them.
    """
    whole = NETWORKS["resnet101-msc-aspp"].architecture
    stem, *stages = whole.backbone
    architecture = replace(whole, backbone=(stem, *(stage[:1] for stage in stages)))
    expansion = expand(architecture, num_classes=4, width=16)
    message = net_message("net", whole.stem, expansion, (), Settings("DEPLOY", "v2", (97, 97), 1))
    net = load_caffe(parse_net(to_text(message)))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, blobs in net.params.items():
            for blob in blobs:
                values = torch.randn(blob.shape, generator=random)
                blob.copy_(values.abs() + 0.5 if layer.startswith("bn") else values * 0.5)
    return net


@pytest.mark.slow
def test_onnx_of_three_scale_resnet_at_two_sizes(onnx, tmp_path):
    net = three_scale_resnet()
    sizes = [{"data": shape} for shape in ((1, 3, 97, 97), (2, 3, 65, 129))]
    holds(net, tmp_path / "net.onnx", *sizes, exported=net.fuse())
    # The scales share their weights in the file, too.
    initializers = onnx.load(tmp_path / "net.onnx").graph.initializer
    in_file = sum(math.prod(i.dims) for i in initializers if len(i.dims) == 4)
    assert in_file == sum(p.numel() for p in net.fuse().parameters() if p.dim() == 4)


#: The last window may begin beyond the map.
BEYOND = "kernel_size: 2 stride: 3"
POOLINGS = [
    "kernel_size: 2 stride: 2",
    "kernel_size: 3 stride: 2",
    "kernel_size: 3 stride: 2 pad: 1",
    "kernel_size: 2 stride: 2 pad: 1",  # a last window in nothing but padding: clipped
    "kernel_size: 3 stride: 3 pad: 1",
    "kernel_size: 3 stride: 1 pad: 2",  # more padding than torch takes
    BEYOND,
    "kernel_size: 3 stride: 2 pad_h: 1 pad_w: 0 round_mode: FLOOR",
]


@pytest.mark.slow
def test_poolings_follow_caffe_at_every_size(onnx, tmp_path):
    """Rounded up and clipped; which of the two the example's size needs must not matter."""
    layers = "".join(
        f'layer {{ name: "{method} {window}" type: "Pooling" bottom: "c" top: "{method} {window}"'
        f" pooling_param {{ pool: {method} {window} }} }} "
        for method in ("MAX", "AVE")
        for window in POOLINGS
        if (method, window) != ("AVE", BEYOND)  # a mean over nothing is not a number
    )
    shapes = [{"data": (1, 4, 4 + h, 4 + w)} for h, w in ((9, 11), (10, 12), (11, 9), (6, 7))]
    holds(net_of(CONV + layers), tmp_path / "net.onnx", *shapes)


INTERPS = [
    "zoom_factor: 8",
    "shrink_factor: 2",
    "shrink_factor: 2 zoom_factor: 3",
    "height: 7 width: 5",
    "pad_beg: 0 pad_end: -1 zoom_factor: 2",
]


@pytest.mark.slow
def test_interps_follow_caffe_at_every_size(onnx, tmp_path):
    layers = "".join(
        f'layer {{ name: "{form}" type: "Interp" bottom: "c" top: "{form}"'
        f" interp_param {{ {form} }} }} "
        for form in INTERPS
    )
    shapes = [{"data": (1, 4, h, w)} for h, w in ((13, 15), (14, 16), (20, 11))]
    holds(net_of(CONV + layers), tmp_path / "net.onnx", *shapes)


@pytest.mark.slow
def test_normalisation_that_stays_is_written_as_plain_operations(onnx, tmp_path):
    text = (
        'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" } '
        'layer { name: "s" type: "Scale" bottom: "bn" top: "s" scale_param { bias_term: true'
        " filler { value: 2 } bias_filler { value: 1 } } } "
    )
    net = net_of(text)
    net.params["bn"][1].fill_(3), net.params["bn"][2].fill_(1)
    holds(net, tmp_path / "net.onnx", {"data": (1, 4, 9, 11)}, {"data": (2, 4, 5, 6)})
    domains = {node.domain for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert domains <= {"", "ai.onnx"}


@pytest.mark.slow
def test_a_check_sees_a_difference(onnx, tmp_path):
    net = net_of(CONV)
    export_onnx(net, tmp_path / "net.onnx", {"data": (1, 4, 9, 11)})
    with torch.no_grad():
        net.params["c"][0].mul_(1.01)
    (check,) = check_onnx(net, tmp_path / "net.onnx", {"data": (1, 4, 9, 11)})
    assert not check.agreement.within(AGREEMENT["fused"])


@pytest.mark.slow
def test_what_cannot_be_exported_is_one_line_and_no_file(onnx, tmp_path, monkeypatch):
    net = net_of(CONV)
    monkeypatch.setattr("deeplab_repro.caffe.export._MOST_BYTES", 10)
    with pytest.raises(CaffeImportError, match="too large for ONNX"):
        export_onnx(net, tmp_path / "net.onnx", {"data": (1, 4, 9, 11)})
    monkeypatch.undo()
    spp = 'layer { name: "f" type: "Filter" bottom: "data" bottom: "data" top: "f" } '
    with pytest.raises(CaffeImportError) as caught:
        export_onnx(net_of(spp), tmp_path / "net.onnx", {"data": (1, 4, 9, 11)})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the command


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return exit_.value.code


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + CONV)
    return path


@pytest.mark.slow
def test_command(onnx, small, tmp_path, capsys):
    out, report = tmp_path / "net.onnx", tmp_path / "report.json"
    assert run("export", small, "-o", out, "--json", report) == 0
    shown = capsys.readouterr().out
    assert "1x4x9x11" in shown
    assert "equal" in shown
    content = json.loads(report.read_text())
    assert content["equal"] is True
    assert content["bytes"] == out.stat().st_size
    sizes = [tuple(check["input_shapes"]["data"]) for check in content["checks"]]
    assert sizes[0] == (1, 4, 9, 11)
    assert len(set(sizes)) == 2
    assert all(check["rel"] < 1e-4 for check in content["checks"])
    assert run("export", small, "-o", out, "--input-shape", "data=2x4x20x30", "--no-fuse") == 0
    assert "2x4x20x30" in capsys.readouterr().out


@pytest.mark.slow
def test_command_on_the_bundled_model_as_the_readme_has_it(onnx, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("export", BUNDLED, "-o", "deeplab.onnx") == 0
    assert "data=1x3x513x513  fc8_interp" in capsys.readouterr().out
    assert [i.name for i in onnx.load("deeplab.onnx").graph.input] == ["data"]


@pytest.mark.slow
def test_command_on_a_training_snapshot(onnx, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("export", SNAPSHOT, "-o", "net.onnx") == 0
    shown = capsys.readouterr()
    assert "cut at the scores: fc8_voc12" in shown.out
    assert shown.err == ""
    assert [o.name for o in onnx.load("net.onnx").graph.output] == ["fc8_voc12"]


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        (lambda content, random: content[:-9], 2, "onnxruntime cannot run it: "),
        (lambda content, random: b"", 2, "onnxruntime cannot run it: "),
        (lambda content, random: random, 1, "net.onnx not written"),
    ],
)
@pytest.mark.slow
def test_a_failed_check_leaves_no_file(
    onnx, small, tmp_path, monkeypatch, capsys, wrong, code, message
):
    """What was there stays; whatever onnxruntime has to say is one line of usual length."""
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(b"old")
    torch.manual_seed(1)
    other = onnx_model(load_caffe(small), {"data": (1, 4, 9, 11)})
    monkeypatch.setattr(
        "deeplab_repro.caffe.export.onnx_model", lambda net, shapes: wrong(other, other)
    )
    assert run("export", small, "-o", "net.onnx") == code
    shown = capsys.readouterr()
    assert message in shown.out + shown.err
    assert len(shown.err) < 400
    assert shown.err.count("\n") == (code == 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", small.name]
    assert Path("net.onnx").read_bytes() == b"old"


@pytest.mark.slow
def test_command_says_in_one_line_what_torch_cannot_export(tmp_path, capfd):
    assert run("export", CAFFE / "dense_crf_layer/deploy.prototxt", "-o", tmp_path / "a.onnx") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot be exported: Could not extract" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "net.pb"], "expected .onnx"),
        pytest.param(
            ["-o", "no/such/folder/net.onnx"],
            "no/such/folder: there is no such folder",
            marks=pytest.mark.slow,
        ),
        (["-o", "net.onnx", "--input-shape", "data=1xy"], "--input-shape"),
        (["-o", "net.onnx", "--input-shape", "other=1x3"], "unknown input 'other'"),
        (["-o", "net.onnx", "--input-shape", "data=1x4x2x2"], "layer 'c'"),
    ],
)
def test_command_refuses_in_one_line(onnx, small, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(small.parent)
    assert run("export", small, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in small.parent.iterdir()] == [small.name]


@pytest.mark.slow
def test_missing_packages_are_named(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run("export", small, "-o", tmp_path / "net.onnx") == 2
    error = capsys.readouterr().err
    assert "deeplab-repro[onnx]" in error
    assert error.count("\n") == 1


def test_a_report_of_values_that_are_no_numbers_is_json():
    from deeplab_repro.cli.export import _report

    check = Check({"data": (1,)}, "c", Agreement(math.nan, math.inf, "holds NaN"))
    (entry,) = _report("net.onnx", 9, [check], equal=False)["checks"]
    assert (entry["rel"], entry["max"]) == (None, None)
