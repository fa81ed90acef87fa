"""Which of the three Caffe programs wrote this file?

The programs put different messages at the same field numbers, so a file must be read with the
right schema or not at all.  Each schema is held against the bytes; whatever it cannot explain
rules it out.  What is left may read the same in several dialects, and then it does not matter;
where the readings differ, the file is refused and both readings are named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from prototxt_import import wire
from prototxt_import.errors import CaffeImportError
from prototxt_import.layers import KINDS, REFUSED
from prototxt_import.layers.core import in_capitals
from prototxt_import.schema import DIALECTS, Dialect, message_class, preferred, restore
from prototxt_import.wire import FieldBudget, LayerAt, NetAt, WireField

__all__ = ["DialectReport", "RawNet", "decide_binary", "types_against"]


def _only_in(dialect: Dialect) -> frozenset[str]:
    every = [*((name, cls.kind.programs) for name, cls in KINDS.items()),
             *((name, refused.programs) for name, refused in REFUSED.items())]  # fmt: skip
    return frozenset(name for name, programs in every if programs == (dialect,))


def _read_by() -> dict[str, frozenset[str]]:
    """Parameter message -> names, in both formats, of the layer types that read it."""
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for name, cls in KINDS.items():
        readers[cls.kind.message].update((name, cls.kind.v1))
        if cls.role == "loss":
            readers["loss_param"].update((name, cls.kind.v1))
    for name, refused in REFUSED.items():
        readers[refused.message].update((name, refused.v1 or in_capitals(name)))
    return {message: frozenset(names) for message, names in readers.items() if message}


#: Layer types of the current format that only one of the two programs that write it has.
_TYPES_ONLY_IN: Final[dict[Dialect, frozenset[str]]] = {d: _only_in(d) for d in DIALECTS}
#: Parameters -> the layer types (both spellings) that read them.
_READ_BY: Final = _read_by()
_V1_CONVOLUTION, _V1_TRANSFORM, _V1_IMAGE_DATA = 10, 36, 15


@dataclass(frozen=True)
class DialectReport:
    """The dialect a file was read in, and why.

    Attributes:
        dialect: ``"bvlc"``, ``"dl2"`` or ``"dl1"``.
        evidence: one line per finding, those that ruled a dialect out first.
        alternatives: other dialects that read the file the same.
        forced: the caller said which dialect to use.
    """

    dialect: Dialect
    evidence: tuple[str, ...] = ()
    alternatives: tuple[Dialect, ...] = ()
    forced: bool = False

    def __str__(self) -> str:
        how = "as told" if self.forced else "by evidence"
        if self.alternatives:
            how = f"reads the same as {', '.join(self.alternatives)}"
        return f"{self.dialect} ({how})"


@dataclass(frozen=True)
class RawNet:
    """A network as its file states it: the messages of its dialect, blobs left out."""

    report: DialectReport
    header: Message
    layers: tuple[Message, ...]

    @property
    def dialect(self) -> Dialect:
        """The dialect whose schema the messages belong to."""
        return self.report.dialect

    @property
    def is_v1(self) -> bool:
        """Whether the layers are in the V1 format (``layers {}``, enum types)."""
        return any(layer.DESCRIPTOR.name == "V1LayerParameter" for layer in self.layers)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which does not find the classes of messages."""
        messages = [(m.DESCRIPTOR.full_name, m.SerializeToString()) for m in
                    (self.header, *self.layers)]  # fmt: skip
        return _unpickled, (self.report, messages)

    def text(self) -> str:
        """The network as prototxt."""
        net = self.header.__class__()
        net.CopyFrom(self.header)
        for layer in self.layers:
            field = "layers" if layer.DESCRIPTOR.name == "V1LayerParameter" else "layer"
            getattr(net, field).add().CopyFrom(layer)
        return text_format.MessageToString(net)


