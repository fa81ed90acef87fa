"""Frozen graphs: a serialized GraphDef in which the variables have become constants."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from prototxt_import.files import open_file
from prototxt_import.wire import LENGTH, FieldBudget, FileBytes, WireField, walk
from tensorflow_import.dtypes import Array
from tensorflow_import.errors import Damaged, TensorFlowImportError, naming
from tensorflow_import.limits import (
    MAX_ATTRIBUTE_BYTES,
    MAX_GRAPH_BYTES,
    MAX_PARAMETER_BYTES,
    MAX_REPEATED_BYTES,
)
from tensorflow_import.schema import message_class
from tensorflow_import.tensors import TensorAt, read_tensor, scan_tensor

__all__ = ["Graph", "Node", "graph_nodes", "read_constants"]

#: Field numbers: GraphDef.node; NodeDef; an entry of its map of attributes; AttrValue.tensor.
_NODE: Final = 1
_NAME, _OP, _INPUT, _ATTRIBUTE = 1, 2, 3, 5
_KEY, _VALUE = 1, 2
_TENSOR: Final = 8
_FLOATS: Final = ("float16", "bfloat16", "float32", "float64")


@dataclass(slots=True)
class Node:
    """One operation of a graph.

    Attributes:
        name: unique in its graph.
        op: what it computes, as ``"Conv2D"``.
        inputs: names of the nodes whose outputs it reads, as the file spells them: ``"x"``,
            ``"x:1"`` for the second output of ``x``, ``"^x"`` for what only has to run before it.
        attributes: name -> serialized AttrValue; :meth:`attribute` gives its value.
        tensor: of a constant: where its values lie.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: dict[str, bytes] = field(default_factory=dict)
    tensor: TensorAt | None = None

    def attribute(self, name: str) -> Any:
        """The value of an attribute; None if it is absent, a tensor or a function.

        Types are TensorFlow's numbers for them, shapes tuples in which -1 stands for a size that
        is not known, and None for a shape of which nothing is.

        Raises:
            TensorFlowImportError: it is damaged or too large.
        """
        content = self.attributes.get(name)
        if content is None:
            return None
        with naming(f"node '{self.name}'", f"node with a readable attribute '{name}'"):
            MAX_ATTRIBUTE_BYTES.check(len(content), f"its attribute '{name}' takes too many bytes")
            value = cast(Any, message_class("AttrValue")).FromString(content)
            kind = value.WhichOneof("value")
            if kind is None:
                return None
            if kind != "list":
                return _plain(kind, getattr(value, kind))
            for listed, values in value.list.ListFields():
                return [_plain(listed.name, item) for item in values]
            return []


def _plain(kind: str, value: Any) -> Any:
    if kind != "shape":
        return value
    return None if value.unknown_rank else tuple(dim.size for dim in value.dim)


@dataclass
class Graph:
    """The nodes of a frozen graph, in file order.

    Attributes:
        nodes: name -> node.
    """

    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def constants(self) -> dict[str, TensorAt]:
        """Name -> place of the values, of each constant."""
        return {name: node.tensor for name, node in self.nodes.items() if node.tensor is not None}

    @property
    def variables(self) -> dict[str, TensorAt]:
        """Those of the constants that were variables before the graph was frozen.

        That is every constant of a floating type that the graph reads as a variable: through an
        Identity called ``NAME/read``, or through one that has taken the place of a
        ReadVariableOp and is still called that.
        """
        constants = self.constants
        read = {
            source
            for node in self.nodes.values()
            if node.op == "Identity" and len(node.inputs) == 1
            for source in [node.inputs[0].removesuffix(":0")]
            if node.name == f"{source}/read" or "ReadVariableOp" in node.name.rpartition("/")[2]
        }
        return {
            name: tensor
            for name, tensor in constants.items()
            if name in read and tensor.dtype.name in _FLOATS
        }

    @property
    def ops(self) -> dict[str, int]:
        """How many nodes there are of each operation, the most frequent first."""
        return dict(Counter(node.op for node in self.nodes.values()).most_common())

    @property
    def inputs(self) -> list[Node]:
        """The nodes that have to be fed."""
        return [node for node in self.nodes.values() if node.op.startswith("Placeholder")]

    @property
    def outputs(self) -> list[Node]:
        """The nodes that no other node reads, constants and feeds left out."""
        read = {
            source.lstrip("^").partition(":")[0]
            for node in self.nodes.values()
            for source in node.inputs
        }
        return [
            node
            for node in self.nodes.values()
            if node.name not in read
            and node.op not in ("Const", "NoOp", "Assert")
            and not node.op.startswith("Placeholder")
        ]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[FileBytes]:
    with naming(path, "frozen graph"), open_file(path) as file:
        data = FileBytes(file)
        if not len(data):
            raise TensorFlowImportError("is empty")
        yield data


