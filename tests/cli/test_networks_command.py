"""``networks list`` and ``networks write`` as people call them."""

from __future__ import annotations

import json
import math

import pytest

from deeplab_repro.models import NETWORKS, NETWORKS_V3
from prototxt_import import infer_net, parse_net

#: networks.md, section 2: name -> computed parameters.
STATED = {
    "plain": 65_140_565,
    "msc": 65_140_565 + 1_206_121,
    "7x7": 134_346_581,
    "largefov": 20_505_429,
    "coco-largefov": 20_505_429,
    "msc-largefov": 20_505_429 + 1_206_121,
    "aspp-s": 37_877_652,
    "aspp-l": 37_877_652,
    "resnet101-msc-aspp": 44_048_532,
}
WRITTEN = [(name, form) for name in NETWORKS for form in NETWORKS[name].formats]


def values(shapes) -> int:
    """Learned values: without BatchNorm's statistics, and shared ones once."""
    counted = {}
    for item in shapes.layers:
        if item.layer.type != "BatchNorm":
            for i, shape in enumerate(item.shapes.params):
                named = item.layer.spec.param[i].name if i < len(item.layer.spec.param) else ""
                counted[named or (item.layer.name, i)] = math.prod(shape)
    return sum(counted.values())


@pytest.mark.parametrize(("name", "form"), WRITTEN)
@pytest.mark.sampled(4)
def test_every_network_is_written_and_has_its_sizes(run, tmp_path, name, form):
    """Must-show: imports, the sizes at 321 and 513 (306 and 514), the parameter counts."""
    plain = name == "plain"
    train, test = (306, 514) if plain else (321, 513)
    small, large = (39, 67) if plain else (41, 65)
    network = NETWORKS[name]
    for phase, size, scores in (
        ("TRAIN", train, small),
        ("TEST", test, large),
        ("DEPLOY", test, large),
    ):
        path = tmp_path / f"{phase}.prototxt"
        assert run("networks", "write", name, "--phase", phase, "--format", form, "-o", path) == (
            0,
            f"written: {path}\n",
            "",
        )
        net = parse_net(path.read_text(), "TRAIN" if phase == "TRAIN" else "TEST")
        shapes = infer_net(net)
        assert shapes.blobs["data"][2:] == (size, size)
        assert shapes.blobs[network.scores][1:] == (21, scores, scores)
        if phase != "TRAIN":
            assert shapes.blobs[network.output] == (1, 21, size, size)
            assert network.output in net.outputs
        assert values(shapes) == network.parameters
        if name in STATED:
            assert values(shapes) == STATED[name]
    for option in ("TRAIN", "DEPLOY"):
        text = run("networks", "write", name, "--phase", option, "--format", form)[1]
        assert text == (tmp_path / f"{option}.prototxt").read_text()


def test_list(run, tmp_path):
    code, out, _ = run("networks", "list", "--json", tmp_path / "n.json")
    assert code == 0
    for name, network in NETWORKS.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert network.title in line
        assert f"{network.parameters:,}" in line
        assert f"{network.train_size} / {network.test_size}" in line
        assert ("v1, v2" in line) == (not name.startswith("resnet"))
    assert "76.35, 77.69 with CRF" in out
    assert "TRAIN, TEST, DEPLOY" in out
    report = json.loads((tmp_path / "n.json").read_text())
    assert set(report) == {*NETWORKS, *NETWORKS_V3}
    assert report["deeplab_v3_resnet50"]["options"]["atrous_rates"] == [6, 12, 18]
    assert report["plain"]["test_size"] == 514
    assert [stage["max_iter"] for stage in report["plain"]["schedules"]] == [6000, 12000]
    assert report["resnet101"]["formats"] == ["v2"]
    assert report["resnet101-msc-aspp"]["full_name"] == "deeplab_v2_resnet101_msc"


def test_options(run):
    code, out, _ = run(
        *("networks", "write", "aspp-l", "--phase", "TRAIN", "--width", 8, "--num-labels", 60),
        *("--input-size", "97x129", "--batch", 3, "--set", "EXP=coco", "--set", "DATA_ROOT=/d"),
    )
    assert code == 0
    net = parse_net(out, "TRAIN")
    blobs = infer_net(net).blobs
    assert blobs["data"] == (3, 3, 97, 129)
    assert blobs["fc8_coco"] == (3, 60, 13, 17)
    assert blobs["conv1_1"][1] == 8
    assert net.data_layers[0].spec.image_data_param.root_folder == "/d"
    coarse = run(
        *("networks", "write", "deeplab_v2_vgg16", "--input-size", 97, "--output-stride", 16)
    )[1]
    assert infer_net(parse_net(coarse)).blobs["fc8_voc12"] == (1, 21, 7, 7)
    square = run("networks", "write", "largefov", "--input-size", 97)[1]
    assert parse_net(square).inputs["data"].shape == (1, 3, 97, 97)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["largfov"], "network: expected one of plain, msc,"),
        (["deeplab_v3_resnet50"], "network: deeplab_v3_resnet50 has no prototxt"),
        (["deeplab_v3plus_xception65", "--train", "--solver"], "`train --flagfile` trains it"),
        (["resnet101", "--format", "v1"], "the V1 format has no BatchNorm; write format v2"),
        (["largefov", "--phase", "DEV"], "'DEV' is not one of 'TRAIN', 'TEST', 'DEPLOY'"),
        (["largefov", "--width", "3"], "width: expected a divisor of 64, got 3"),
        (["largefov", "--width", "x"], "'x' is not a valid integer"),
        (["largefov", "--input-size", "320"], "takes sides of 8k + 1, such as 313 or 321"),
        (
            ["largefov", "--input-size", "9x9x9"],
            "--input-size; expected N or HxW of at least 1x1",
        ),
        (["largefov", "--input-size", "-7"], "expected N or HxW of at least 1x1, got -7"),
        (["largefov", "--batch", "99999"], "the blobs of Caffe hold at most 2,147,483,647"),
        (
            ["largefov", "--output-stride", "12"],
            "output_stride: expected one of 1, 2, 4, 8, 16, 32; got 12",
        ),
        (["largefov", "--batch", "0"], "batch: expected at least 1, got 0"),
        (["largefov", "--set", "EXP"], "--set; expected NAME=VALUE with NAME one of EXP,"),
        (["largefov", "--set", "PHASE=TEST"], "one of EXP, DATA_ROOT, TRAIN_SET, TEST_SET"),
    ],
)
def test_bad_arguments(run, tmp_path, arguments, message):
    out = tmp_path / "n.prototxt"
    code, _, err = run("networks", "write", *arguments, "-o", out)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(run, tmp_path):
    code, _, err = run("networks", "write", "largefov", "-o", tmp_path / "no" / "n.prototxt")
    assert code == 2
    assert "No such file or directory" in err
