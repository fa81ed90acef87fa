"""Every layer type has all that it needs, and does what its typed object says.

Whoever adds a type writes one class in ``prototxt_import/layers`` and one module in
``deeplab_repro/caffe/layers``; the messages here name what is missing.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import prototxt_import.layers as kinds
from deeplab_repro.caffe.layers import LAYERS
from prototxt_import import Layer, parse_net
from prototxt_import.layers import KINDS, REFUSED, Memory
from prototxt_import.layers.core import in_capitals
from prototxt_import.schema import DIALECTS, message_class, unified
from tests.caffe.layers.one_layer import shaped
from tests.caffe.layers.oracle_cases import CASES
from tests.caffe.layers.oracles import ORACLES
from tests.caffe.layers.test_oracles import NO_ORACLE, prototxt

LAYER_FIELDS = unified("LayerParameter").DESCRIPTOR.fields_by_name
README = Path(__file__).parents[2] / "README.md"


def modules_folder(cls: type[Layer]) -> str:
    return cls.__module__.rpartition(".")[2]


@pytest.mark.parametrize("name", KINDS)
def test_a_type_has_all_that_it_needs(name: str) -> None:
    cls, missing = KINDS[name], []
    if getattr(kinds, cls.__name__, None) is not cls:
        missing.append(f"prototxt_import/layers/__init__.py does not export {cls.__name__}")
    if cls.__name__ != name:
        missing.append(f"its class is called {cls.__name__}")
    if not re.search(r"_layer\.[ch]pp", cls.__doc__ or ""):
        missing.append("the docstring of its class names no Caffe file")
    if cls.infer is Layer.infer:
        missing.append("its class has no infer(), the shape rule")
    if name not in LAYERS:
        missing.append(f"no module is registered for it in deeplab_repro/caffe/layers/"
                       f"{modules_folder(cls)}.py")  # fmt: skip
    elif LAYERS[name].__module__.rpartition(".")[2] != modules_folder(cls):
        missing.append(f"its module is in {LAYERS[name].__module__}, not {modules_folder(cls)}")
    if cls.kind.message and cls.kind.message not in LAYER_FIELDS:
        missing.append(f"LayerParameter has no field {cls.kind.message}")
    if name not in NO_ORACLE and name not in ORACLES:
        missing.append("no oracle in tests/caffe/layers/oracles*.py")
    if name not in NO_ORACLE and sum(case.type == name for case in CASES.values()) < 2:
        missing.append("fewer than two cases in tests/caffe/layers/oracle_cases*.py")
    assert not missing, f"layer type {name}: " + "; ".join(missing)


def test_no_module_without_a_type() -> None:
    assert not LAYERS.keys() - KINDS.keys()
    assert not KINDS.keys() & REFUSED.keys()


def test_v1_names_are_those_of_the_schemas() -> None:
    """Every V1 type of every program is a type here, or refused by name."""
    known = {cls.kind.v1 for cls in KINDS.values()}
    known |= {refused.v1 or in_capitals(name) for name, refused in REFUSED.items()}
    for dialect in DIALECTS:
        enum = message_class(dialect, "V1LayerParameter").DESCRIPTOR.enum_types_by_name["LayerType"]
        assert {value.name for value in enum.values} - known == {"NONE"}, dialect


def test_fields_are_read_from_the_message_or_by_the_kind() -> None:
    """A dataclass field that is called like no field of the message needs a read() of its own."""
    common = {field.name for field in dataclasses.fields(Layer)}
    for name, cls in KINDS.items():
        message = LAYER_FIELDS.get(cls.kind.message)
        there = set(message.message_type.fields_by_name) if message else set()
        own = {field.name for field in dataclasses.fields(cls)} - common
        assert own <= there or cls.read.__func__ is not Layer.read.__func__, name


def one_per_type() -> dict[str, str]:
    first: dict[str, str] = {}
    for name, case in CASES.items():
        if "weights" not in case.p:
            first.setdefault(case.type, name)
    return first


@pytest.mark.parametrize("name", one_per_type().values())
def test_a_typed_layer_says_what_its_module_does(name: str) -> None:
    """Shapes, number and shapes of blobs, and where the tops lie."""
    case = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [torch.from_numpy(make(rng).astype(np.float32)) for make in case.bottoms]
    shapes = [tuple(x.shape) for x in arrays]
    net = parse_net(prototxt(case, shapes), phase=case.phase, dialect=case.dialect)
    layer = net["op"]
    inferred = layer.shapes(shapes)
    assert len(layer.blobs) == len(layer.fillers()) == len(inferred.params)
    assert layer.describe().startswith((layer.type, "MAX", "AVE", "STOCHASTIC"))
    if layer.is_in_place(0):
        return
    module = shaped(layer, shapes).train(case.phase == "TRAIN")
    module.initialise()
    with torch.no_grad():
        tops = module(*arrays)
    tops = (tops,) if isinstance(tops, torch.Tensor) else tops
    for top, shape in zip(tops, inferred.tops, strict=True):
        assert all(n is None or n == m for n, m in zip(shape, top.shape, strict=True))
    owners = [*arrays, *module.parameters(), *module.buffers()]
    there = {x.untyped_storage().data_ptr() for x in owners if x.numel()}
    is_shared = any(top.numel() and top.untyped_storage().data_ptr() in there for top in tops)
    if layer.memory is Memory.FRESH:
        assert not is_shared, "says FRESH, and its top is somebody else's memory"
    if layer.memory is Memory.VIEW:
        assert is_shared
        assert tops[0].data_ptr() == arrays[0].data_ptr()


def test_the_readme_lists_what_is_refused() -> None:
    text = README.read_text().lower()
    for reason in ("python", "recurrent", "windowdata", "leveldb", "domaintransform", "v0"):
        assert reason in text
