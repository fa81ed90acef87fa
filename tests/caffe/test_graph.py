"""Networks as pictures: what is folded, and that nothing overlaps."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from deeplab_repro.caffe.boxes import boxes_of
from deeplab_repro.caffe.graph_svg import graph_svg
from prototxt_import import parse_net, read_net
from tests.parity.spoil import DATA

SVG = "{http://www.w3.org/2000/svg}"
NETWORKS = sorted(path.parent.name for path in DATA.glob("*/deploy.prototxt"))


def read(name):
    return read_net(DATA / name / "deploy.prototxt")


def test_in_place_layers_join_the_layer_they_overwrite():
    boxes = boxes_of(read("largefov_v1_w8"))
    assert boxes["fc6"].lines == ["Convolution 3x3 rate 12, 128 + ReLU + Dropout"]
    assert boxes["fc6"].layers == ["fc6", "relu6", "drop6"]
    assert boxes["fc6"].below == ["pool5a"]
    assert boxes["pool5a"].lines == ["AVE pooling 3x3"]
    assert boxes["fc8_interp"].lines == ["Interp zoom 8"]
    assert len(boxes) == 24


@pytest.mark.slow
def test_resnet_is_folded_into_its_stages():
    boxes = boxes_of(read("resnet101_msc_w16"))
    times = {box.title: box.times for box in boxes.values() if box.kind == "block"}
    for scale in ("", "_res075", "_res05"):
        assert times[f"res4b1{scale} … res4b22{scale}"] == 22
        assert times[f"res3b1{scale} … res3b3{scale}"] == 3
        assert times[f"res5b{scale} … res5c{scale}"] == 2
        assert times[f"res2a{scale}"] == 1
    assert len(times) == 3 * 8
    assert sorted(boxes["fc_fusion"].below) == [
        "fc1_voc12",
        "fc1_voc12_res05_interp",
        "fc1_voc12_res075_interp",
    ]
    assert boxes["fc1_voc12_c0"].below == ["res5b"]  # the box that ends with res5c
    assert len(boxes) < 60


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_in_one_box(name):
    net = read(name)
    boxes = boxes_of(net)
    layers = [layer for box in boxes.values() for layer in box.layers]
    assert sorted(layers) == sorted(layer.name for layer in net.layers)
    keys = list(boxes)
    for key, box in boxes.items():
        assert all(keys.index(below) < keys.index(key) for below in box.below)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_picture(name):
    """Well-formed; every box inside the picture, no two on top of one another, arrows downwards."""
    boxes = boxes_of(read(name))
    root = ET.fromstring(graph_svg(boxes, name))
    left, top, width, height = map(float, root.get("viewBox", "").split())
    placed = []
    for group in root.iter(f"{SVG}g"):
        box = group.findall(f"{SVG}rect")[-1]
        x, y, w, h = (float(box.get(key, "")) for key in ("x", "y", "width", "height"))
        assert left <= x
        assert x + w <= left + width
        assert top <= y
        assert y + h <= top + height
        longest = max((text.text or "" for text in group.findall(f"{SVG}text")), key=len)
        assert len(longest) * 5 < w  # its lines fit in
        placed.append((x, y, w, h))
    assert len(placed) == len(boxes)
    for i, (x, y, w, h) in enumerate(placed):
        for u, v, p, q in placed[i + 1 :]:
            assert x + w <= u or u + p <= x or y + h <= v or v + q <= y
    arrows = [path for path in root.iter(f"{SVG}path") if path.get("marker-end")]
    assert len(arrows) == sum(len(box.below) for box in boxes.values())


def test_names_out_of_files_are_text():
    net = parse_net(
        'input: "d" input_shape { dim: 1 dim: 3 dim: 9 dim: 9 } '
        'layer { name: "<b>&" type: "AbsVal" bottom: "d" top: "<b>&" }'
    )
    texts = [
        text.text for text in ET.fromstring(graph_svg(boxes_of(net), "<i>")).iter(f"{SVG}text")
    ]
    assert "<i>" in texts
    assert "<b>&" in texts


def test_several_tops_losses_and_layers_without_tops():
    net = parse_net(
        'input: "d" input_shape { dim: 2 dim: 4 dim: 9 dim: 9 } '
        'layer { name: "s" type: "Slice" bottom: "d" top: "a" top: "b" } '
        'layer { name: "n" type: "Silence" bottom: "a" } '
        'layer { name: "l" type: "EuclideanLoss" bottom: "a" bottom: "b" top: "l" }'
    )
    boxes = boxes_of(net)
    assert {key: box.below for key, box in boxes.items()} == {
        "d": [],
        "a": ["d"],
        "n": ["a"],
        "l": ["a"],
    }
    ET.fromstring(graph_svg(boxes, ""))
