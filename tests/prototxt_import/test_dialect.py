"""Files of the three dialects told apart, or refused with both readings named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prototxt_import import CaffeImportError, parse_net, read_net, read_weights
from prototxt_import.schema import message_class

DATA = Path(__file__).parents[1] / "data" / "caffe"


def write(tmp_path, dialect, *, blobs="shape", **nets):
    """A binary network of ``dialect`` made from text: ``layer=`` or ``layers=`` bodies."""
    from google.protobuf import text_format

    net = message_class(dialect, "NetParameter")(name="made up")
    for field, bodies in nets.items():
        for body in bodies:
            layer = text_format.Parse(body, getattr(net, field).add())
            if blobs:
                blob = layer.blobs.add(data=[1.0])
                if blobs == "shape":
                    blob.shape.dim.append(1)
                else:
                    blob.num = blob.channels = blob.height = blob.width = 1
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("largefov_v1_w8", "dl1"),
        ("deeplab_plain_v1_w16", "dl1"),
        ("msc_largefov_v1_w8", "dl1"),
        ("largefov_v2_w8", "dl2"),
        ("vgg16_aspp_l_w8", "dl2"),
        ("resnet101_msc_w16", "dl2"),
    ],
)
def test_real_files(name, dialect):
    for file in ("weights.caffemodel", "deploy.prototxt"):
        net = read_net(DATA / name / file)
        assert net.dialect == dialect
        assert net.raw.report.evidence, "the choice must say why"
        assert not net.raw.report.alternatives


def test_hole_is_never_force_nd_im2col():
    net = read_net(DATA / "largefov_v1_w8" / "weights.caffemodel")
    assert list(net["fc6"].spec.convolution_param.dilation) == [12]
    assert list(net["conv5_1"].spec.convolution_param.dilation) == [2]
    assert not net["fc6"].spec.convolution_param.HasField("force_nd_im2col")


def test_interp_param_is_never_input_param():
    net = read_net(DATA / "largefov_v2_w8" / "weights.caffemodel")
    assert net["fc8_interp"].spec.interp_param.zoom_factor == 8
    assert not net["fc8_interp"].spec.HasField("input_param")


BVLC = [
    'name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } }',
    'name: "crop" type: "Crop" bottom: "data" bottom: "data" top: "c"'
    " crop_param { axis: 2 offset: 1 }",
    'name: "swish" type: "Swish" bottom: "data" top: "s" swish_param { beta: 2 }',
    'name: "clip" type: "Clip" bottom: "data" top: "p" clip_param { min: 0 max: 1 }',
]


@pytest.mark.parametrize("body", BVLC)
def test_made_up_bvlc_files(tmp_path, body):
    net = read_net(write(tmp_path, "bvlc", layer=[BVLC[0], body] if body != BVLC[0] else [body]))
    assert net.dialect == "bvlc"
    assert net.inputs["data"].shape == (1, 3, 8, 8)


def test_made_up_bvlc_values_survive(tmp_path):
    net = read_net(write(tmp_path, "bvlc", layer=BVLC))
    assert (net["crop"].spec.crop_param.axis, list(net["crop"].spec.crop_param.offset)) == (2, [1])
    assert net["swish"].spec.swish_param.beta == 2
    assert (net["clip"].spec.clip_param.min, net["clip"].spec.clip_param.max) == (0, 1)


DL2 = [
    'name: "i" type: "Interp" bottom: "x" top: "i" interp_param { height: 3 width: 4 }',
    'name: "a" type: "SegAccuracy" bottom: "x" bottom: "x" top: "a"'
    " seg_accuracy_param { metric: PixelAccuracy ignore_label: 255 }",
    'name: "crf" type: "DenseCRF" bottom: "x" bottom: "x" top: "c" dense_crf_param { max_iter: 3 }',
    'name: "m" type: "MatWrite" bottom: "x" mat_write_param { prefix: "out/" period: 1 }',
]


@pytest.mark.parametrize("body", DL2)
def test_disputed_fields_go_by_the_layer_that_holds_them(tmp_path, body):
    source = 'name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 } }'
    net = read_net(write(tmp_path, "dl2", layer=[source, body]))
    assert net.dialect == "dl2"


V1_CONVOLUTION = 'name: "c" type: CONVOLUTION bottom: "x" top: "c" convolution_param {{ {} }}'


def v1_file(tmp_path, dialect, parameters, blobs=None):
    """A V1 network whose only evidence is in its one convolution."""
    body = V1_CONVOLUTION.format(f"num_output: 2 kernel_size: 3 {parameters}")
    path = write(tmp_path, dialect, blobs=blobs, layers=[body])
    return path


def test_hole_of_one_is_ambiguous_and_refused_with_both_readings(tmp_path):
    path = v1_file(tmp_path, "dl1", "hole: 1")
    with pytest.raises(CaffeImportError) as caught:
        read_net(path)
    message = str(caught.value)
    assert "force_nd_im2col: true" in message
    assert "hole: 1" in message
    assert "--dialect" in message
    assert "layer 'c'" in message


def test_hole_h_alone_is_ambiguous_and_refused(tmp_path):
    with pytest.raises(CaffeImportError, match="hole_h: 4.*dilation: 4"):
        read_net(v1_file(tmp_path, "dl1", "hole_h: 4"))


@pytest.mark.parametrize("parameters", ["hole: 1", "hole_h: 4 hole_w: 4"])
def test_the_age_of_the_blobs_settles_hole(tmp_path, parameters):
    path = v1_file(tmp_path, "dl1", parameters, blobs="legacy")
    from prototxt_import.model import read_model

    assert read_model(path).raw.dialect == "dl1"


def test_dialect_overrules(tmp_path):
    path = v1_file(tmp_path, "dl1", "hole_h: 4 hole_w: 2")
    from prototxt_import.model import read_model

    raw = read_model(path, dialect="dl1").raw
    assert raw.report.forced
    assert raw.layers[0].convolution_param.hole_h == 4


def test_fields_that_read_the_same_do_not_matter(tmp_path):
    path = write(
        tmp_path,
        "bvlc",
        layers=['name: "r" type: RELU bottom: "x" top: "r"'],
        blobs=None,
    )
    from prototxt_import.model import read_model

    report = read_model(path).raw.report
    assert report.dialect == "dl1"  # V1 layers are most likely the v1 fork's
    assert set(report.alternatives) == {"dl2", "bvlc"}


def test_type_39_is_told_by_what_it_holds(tmp_path):
    seg = (
        'name: "d" type: IMAGE_SEG_DATA top: "data" image_data_param { source: "l" batch_size: 1 }'
    )
    assert read_net(write(tmp_path, "dl1", layers=[seg], blobs=None)).dialect == "dl1"
    deconvolution = V1_CONVOLUTION.replace("CONVOLUTION", "DECONVOLUTION").format("num_output: 1")
    from prototxt_import.model import read_model

    path = write(tmp_path, "bvlc", layers=[deconvolution])
    assert read_model(path).raw.dialect in ("bvlc", "dl2")


def test_nobody_explains_it(tmp_path):
    path = write(tmp_path, "bvlc", layer=[BVLC[2]])
    # A field that no dialect has: 200, a varint.
    path.write_bytes(path.read_bytes() + bytes([0xC0, 0x0C, 0x01]))
    with pytest.raises(CaffeImportError, match="no field 200.*--dialect"):
        read_net(path)
    assert read_weights(path)["swish"][0].tolist() == [1.0]  # weights need no dialect


def test_names_and_blobs_only(tmp_path):
    net = message_class("dl1", "NetParameter")()
    layer = net.layers.add(name="c", type=4)
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[1, 2])
    path = tmp_path / "bare.caffemodel"
    path.write_bytes(net.SerializeToString())
    assert read_weights(path)["c"][0].shape == (1, 1, 1, 2)
    with pytest.raises(CaffeImportError, match="weights but no network"):
        read_net(path)


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" '
         "convolution_param { num_output: 1 kernel_size: 3 hole: 2 } }", "dl1"),
        ('layer { name: "i" type: "Interp" bottom: "x" top: "i" interp_param { zoom_factor: 2 } }',
         "dl2"),
        ('layer { name: "i" type: "Swish" bottom: "x" top: "i" swish_param { beta: 2 } }', "bvlc"),
        ('layer { name: "i" type: "ReLU" bottom: "x" top: "i" }', "dl2"),
        ('layers { name: "i" type: RELU bottom: "x" top: "i" }', "dl1"),
        # Later forks have both; read by the union.
        ('layer { name: "s" type: "Swish" bottom: "x" top: "s" swish_param { beta: 2 } } '
         'layer { name: "i" type: "Interp" bottom: "s" top: "i" interp_param { zoom_factor: 2 } }',
         "dl2"),
    ],
)  # fmt: skip
def test_text_goes_by_names(text, dialect):
    dims = "input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9"
    assert parse_net(f'input: "x" {dims} {text}').dialect == dialect


def test_hole_in_text_becomes_dilation():
    net = parse_net(
        'input: "x" input_dim: 1 input_dim: 1 input_dim: 9 input_dim: 9 '
        'layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" '
        "convolution_param { num_output: 1 kernel_size: 3 hole_h: 2 hole_w: 3 } }"
    )
    assert list(net["c"].spec.convolution_param.dilation) == [2, 3]


def test_unknown_dialect_is_refused():
    with pytest.raises(CaffeImportError, match="expected bvlc or dl2 or dl1, got ssd"):
        parse_net('name: "n"', dialect="ssd")


def test_weights_are_the_same_in_every_dialect():
    path = DATA / "largefov_v1_w8" / "weights.caffemodel"
    weights = read_weights(path)
    assert weights["conv1_1"][0].shape == (8, 3, 3, 3)
    assert weights["conv1_1"][1].shape == (1, 1, 1, 8)  # biases of V1 files have four axes
    assert all(np.isfinite(blob).all() for blobs in weights.values() for blob in blobs)
