"""Message classes of the three Caffe dialects, and of the union that the rest of the code reads.

The ``caffe_*.proto`` files beside this module are the wire schemas of three programs that put
different messages at the same field numbers:

========  ==================================================================
``bvlc``  BVLC Caffe 1.0
``dl2``   the DeepLab v2 fork, split off from BVLC Caffe at 1.0.0-rc3
``dl1``   the DeepLab v1 fork of 2014, which knows only the V1 layer format
========  ==================================================================

A file is read with the schema of *its* dialect.  Field names, unlike field numbers, mean the same
thing in all of them, so what has been read is carried over **by name** into :func:`unified`
messages, the only ones that the rest of the package looks at.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["DIALECTS", "Dialect", "carry_over", "message_class", "preferred", "unified"]

Dialect = Literal["bvlc", "dl2", "dl1"]
DIALECTS: Final[tuple[Dialect, ...]] = ("bvlc", "dl2", "dl1")

_FieldProto = descriptor_pb2.FieldDescriptorProto


def preferred(candidates: Iterable[Dialect], *, is_v1: bool) -> list[Dialect]:
    """Dialects that read a file the same, the one to take first.

    A few layers compute differently in the three programs though they are written the same.  Where
    nothing tells, a file of this project is one of DeepLab's: V1 layers are the v1 fork's, current
    ones the v2 fork's.
    """
    order = ("dl1", "dl2", "bvlc") if is_v1 else ("dl2", "bvlc", "dl1")
    return sorted(candidates, key=order.index)


@cache
def _file_descriptors() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Package name -> compiled schema file."""
    packed = (files(__package__) / "schema.binpb").read_bytes()
    return {f.package: f for f in descriptor_pb2.FileDescriptorSet.FromString(packed).file}


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in _file_descriptors().values():
        pool.Add(file)
    pool.Add(_unified_file())
    return pool


@cache
def message_class(dialect: Dialect, name: str) -> type[Message]:
    """The class of message ``name`` in the wire schema of ``dialect``; KeyError if it has none."""
    return _message_class(f"caffe_{dialect}.{name}")


@cache
def unified(name: str) -> type[Message]:
    """The class of message ``name`` in the union by name of the three schemas.

    ``LayerParameter`` is the current layer form with the parameters of every dialect's layers.
    Its field numbers are arbitrary: never write one of these messages to a file.
    """
    return _message_class(f"caffe.{name}")


def _message_class(full_name: str) -> type[Message]:
    cls = message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))
    # The class is no attribute of any module, which is where pickle would look for it.
    copyreg.pickle(cls, lambda message: (restore, (full_name, message.SerializeToString())))
    return cls


def restore(full_name: str, content: bytes) -> Message:
    """The message of that type (with its package) that was serialized to ``content``."""
    return _message_class(full_name).FromString(content)


def _unified_file() -> descriptor_pb2.FileDescriptorProto:
    """Merge the dialects' schemas by name: first come, first kept; repeated beats single."""
    merged = descriptor_pb2.FileDescriptorProto(
        name="caffe_unified.proto", package="caffe", syntax="proto2"
    )
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    enums: set[str] = set()
    for dialect in DIALECTS:
        source = _file_descriptors()[f"caffe_{dialect}"]
        for enum in source.enum_type:
            if enum.name not in enums:
                enums.add(enum.name)
                merged.enum_type.add().CopyFrom(enum)
        for message in source.message_type:
            if message.name not in messages:
                messages[message.name] = merged.message_type.add(name=message.name)
            _merge_message(messages[message.name], message)
        # What exists in the V1 format only: softmaxloss_param, padding_param, .., strict_dim.
        v1 = next(m for m in source.message_type if m.name == "V1LayerParameter")
        parameters = [f for f in v1.field if f.name.endswith(("_param", "strict_dim"))]
        _merge_fields(messages["LayerParameter"], parameters)
    for message in merged.message_type:
        for number, field in enumerate(message.field, start=1):
            field.number = number
            # Closed types of the dialect's own package become those of the union.
            if field.type_name:  # .caffe_dl1.NAME, in the package of the dialect, becomes the union's
                field.type_name = ".caffe." + field.type_name.split(".", 2)[2]
    return merged


def _merge_message(
    into: descriptor_pb2.DescriptorProto, message: descriptor_pb2.DescriptorProto
) -> None:
    known = {enum.name for enum in into.enum_type}
    into.enum_type.extend(enum for enum in message.enum_type if enum.name not in known)
    _merge_fields(into, message.field)


def _merge_fields(into: descriptor_pb2.DescriptorProto, fields: Any) -> None:
    known = {field.name: field for field in into.field}
    for field in fields:
        if field.name not in known:
            into.field.add().CopyFrom(field)
            into.field[-1].options.Clear()
        elif field.label == _FieldProto.LABEL_REPEATED:
            known[field.name].label = _FieldProto.LABEL_REPEATED
            known[field.name].ClearField("default_value")
    for field in into.field:
        # Absence is told by whoever reads, with the layer's name, rather than by the parser.
        if field.label == _FieldProto.LABEL_REQUIRED:
            field.label = _FieldProto.LABEL_OPTIONAL


def carry_over(source: Message, target: Message) -> None:
    """Copy every set field of ``source`` to the field of the same name in ``target``.

    A single value goes into a repeated field as its only element, and the other way round where
    there is one.  Enum values travel by name.

    Raises:
        LookupError: ``target`` has no field (or enum value) of that name.
    """
    for field, value in source.ListFields():
        to = target.DESCRIPTOR.fields_by_name.get(field.name)
        if to is None:
            raise LookupError(f"{target.DESCRIPTOR.name} has no field '{field.name}'")
        values = list(value) if field.is_repeated else [value]
        if to.is_repeated:
            for item in values:
                if to.type == FieldDescriptor.TYPE_MESSAGE:
                    carry_over(item, getattr(target, to.name).add())
                else:
                    getattr(target, to.name).append(_scalar(field, to, item))
        elif len(values) > 1:
            raise LookupError(f"{target.DESCRIPTOR.name}.{to.name} holds one value, not several")
        elif to.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(target, to.name).SetInParent()
            carry_over(values[0], getattr(target, to.name))
        else:
            setattr(target, to.name, _scalar(field, to, values[0]))


def _scalar(source: FieldDescriptor, target: FieldDescriptor, value: Any) -> Any:
    if source.type == FieldDescriptor.TYPE_ENUM and target.type == FieldDescriptor.TYPE_ENUM:
        name = source.enum_type.values_by_number[value].name
        if name not in target.enum_type.values_by_name:
            raise LookupError(f"{target.full_name} has no value {name}")
        return target.enum_type.values_by_name[name].number
    return value