def _unpickled(report: DialectReport, messages: Sequence[tuple[str, bytes]]) -> RawNet:
    header, *layers = (restore(*message) for message in messages)
    return RawNet(report, header, tuple(layers))


def decide_binary(net: NetAt, forced: Dialect | None = None) -> RawNet:
    """Find the dialect of a binary network and parse it.

    Args:
        net: the scanned file.
        forced: read it in this dialect whatever the evidence.

    Raises:
        CaffeImportError: no dialect explains the file, or several do in different ways.
    """
    against: dict[Dialect, list[str]] = {dialect: [] for dialect in DIALECTS}
    for dialect in DIALECTS:
        against[dialect] = _against(net, dialect)
    for finding, ruled_out in _type_findings(net):
        for dialect in ruled_out:
            against[dialect].append(finding)

    evidence = tuple(f"not {d}: {against[d][0]}" for d in DIALECTS if against[d])
    if forced:
        return _parse(net, DialectReport(forced, evidence, forced=True))
    is_v1 = any(layer.is_v1 for layer in net.layers)
    candidates = preferred((d for d in DIALECTS if not against[d]), is_v1=is_v1)
    if not candidates:
        raise CaffeImportError(
            "no known Caffe dialect explains this file (" + "; ".join(evidence) + ")",
            expected="one of bvlc, dl2, dl1 (--dialect reads it regardless)",
        )
    readings = [_parse(net, DialectReport(d, evidence)) for d in candidates]
    chosen = readings[0]
    for other in readings[1:]:
        _demand_same_reading(net, chosen, other)
    report = DialectReport(chosen.dialect, evidence, tuple(candidates[1:]))
    return RawNet(report, chosen.header, chosen.layers)


def types_against(dialect: Dialect, types: Iterable[str]) -> str | None:
    """The first of these current-format layer types that another dialect alone has."""
    for name in types:
        for owner, exclusive in _TYPES_ONLY_IN.items():
            if owner != dialect and name in exclusive:
                return f"layer type {name} exists in {owner} only"
    return None


# ------------------------------------------------------------------ what a schema can't explain


def _against(net: NetAt, dialect: Dialect) -> list[str]:
    """At most one finding: the first thing in the file that the dialect's schema can't explain."""
    budget = FieldBudget()
    misfit = _misfit(net.message, message_class(dialect, "NetParameter").DESCRIPTOR, budget)
    if misfit:
        return [misfit]
    for layer in net.layers:
        if dialect == "dl1" and not layer.is_v1:
            return [f"layer '{layer.name}' is in the current format, which dl1 does not know"]
        misfit = _misfit(layer.message, _layer_class(dialect, layer).DESCRIPTOR, budget)
        if misfit:
            return [f"layer '{layer.name}': {misfit}"]
        for blob in layer.blobs:
            if dialect == "dl1" and ((blob.has_shape and not blob.is_legacy) or blob.is_double):
                return [f"layer '{layer.name}' has a blob with a BlobShape or doubles"]
    return []


def _layer_class(dialect: Dialect, layer: LayerAt) -> type[Message]:
    return message_class(dialect, "V1LayerParameter" if layer.is_v1 else "LayerParameter")


def _misfit(message: bytes, descriptor: Descriptor, budget: FieldBudget) -> str | None:
    """Why ``message`` can't be what ``descriptor`` describes; None if it can.

    It recurses no deeper than the schemas nest, which is four messages: none holds its own kind.
    """
    data = memoryview(message)
    seen = set()
    for item in wire.walk(data, 0, len(data), budget):
        field = descriptor.fields_by_number.get(item.number)
        if field is None:
            return f"{descriptor.name} has no field {item.number}"
        seen.add(field.name)
        problem = _value_misfit(data, item, field, budget)
        if problem:
            return problem
    for field in descriptor.fields:
        if field.is_required and field.name not in seen:
            return f"{descriptor.name} lacks its {field.name}"
    return None


