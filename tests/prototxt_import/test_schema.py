"""The compiled schemas are those of the .proto files, and the union joins them by name."""

from __future__ import annotations

from importlib.resources import files

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from prototxt_import.schema import carry_over, message_class, unified

SCHEMA = files("prototxt_import.schema")


def test_binpb_is_what_protoc_makes_of_the_proto_files(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    names = ["caffe_bvlc.proto", "caffe_dl2.proto", "caffe_dl1.proto"]
    out = tmp_path / "schema.binpb"
    assert protoc.main(["protoc", f"-I{SCHEMA}", f"--descriptor_set_out={out}", *names]) == 0
    compiled = FileDescriptorSet.FromString(out.read_bytes())
    committed = FileDescriptorSet.FromString((SCHEMA / "schema.binpb").read_bytes())
    assert compiled == committed


@pytest.mark.parametrize(
    ("number", "bvlc", "dl2"),
    [
        (143, "input_param", "interp_param"),
        (144, "crop_param", "seg_accuracy_param"),
        (145, "parameter_param", "mat_write_param"),
        (146, "recurrent_param", "dense_crf_param"),
        (147, "swish_param", "domain_transform_param"),
        (148, "clip_param", "adaptive_bias_channel_param"),
    ],
)
def test_layer_fields_that_the_dialects_disagree_on(number, bvlc, dl2):
    for dialect, name in (("bvlc", bvlc), ("dl2", dl2)):
        fields = message_class(dialect, "LayerParameter").DESCRIPTOR.fields_by_number
        assert fields[number].name == name


def test_convolution_fields_that_the_dialects_disagree_on():
    names = {
        dialect: [
            message_class(dialect, "ConvolutionParameter").DESCRIPTOR.fields_by_number[n].name
            for n in (17, 18)
        ]
        for dialect in ("bvlc", "dl2", "dl1")
    }
    assert names == {
        "bvlc": ["force_nd_im2col", "dilation"],
        "dl2": ["force_nd_im2col", "dilation"],
        "dl1": ["hole", "hole_h"],
    }


def test_union_has_every_dialects_parameters_and_defaults():
    layer = unified("LayerParameter")()
    for name in ("input_param", "interp_param", "softmaxloss_param", "padding_param", "clip_param"):
        assert not layer.HasField(name)
    assert layer.strict_dim is True
    assert layer.interp_param.zoom_factor == 1
    assert layer.dense_crf_param.output_probability is True
    assert layer.seg_accuracy_param.reset is True


def test_carry_over_goes_by_name():
    source = message_class("dl1", "ConvolutionParameter")(num_output=7, pad=3, kernel_size=3)
    target = unified("ConvolutionParameter")()
    carry_over(source, target)
    assert (target.num_output, list(target.pad), list(target.kernel_size)) == (7, [3], [3])
    with pytest.raises(LookupError, match="no field 'hole'"):
        carry_over(
            message_class("dl1", "ConvolutionParameter")(hole=2),
            message_class("bvlc", "ConvolutionParameter")(),
        )
