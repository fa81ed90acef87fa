"""The typed graph of a network: its layers in the current form, filtered as Caffe filters them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, cast

from prototxt_import.dialect import RawNet
from prototxt_import.errors import CaffeImportError
from prototxt_import.layers import Layer, Phase, Shape, read_layer
from prototxt_import.limits import check_shape
from prototxt_import.schedule import Schedule
from prototxt_import.schema import Dialect
from prototxt_import.upgrade import upgrade_layer

__all__ = ["Input", "Net", "build_net", "filter_net"]

_PHASES: Final = ("TRAIN", "TEST")


@dataclass(frozen=True)
class Input:
    """A blob that comes from outside.

    Attributes:
        shape: as declared; None where the file does not say.
        required: False for the further tops of a data layer (labels, ``data_dim``), without which
            a part of the network can still run.
    """

    shape: Shape
    required: bool = True


@dataclass
class Net:
    """A network in one phase.

    Attributes:
        name: as the file says.
        phase: ``"TRAIN"`` or ``"TEST"``.
        inputs: blob name -> :class:`Input`: declared inputs, Input layers and data layers alike.
        layers: in the order in which Caffe runs them; without input and data layers, and without
            the Split layers that Caffe adds by itself.
        data_layers: the layers that became inputs.
        outputs: blobs that no layer reads, and tops of losses, read or not.
        raw: the file's own messages, all phases.
        file: where it came from, for messages.
    """

    name: str
    phase: Phase
    inputs: dict[str, Input]
    layers: list[Layer]
    data_layers: list[Layer]
    outputs: list[str]
    raw: RawNet
    file: str | None = None
    _by_name: dict[str, Layer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_name = {layer.name: layer for layer in self.layers}

    @property
    def dialect(self) -> Dialect:
        """The dialect that the network was read in."""
        return self.raw.dialect

    @property
    def force_backward(self) -> bool:
        """Whether gradients are computed for everything (net.cpp, Init)."""
        return bool(cast(Any, self.raw.header).force_backward)

    @cached_property
    def schedule(self) -> Schedule:
        """Who reads and writes which value of which blob."""
        return Schedule(self.layers, self.inputs, self.outputs)

    def __getitem__(self, layer: str) -> Layer:
        return self._by_name[layer]


def build_net(
    raw: RawNet,
    *,
    phase: Phase = "TEST",
    level: int = 0,
    stages: Iterable[str] = (),
    filtered: bool = False,
    file: object | None = None,
) -> Net:
    """The network that a file describes for one phase.

    Args:
        raw: the parsed file.
        phase: the phase to keep.  In the v1 fork a ``state { phase }`` in the file goes first;
            later programs overwrite it with what they are asked for (net.cpp).
        level: the level that ``min_level`` and ``max_level`` rules are held against.
        stages: the stages that ``stage`` and ``not_stage`` rules are held against.
        filtered: the layers have been through these rules already (a caffemodel).
        file: for messages.

    Raises:
        CaffeImportError: rules that contradict each other, unknown bottoms, duplicate tops.
    """
    state = _State(raw, phase, level, frozenset(stages))
    # What a rule leaves out is not looked at, whatever it is.
    kept = raw.layers if filtered else state.filtered(raw, file)
    specs = _without_automatic_splits([upgrade_layer(layer, raw.dialect, file) for layer in kept])
    builder = _GraphBuilder(_declared_inputs(raw, file), file)
    try:
        for spec in specs:
            builder.add(read_layer(spec, raw.dialect, state.phase))
    except CaffeImportError as error:
        raise (error.with_file(file) if file is not None else error) from None
    return Net(
        name=raw.header.name,
        phase=state.phase,
        inputs=builder.inputs,
        layers=builder.layers,
        data_layers=builder.data_layers,
        outputs=builder.outputs(),
        raw=raw,
        file=None if file is None else str(file),
    )


def filter_net(raw: RawNet, *, phase: Phase, level: int = 0, stages: Iterable[str] = ()) -> RawNet:
    """The messages that the rules of one phase keep: what Caffe writes into a caffemodel.

    Args:
        raw: the parsed file.
        phase, level, stages: see :func:`build_net`.

    Raises:
        CaffeImportError: rules that contradict each other.
    """
    kept = _State(raw, phase, level, frozenset(stages)).filtered(raw, None)
    return RawNet(raw.report, raw.header, kept)


class _State:
    """NetState, and the rules held against it (net.cpp, FilterNet and StateMeetsRule)."""

    def __init__(self, raw: RawNet, phase: Phase, level: int, stages: frozenset[str]) -> None:
        if phase not in _PHASES:
            raise CaffeImportError("unknown phase", expected="TRAIN or TEST", got=phase)
        stated = raw.header.state
        self.phase: Phase = phase
        if stated.HasField("phase") and raw.dialect == "dl1":
            self.phase = _PHASES[stated.phase]
        # BVLC's Net replaces the file's level by the caller's, the forks know no caller's.
        self.level = level if raw.dialect == "bvlc" else max(level, stated.level)
        self.stages = stages | set(stated.stage)

    def filtered(self, raw: RawNet, file: object) -> tuple[Any, ...]:
        """The layers that the rules keep."""
        return tuple(layer for layer in raw.layers if self.includes(layer, file))

    def includes(self, spec: Any, file: object) -> bool:
        if len(spec.include) and len(spec.exclude):
            raise CaffeImportError(
                "has include and exclude rules", file=file, layer=spec.name, expected="one kind"
            )
        if len(spec.include):
            return any(self._meets(rule) for rule in spec.include)
        return not any(self._meets(rule) for rule in spec.exclude)

    def _meets(self, rule: Any) -> bool:
        return not (
            (rule.HasField("phase") and _PHASES[rule.phase] != self.phase)
            or (rule.HasField("min_level") and self.level < rule.min_level)
            or (rule.HasField("max_level") and self.level > rule.max_level)
            or not self.stages.issuperset(rule.stage)
            or not self.stages.isdisjoint(rule.not_stage)
        )


def _without_automatic_splits(specs: Sequence[Any]) -> list[Any]:
    """Undo insert_splits.cpp: a saved network holds the Split layers that Caffe added.

    Such a layer is called ``BLOB_LAYER_INDEX_split`` and its tops that plus ``_0``, ``_1``, ...
    """
    original: dict[str, str] = {}
    writers: dict[str, Any] = {}  # blob -> the last layer that writes it
    kept: list[Any] = []
    for spec in specs:
        for i, bottom in enumerate(spec.bottom):
            spec.bottom[i] = original.get(bottom, bottom)
        is_automatic = (
            spec.type == "Split"
            and len(spec.bottom) == 1
            and spec.name.endswith("_split")
            and all(top == f"{spec.name}_{i}" for i, top in enumerate(spec.top))
        )
        if is_automatic:
            original.update(dict.fromkeys(spec.top, spec.bottom[0]))
            if spec.loss_weight and spec.bottom[0] in writers:
                blob = spec.bottom[0]
                _return_loss_weight(writers[blob], blob, spec.loss_weight[0])
        else:
            kept.append(spec)
            writers.update(dict.fromkeys(spec.top, spec))
    return kept


def _return_loss_weight(spec: Any, blob: str, weight: float) -> None:
    """Caffe moves the loss weight of a blob that others read to the Split layer behind it."""
    missing = len(spec.top) - len(spec.loss_weight)
    spec.loss_weight.extend([0.0] * missing)
    spec.loss_weight[list(spec.top).index(blob)] = weight


def _declared_inputs(raw: RawNet, file: object) -> dict[str, Input]:
    """``input:`` with ``input_dim:`` (four each) or ``input_shape``; net.cpp, UpgradeNetInput."""
    header: Any = raw.header
    names = list(header.input)
    shapes: list[Shape] = [(None,) * 4] * len(names)
    shaped = [tuple(s.dim) for s in getattr(header, "input_shape", [])]
    dims = list(header.input_dim)
    if shaped and dims:
        raise CaffeImportError("has input_shape and input_dim", file=file, expected="one of them")
    if shaped or dims:
        found = shaped or [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
        if len(found) != len(names) or (dims and len(dims) % 4):
            raise CaffeImportError(
                "input shapes do not match the inputs",
                file=file,
                expected=f"{len(names)} shapes"
                + (f" ({4 * len(names)} input_dim)" if dims else ""),
                got=len(dims) if dims else len(shaped),
            )
        shapes = list(found)
    inputs: dict[str, Input] = {}
    for name, shape in zip(names, shapes, strict=True):
        if name in inputs:
            raise CaffeImportError(f"input '{name}' is declared twice", file=file)
        check_shape(shape, f"input '{name}'", file=file)
        inputs[name] = Input(shape)
    return inputs


class _GraphBuilder:
    """Adds layers one by one, keeping count of which blobs exist and which nobody has read yet."""

    def __init__(self, inputs: dict[str, Input], file: object) -> None:
        self.inputs = inputs
        self.file = file
        self.layers: list[Layer] = []
        self.data_layers: list[Layer] = []
        self._unread: dict[str, None] = dict.fromkeys(inputs)  # a set that keeps its order
        self._existing = set(inputs)
        self._objective: list[str] = []

    def add(self, layer: Layer) -> None:
        if layer.role in ("data", "input"):
            self._add_source(layer)
            return
        if not layer.type:
            raise CaffeImportError(
                "has no type that its dialect knows", file=self.file, layer=layer.name
            )
        for bottom in layer.bottoms:
            if bottom not in self._existing:
                raise CaffeImportError(
                    f"unknown bottom blob '{bottom}'",
                    file=self.file,
                    layer=layer.name,
                    expected="an input or the top of an earlier layer",
                )
            # A blob that only goes to a file is an output all the same.
            if layer.role != "writer":
                self._unread.pop(bottom, None)
        self.layers.append(layer)
        if layer.has_automatic_top:
            return  # nobody can read it, and Caffe does not give it out
        for i, top in enumerate(layer.tops):
            self._add_top(layer, top, in_place=layer.is_in_place(i))
        self._objective += [
            top for top, weight in zip(layer.tops, layer.loss_weights, strict=True) if weight
        ]

    def _add_source(self, layer: Layer) -> None:
        for i, top in enumerate(layer.tops):
            self._add_top(layer, top, in_place=False)
            self.inputs[top] = Input((), required=layer.role == "input" or i == 0)
        for top, shape in zip(layer.tops, layer.shapes([]).tops, strict=True):
            self.inputs[top] = Input(shape, self.inputs[top].required)
        if layer.role == "data":
            self.data_layers.append(layer)

    def _add_top(self, layer: Layer, top: str, *, in_place: bool) -> None:
        if top in self._existing and not in_place:
            raise CaffeImportError(
                f"top blob '{top}' is produced by several layers",
                file=self.file,
                layer=layer.name,
                expected="a new name, or the layer's own bottom (in place)",
            )
        self._existing.add(top)
        self._unread[top] = None

    def outputs(self) -> list[str]:
        """What nobody reads, and what the objective needs although somebody reads it.

        Labels and sizes that a data layer offers do not count.
        """
        unread = [b for b in self._unread if b not in self.inputs or self.inputs[b].required]
        return list(dict.fromkeys([*unread, *self._objective]))