def _value_misfit(
    data: memoryview, item: WireField, field: FieldDescriptor, budget: FieldBudget
) -> str | None:
    name = f"{field.containing_type.name}.{field.name}"
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        if item.wire_type != wire.LENGTH:
            return f"{name} is no message"
        inside = bytes(data[item.start : item.end])
        try:
            return _misfit(inside, field.message_type, budget)
        except wire.WireError:
            return f"{name} is no {field.message_type.name}"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if item.wire_type != wire.LENGTH:
            return f"{name} is no text"
        try:
            if field.type == FieldDescriptor.TYPE_STRING:
                bytes(data[item.start : item.end]).decode("utf-8")
        except UnicodeDecodeError:
            return f"{name} is not UTF-8"
        return None
    natural = {
        FieldDescriptor.CPPTYPE_FLOAT: wire.FIXED32,
        FieldDescriptor.CPPTYPE_DOUBLE: wire.FIXED64,
    }.get(field.cpp_type, wire.VARINT)
    packed = item.wire_type == wire.LENGTH and field.is_repeated
    if item.wire_type != natural and not packed:
        return f"{name} has wire type {item.wire_type}"
    if item.wire_type == wire.VARINT:
        if field.type == FieldDescriptor.TYPE_BOOL and item.value > 1:
            return f"{name} would be {item.value}, and it is a yes or no"
        if (
            field.type == FieldDescriptor.TYPE_ENUM
            and item.value not in field.enum_type.values_by_number
        ):
            return f"{name} has no value {item.value}"
    return None


# ------------------------------------------------------------------ what layer types tell


def _type_findings(net: NetAt) -> list[tuple[str, Sequence[Dialect]]]:
    """(finding, dialects that it rules out), from what layers of a type exist and can hold."""
    findings: list[tuple[str, Sequence[Dialect]]] = []
    has_legacy_blob = any(blob.is_legacy for layer in net.layers for blob in layer.blobs)
    for layer in net.layers:
        data = memoryview(layer.message)
        items = list(wire.walk(data, 0, len(data)))
        if layer.is_v1:
            findings += _v1_findings(layer, data, items, has_legacy_blob)
            type_names = dict.fromkeys(DIALECTS, "")
            for item in items:
                if item.number == 5 and item.wire_type == wire.VARINT:
                    type_names = {d: _v1_type_name(d, item.value) for d in DIALECTS}
        else:
            name = next(
                (
                    bytes(data[i.start : i.end]).decode("utf-8", "replace")
                    for i in items
                    if i.number == 2 and i.wire_type == wire.LENGTH
                ),
                "",
            )
            type_names = dict.fromkeys(DIALECTS, name)
            for owner, exclusive in _TYPES_ONLY_IN.items():
                if name in exclusive:
                    others = [d for d in DIALECTS if d != owner]
                    findings.append(
                        (f"layer '{layer.name}' is a {name}, which only {owner} has", others)
                    )
        findings += _holding_findings(layer, items, type_names)
    return findings


@lru_cache(maxsize=1024)
def _v1_type_name(dialect: Dialect, number: int) -> str:
    enum = message_class(dialect, "V1LayerParameter").DESCRIPTOR.enum_types_by_name["LayerType"]
    value = enum.values_by_number.get(number)
    return value.name if value else ""


def _holding_findings(
    layer: LayerAt, items: list[WireField], type_names: dict[Dialect, str]
) -> list[tuple[str, Sequence[Dialect]]]:
    """A disputed parameter that one reading, and only one, gives to a layer that reads it."""
    findings: list[tuple[str, Sequence[Dialect]]] = []
    for item in items:
        fits: dict[Dialect, str] = {}
        strange: dict[Dialect, str] = {}
        for dialect in DIALECTS:
            fields = (
                _layer_class(dialect, layer).DESCRIPTOR.fields_by_number
                if (layer.is_v1 or dialect != "dl1")
                else {}
            )
            name = fields[item.number].name if item.number in fields else ""
            if name in _READ_BY:
                at_home = type_names[dialect] in _READ_BY[name]
                (fits if at_home else strange)[dialect] = name
        if fits and strange:
            dialect, name = next(iter(fits.items()))
            other = next(iter(strange.values()))
            if other != name:
                findings.append(
                    (
                        f"field {item.number} of layer '{layer.name}' ({type_names[dialect]})"
                        f" is {name}, not {other}",
                        list(strange),
                    )
                )
    return findings


