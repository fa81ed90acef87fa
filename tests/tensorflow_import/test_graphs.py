"""Frozen graphs: every form of a constant, and which constants are variables."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tensorflow_import import (
    TensorFlowImportError,
    graph_nodes,
    list_variables,
    read_constants,
    read_variables,
)
from tests.tensorflow_import.building import (
    message,
    node,
    number,
    shape,
    tensor,
    variable,
    varint,
)

FROZEN = "frozen_inference_graph.pb"


def test_the_weights_of_a_frozen_network(stored, expected, described):
    """Its weights were generated from their names; no copy of them is stored here."""
    variables = read_variables(stored / FROZEN)
    assert described(variables) == {name: expected[FROZEN][name] for name in variables}
    assert set(variables) == set(expected[FROZEN])
    infos = list_variables(stored / FROZEN)
    assert {name: list(info.shape) for name, info in infos.items()} == {
        name: entry[1] for name, entry in expected[FROZEN].items()
    }


def test_the_nodes_of_a_frozen_network(stored):
    graph = graph_nodes(stored / FROZEN)
    assert len(graph.nodes) == 953
    assert len(graph.constants) == 357
    assert list(graph.ops.items())[:3] == [
        ("Identity", 361),
        ("Const", 357),
        ("FusedBatchNormV3", 54),
    ]
    assert [node.name for node in graph.inputs] == ["ImageTensor"]
    assert graph.inputs[0].attribute("shape") == (1, -1, -1, 3)
    assert graph.inputs[0].attribute("dtype") == 4
    assert [node.name for node in graph.outputs] == [
        "SemanticPredictions",
        "SemanticProbabilities",
    ]
    convolution = graph.nodes["aspp0/Conv2D"]
    assert convolution.inputs[1] == "aspp0/weights/read"
    assert convolution.attribute("padding") == b"SAME"
    assert convolution.attribute("strides") == [1, 1, 1, 1]
    assert convolution.attribute("nothing") is None


def written(folder, *nodes):
    path = folder / "graph.pb"
    path.write_bytes(b"".join(nodes))
    return path


def content(array):
    return message(4, array.tobytes())


def packed(field, form, *values):
    return message(field, struct.pack(f"<{len(values)}{form}", *values))


def numbers(field, *values):
    return message(field, *map(varint, values))


#: Form -> (type, shape, fields of the TensorProto, what they stand for).
FORMS = {
    "content": (1, (2, 2), [content(np.float32([1, 2, 3, 4]))], np.float32([[1, 2], [3, 4]])),
    "scalar": (1, (), [packed(5, "f", 2.5)], np.float32(2.5)),
    "list": (1, (3,), [packed(5, "f", 1, 2, 3)], np.float32([1, 2, 3])),
    "last repeats": (1, (5,), [packed(5, "f", 1, 2)], np.float32([1, 2, 2, 2, 2])),
    "one for all": (2, (2, 3), [packed(6, "d", 7)], np.full((2, 3), 7.0)),
    "nothing is zeros": (1, (2,), [], np.float32([0, 0])),
    "longer than the shape": (1, (1,), [packed(5, "f", 1, 2)], np.float32([1])),
    "in pieces": (1, (4,), [packed(5, "f", 1), packed(5, "f", 2, 3)], np.float32([1, 2, 3, 3])),
    "not packed": (1, (2,), [varint(5 << 3 | 5) + struct.pack("<f", 1.5)], np.float32([1.5, 1.5])),
    "empty": (1, (0, 3), [], np.zeros((0, 3), np.float32)),
    "nan": (1, (1,), [message(5, b"\x01\x00\xc0\x7f")], np.array([0x7FC00001], "u4").view("f4")),
    "int32": (3, (3,), [numbers(7, 1, -1, 300)], np.int32([1, -1, 300])),
    "not packed int32": (3, (2,), [number(7, -5), number(7, 6)], np.int32([-5, 6])),
    "int16": (5, (2,), [numbers(7, -2, 5)], np.int16([-2, 5])),
    "int8": (6, (2,), [numbers(7, -128, 127)], np.int8([-128, 127])),
    "uint8": (4, (2,), [numbers(7, 255, 0)], np.uint8([255, 0])),
    "uint16": (17, (2,), [numbers(7, 65535, 0)], np.uint16([65535, 0])),
    "qint8": (11, (1,), [numbers(7, -3)], np.int8([-3])),
    "int64": (9, (2,), [numbers(10, -(2**63), 2**63 - 1)], np.int64([-(2**63), 2**63 - 1])),
    "uint32": (22, (1,), [numbers(16, 2**32 - 1)], np.uint32([2**32 - 1])),
    "uint64": (23, (2,), [numbers(17, 2**64 - 1, 3)], np.uint64([2**64 - 1, 3])),
    "bool": (10, (3,), [numbers(11, 1, 0)], np.array([True, False, False])),
    "bool content": (10, (2,), [message(4, b"\1\0")], np.array([True, False])),
    "half": (19, (2,), [numbers(13, 0x3C00, 0xC000)], np.float16([1, -2])),
    "half content": (19, (2,), [content(np.float16([1, -2]))], np.float16([1, -2])),
    "bfloat16": (14, (2,), [numbers(13, 0x3F80, 0xC000)], np.float32([1, -2])),
    "bfloat16 content": (14, (2,), [message(4, b"\x80\x3f\x00\xc0")], np.float32([1, -2])),
    "complex64": (8, (2,), [packed(9, "f", 1, 2, 3, 4)], np.complex64([1 + 2j, 3 + 4j])),
    "complex128": (18, (2,), [packed(12, "d", 1, 2)], np.complex128([1 + 2j, 1 + 2j])),
    "string": (7, (3,), [message(8, "a"), message(8, b"\0\xff")], [b"a", b"\0\xff", b"\0\xff"]),
    "string scalar": (7, (), [message(8, "text")], b"text"),
    "no strings": (7, (2,), [], [b"", b""]),
    "string content": (7, (2,), [message(4, b"\x01\x02", "abc")], [b"a", b"bc"]),
    # Wider than a byte each, and of several lengths in one list.
    "long numbers": (9, (4,), [numbers(10, 1, 2**14, 2**35, -1)], np.int64([1, 2**14, 2**35, -1])),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_constants(tmp_path, form):
    dtype, sizes, fields, values = FORMS[form]
    path = written(tmp_path, node("c", "Const", tensor(dtype, sizes, *fields)))
    read = read_constants(path)["c"]
    wanted = np.array(values, object) if dtype == 7 else np.asarray(values)
    assert read.dtype == wanted.dtype
    assert read.shape == sizes
    if dtype == 7:
        assert read.tolist() == wanted.tolist()
    else:
        assert read.tobytes() == wanted.tobytes()
        assert read.flags.writeable


def test_constants_that_are_variables(tmp_path):
    one = packed(5, "f", 1)
    path = written(
        tmp_path,
        variable("a/weights", 1, (2,), one),
        variable("step", 9, (), numbers(10, 5)),  # no floats
        node("epsilon", "Const", tensor(1, (), one)),  # read by an operation, as any constant
        node("add", "Add", inputs=["a/weights/read", "epsilon"]),
        # What freezing leaves of a ReadVariableOp.
        node("b/weights", "Const", tensor(14, (1,), numbers(13, 0x3F80))),
        node("b/Conv2D/ReadVariableOp", "Identity", inputs=["b/weights:0"]),
        node("c", "Const", tensor(1, (), one)),
        node("d/read", "Identity", inputs=["c"]),
    )
    assert list(read_variables(path)) == ["a/weights", "b/weights"]
    assert list_variables(path) == {"a/weights": ("float32", (2,)), "b/weights": ("bfloat16", (1,))}
    assert set(read_constants(path)) == {"a/weights", "step", "epsilon", "b/weights", "c"}
    assert read_constants(path, ["step"])["step"] == 5
    assert list(read_variables(path, ["b/weights"])) == ["b/weights"]
    with pytest.raises(TensorFlowImportError, match=r"graph.pb: has no variable 'epsilon'"):
        read_variables(path, ["epsilon"])


def attribute(name, *value):
    return message(5, message(1, name), message(2, *value))


def test_attributes(tmp_path):
    path = written(
        tmp_path,
        node(
            "n",
            "Op",
            attribute("s", message(2, "text")),
            attribute("i", number(3, -1)),
            attribute("f", varint(4 << 3 | 5), struct.pack("<f", 0.5)),
            attribute("b", number(5, 1)),
            attribute("type", number(6, 1)),
            attribute("shape", shape(1, -1, field=7)),
            attribute("unknown", message(7, number(3, 1))),
            attribute("list", message(1, numbers(3, 1, 2))),
            attribute("shapes", message(1, shape(2, field=7), shape(field=7))),
            attribute("empty", message(1)),
            attribute("nothing"),
        ),
    )
    found = graph_nodes(path).nodes["n"]
    assert {name: found.attribute(name) for name in found.attributes} == {
        "s": b"text",
        "i": -1,
        "f": 0.5,
        "b": True,
        "type": 1,
        "shape": (1, -1),
        "unknown": None,
        "list": [1, 2],
        "shapes": [(2,), ()],
        "empty": [],
        "nothing": None,
    }


def test_attributes_that_cannot_be_read(tmp_path):
    path = written(
        tmp_path,
        node(
            "n",
            "Op",
            attribute("cut", b"\x12\x09a"),
            attribute("large", message(2, bytes(1 << 19))),
        ),
    )
    found = graph_nodes(path).nodes["n"]
    with pytest.raises(TensorFlowImportError, match="node 'n': is no node with a readable attri"):
        found.attribute("cut")
    with pytest.raises(TensorFlowImportError, match="node 'n': its attribute 'large' takes too"):
        found.attribute("large")


ONE = packed(5, "f", 1)
HOSTILE_GRAPHS = {
    "empty": (b"", "is empty"),
    "no nodes": (message(4, number(1, 21)), "it holds no nodes"),
    "no message": (b"\xff\xff", "is no frozen graph, or damaged"),
    "saved model": (number(1, 1) + message(2, b""), "may be a SavedModel"),
    "text": (b'node { name: "x" op: "Const" }', "is no frozen graph, or damaged"),
    "no name": (node("", "Const"), "the node at byte 0 has no name"),
    "no operation": (node("a", ""), "no name or no operation"),
    "two of a name": (node("a", "NoOp") * 2, "two nodes are called 'a'"),
    "no text": (node(b"\xff\xfe", "NoOp"), "is no text"),
    "cut off": (node("a", "NoOp")[:-1], "reaches to byte 11"),
    "content too short": (
        variable("a", 1, (2,), message(4, bytes(4))),
        "holds 4 bytes, its shape asks for 8",
    ),
    "content too long": (variable("a", 1, (2,), message(4, bytes(12))), "holds 12 bytes"),
    "negative axis": (variable("a", 1, (-1,), ONE), "impossible shape -1"),
    "huge": (variable("a", 1, (2**62, 4), ONE), "impossible shape"),
    "huge and empty": (variable("a", 1, (2**62, 2**62, 0), ONE), "impossible shape"),
    "many axes": (variable("a", 1, (1,) * 40, ONE), "impossible shape"),
    "repeated": (variable("a", 1, (10**8,), ONE), "repeat values too often.*MAX_REPEATED_BYTES"),
    "repeated in sum": (
        b"".join(variable(f"a{i}", 1, (10**6,), ONE) for i in range(30)),
        "repeat values too often",
    ),
    "resource": (variable("a", 20, (1,), ONE), "cannot be read; got resource"),
    "no type": (variable("a", 0, (1,), ONE), "cannot be read; got number 0"),
    "unknown rank": (
        node(
            "a",
            "Const",
            message(
                5,
                message(1, "value"),
                message(2, message(8, number(1, 1), message(2, number(3, 1)))),
            ),
        ),
        "has no shape",
    ),
    "half a float": (variable("a", 1, (1,), message(5, b"\0\0\0")), "no list of numbers"),
    "a double among floats": (
        variable("a", 1, (1,), varint(5 << 3 | 1) + bytes(8)),
        "no list of numbers",
    ),
    "half a number": (
        node("a", "Const", tensor(3, (1,), message(7, b"\x80"))),
        "number that is cut off",
    ),
    "long number": (
        node("a", "Const", tensor(3, (1,), message(7, b"\x80" * 11 + b"\1"))),
        "more than ten bytes",
    ),
    "many numbers": (
        node("a", "Const", tensor(3, (1,), message(7, b"\1" * (1 << 21)))),
        "too many whole numbers",
    ),
    "odd complex": (node("a", "Const", tensor(8, (1,), packed(9, "f", 1))), "odd number of parts"),
    "many strings": (
        node("a", "Const", tensor(7, (10**6 + 1,), message(8, "a"))),
        "too many strings",
    ),
    "strings": (node("a", "Const", tensor(7, (2,), message(4, b"\1\1a"))), "do not add up"),
    "no string": (node("a", "Const", tensor(7, (1,), number(8, 1))), "what is no string"),
    "large": (node("a" * (17 << 20), "NoOp"), "too large a graph, in bytes outside its tensors"),
}


@pytest.mark.parametrize("case", HOSTILE_GRAPHS)
def test_graphs_that_lie(tmp_path, case):
    data, problem = HOSTILE_GRAPHS[case]
    path = written(tmp_path, data)
    with pytest.raises(TensorFlowImportError, match=problem) as error:
        read_constants(path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()


def test_a_graph_of_too_many_fields(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_FIELDS", "1000")
    path = written(tmp_path, node("a", "NoOp", inputs=[""] * 1001))
    with pytest.raises(TensorFlowImportError, match="graph.pb: too many fields.*MAX_FIELDS"):
        graph_nodes(path)