def graph_nodes(path: str | os.PathLike[str]) -> Graph:
    """Read the nodes of a frozen graph, and leave the values of its constants in the file.

    Raises:
        TensorFlowImportError: no GraphDef, damaged, or beyond the limits.

    Example:
        >>> graph = graph_nodes("frozen_inference_graph.pb")
        >>> [node.name for node in graph.inputs]
        ['ImageTensor']
    """
    with _opened(path) as data:
        return _scan(data)


def read_constants(
    path: str | os.PathLike[str],
    names: Collection[str] | None = None,
    *,
    variables_only: bool = False,
) -> dict[str, Array]:
    """Name -> values of the constants of a frozen graph, in file order.

    Args:
        path: the ``.pb`` file.
        names: those that are wanted; all if None.
        variables_only: leave out what was no variable (:attr:`Graph.variables`).

    Raises:
        TensorFlowImportError: no frozen graph, damaged, beyond the limits, or without a constant
            of one of these names.
    """
    with _opened(path) as data:
        graph = _scan(data)
        found = graph.variables if variables_only else graph.constants
        for name in names or ():
            if name not in found:
                what = "variable" if variables_only else "constant"
                raise TensorFlowImportError(f"has no {what} '{name}'")
        wanted = {name: at for name, at in found.items() if names is None or name in names}
        repeated = sum(at.repeated_bytes for at in wanted.values())
        MAX_REPEATED_BYTES.check(repeated, "its constants repeat values too often, in bytes")
        total = sum(at.count * at.dtype.stored.itemsize for at in wanted.values())
        MAX_PARAMETER_BYTES.check(total, "holds too much, in bytes")
        return {name: read_tensor(data, at, f"constant '{name}'") for name, at in wanted.items()}


def _scan(data: FileBytes) -> Graph:
    graph = Graph()
    scanner = _Scanner(data)
    for item in walk(data, 0, len(data), scanner.budget):
        if item.number != _NODE:
            continue  # versions, and functions that a graph may define
        if item.wire_type != LENGTH:
            raise Damaged("it may be a SavedModel, which has no frozen graph")
        node = scanner.node(item)
        if node.name in graph.nodes:
            raise Damaged(f"two nodes are called '{node.name}'")
        graph.nodes[node.name] = node
    if not graph.nodes:
        raise Damaged("it holds no nodes")
    return graph


class _Scanner:
    """Takes nodes apart, and counts what of them is kept in memory."""

    def __init__(self, data: FileBytes) -> None:
        self.data = data
        self.budget = FieldBudget()
        self._kept = 0
        self._most = MAX_GRAPH_BYTES.value

    def node(self, node: WireField) -> Node:
        name = op = ""
        inputs: list[str] = []
        attributes: list[WireField] = []
        for item in walk(self.data, node.start, node.end, self.budget):
            if item.wire_type != LENGTH:
                continue
            if item.number == _NAME:
                name = self._text(item)
            elif item.number == _OP:
                op = self._text(item)
            elif item.number == _INPUT:
                inputs.append(self._text(item))
            elif item.number == _ATTRIBUTE:
                attributes.append(item)
        if not name or not op:
            raise Damaged(f"the node at byte {node.begin} has no name or no operation")
        found = Node(name, sys.intern(op), tuple(inputs))
        for item in attributes:
            self._attribute(found, item)
        return found

    def _attribute(self, node: Node, attribute: WireField) -> None:
        key = ""
        value: WireField | None = None
        for item in walk(self.data, attribute.start, attribute.end, self.budget):
            if item.wire_type == LENGTH and item.number == _KEY:
                key = sys.intern(self._text(item))
            elif item.wire_type == LENGTH and item.number == _VALUE:
                value = item
        if value is None:
            return
        if key == "value" and node.op == "Const":
            what = f"constant '{node.name}'"
            for item in walk(self.data, value.start, value.end, self.budget):
                if item.number == _TENSOR and item.wire_type == LENGTH:
                    node.tensor = scan_tensor(self.data, item, self.budget, what)
        else:
            node.attributes[key] = self._copy(value)

    def _text(self, item: WireField) -> str:
        try:
            return self._copy(item).decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged(f"a name at byte {item.start} is no text") from None

    def _copy(self, item: WireField) -> bytes:
        self._kept += item.end - item.start
        if self._kept > self._most:
            MAX_GRAPH_BYTES.check(self._kept, "too large a graph, in bytes outside its tensors")
        return self.data[item.start : item.end]