def _v1_findings(
    layer: LayerAt, data: memoryview, items: list[WireField], has_legacy_blob: bool
) -> list[tuple[str, Sequence[Dialect]]]:
    findings: list[tuple[str, Sequence[Dialect]]] = []
    numbers = {item.number for item in items}
    if any(item.number == 5 and item.value == 39 for item in items):
        if numbers & {_V1_IMAGE_DATA, _V1_TRANSFORM}:
            findings.append(
                (f"type 39 of layer '{layer.name}' reads pictures: IMAGE_SEG_DATA", ("bvlc", "dl2"))
            )
        elif _V1_CONVOLUTION in numbers or layer.blobs:
            findings.append((f"type 39 of layer '{layer.name}' is DECONVOLUTION", ("dl1",)))
    for item in items:
        is_convolution = item.number == _V1_CONVOLUTION and item.wire_type == wire.LENGTH
        if is_convolution and has_legacy_blob and _numbers_inside(data, item) & {17, 18}:
            # Programs that know force_nd_im2col and dilation (2016) write blobs with a shape.
            findings.append(
                (
                    f"layer '{layer.name}' has convolution field 17 or 18 in a file whose blobs"
                    " have the old four sizes: hole",
                    ("bvlc", "dl2"),
                )
            )
    return findings


def _numbers_inside(data: memoryview, message: WireField) -> set[int]:
    try:
        inside = wire.walk(data, message.start, message.end, FieldBudget())
        return {item.number for item in inside}
    except wire.WireError:  # no message after all: whoever holds it against a schema says so
        return set()


# ------------------------------------------------------------------ readings


def _parse(net: NetAt, report: DialectReport) -> RawNet:
    dialect = report.dialect
    if dialect == "dl1" and any(not layer.is_v1 for layer in net.layers):
        raise CaffeImportError(
            "dialect dl1 has no current-format layers", expected="bvlc or dl2", got="dl1"
        )
    header = _parsed(message_class(dialect, "NetParameter"), net.message, dialect, None)
    layers = tuple(
        _parsed(_layer_class(dialect, layer), layer.message, dialect, layer.name)
        for layer in net.layers
    )
    return RawNet(report, header, layers)


def _parsed(cls: type[Message], content: bytes, dialect: Dialect, layer: str | None) -> Message:
    try:
        return cls.FromString(content)
    except DecodeError:
        # Only where a dialect is forced, or a packed list or an enum is damaged.
        raise CaffeImportError(
            f"is no {cls.DESCRIPTOR.name} of dialect {dialect}", layer=layer
        ) from None


def _demand_same_reading(net: NetAt, one: RawNet, other: RawNet) -> None:
    pairs = zip(one.layers, other.layers, net.layers, strict=True)
    for here, there, at in pairs:
        reading, alternative = (text_format.MessageToString(m) for m in (here, there))
        if reading == alternative:
            continue
        lines = set(alternative.splitlines())
        ours = [line.strip() for line in reading.splitlines() if line not in lines]
        lines = set(reading.splitlines())
        theirs = [line.strip() for line in alternative.splitlines() if line not in lines]
        raise CaffeImportError(
            f"ambiguous dialect: reads as '{' '.join(ours)}' in {one.dialect}"
            f" and as '{' '.join(theirs)}' in {other.dialect}",
            layer=at.name,
            expected="--dialect to say which",
        )
