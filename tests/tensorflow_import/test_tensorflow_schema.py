"""The compiled schema is that of the .proto file."""

from __future__ import annotations

from importlib.resources import files

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

SCHEMA = files("tensorflow_import.schema")


def test_binpb_is_what_protoc_makes_of_the_proto_file(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    out = tmp_path / "schema.binpb"
    arguments = ["protoc", f"-I{SCHEMA}", f"--descriptor_set_out={out}", "tensorflow.proto"]
    assert protoc.main(arguments) == 0
    compiled = FileDescriptorSet.FromString(out.read_bytes())
    assert compiled == FileDescriptorSet.FromString((SCHEMA / "schema.binpb").read_bytes())
