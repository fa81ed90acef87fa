"""The typed graph of a network: its layers in the current form, filtered as Caffe filters them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from prototxt_import.dialect import RawNet
from prototxt_import.errors import CaffeImportError
from prototxt_import.limits import check_shape
from prototxt_import.schema import Dialect
from prototxt_import.upgrade import upgrade_layers

__all__ = ["DATA_LAYERS", "Input", "Layer", "Net", "Phase", "Shape", "build_net"]

Phase = Literal["TRAIN", "TEST"]
#: None stands for a size that the file does not tell.
Shape = tuple[int | None, ...]

#: Layers that read files: without their files, their tops are inputs of the network.
DATA_LAYERS: Final = frozenset(["HDF5Data", "ImageData", "ImageSegData", "MatRead", "MemoryData"])
#: Layers that only write files or discard; a blob that goes nowhere else is an output all the same
#: unless it is discarded on purpose (Silence).
SINKS: Final = frozenset(["HDF5Output", "MatWrite"])
_PHASES: Final = ("TRAIN", "TEST")


@dataclass(frozen=True)
class Layer:
    """One layer in the current form.

    Attributes:
        spec: unified ``LayerParameter`` message, without blobs.
        dialect: the dialect it came from; some layer types compute differently in the forks.
        phase: the phase of its network.
    """

    spec: Any
    dialect: Dialect
    phase: Phase

    @property
    def name(self) -> str:
        """The layer's name."""
        return cast(str, self.spec.name)

    @property
    def type(self) -> str:
        """The layer's type as the current format spells it, such as ``"Convolution"``."""
        return cast(str, self.spec.type)

    @property
    def bottoms(self) -> list[str]:
        """Names of the blobs it reads."""
        return list(self.spec.bottom)

    @property
    def tops(self) -> list[str]:
        """Names of the blobs it writes."""
        return list(self.spec.top)

    @property
    def loss_weights(self) -> list[float]:
        """How much each top counts in the objective: a loss's first top 1 unless told.

        layer.hpp, SetLossWeights, and loss_layer.cpp.

        Raises:
            CaffeImportError: another number of weights than tops.
        """
        given, tops = list(self.spec.loss_weight), len(self.spec.top)
        if given and len(given) != tops:
            raise CaffeImportError(
                "has another number of loss weights than tops",
                layer=self.name,
                expected=tops,
                got=len(given),
            )
        is_loss = self.type.endswith("Loss")
        return given or [1.0 if is_loss and i == 0 else 0.0 for i in range(tops)]

    def is_in_place(self, top: int) -> bool:
        """Whether top number ``top`` overwrites the bottom of that number (net.cpp, AppendTop)."""
        return top < len(self.spec.bottom) and self.spec.bottom[top] == self.spec.top[top]


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
    specs = upgrade_layers(raw, file)
    if not filtered:
        specs = [spec for spec in specs if state.includes(spec, file)]
    specs = _without_automatic_splits(specs)
    layers = [Layer(spec, raw.dialect, state.phase) for spec in specs]
    inputs = _declared_inputs(raw, file)
    builder = _GraphBuilder(inputs, file)
    for layer in layers:
        builder.add(layer)
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


class _State:
    """NetState, and the rules held against it (net.cpp, FilterNet and StateMeetsRule)."""

    def __init__(self, raw: RawNet, phase: Phase, level: int, stages: frozenset[str]) -> None:
        if phase not in _PHASES:
            raise CaffeImportError("unknown phase", expected="TRAIN or TEST", got=phase)
        stated = raw.header.state
        self.phase: Phase = phase
        if stated.HasField("phase") and raw.dialect == "dl1":
            self.phase = _PHASES[stated.phase]
        self.level = max(level, stated.level)
        self.stages = stages | set(stated.stage)

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
        self._automatic_tops: Counter[str] = Counter()
        self._objective: list[str] = []

    def add(self, layer: Layer) -> None:
        if layer.type in DATA_LAYERS or layer.type == "Input":
            self._add_source(layer)
            return
        if not layer.type:
            raise CaffeImportError("has no type", file=self.file, layer=layer.name)
        for bottom in layer.bottoms:
            if bottom not in self._existing:
                raise CaffeImportError(
                    f"unknown bottom blob '{bottom}'",
                    file=self.file,
                    layer=layer.name,
                    expected="an input or the top of an earlier layer",
                )
            if layer.type not in SINKS:
                self._unread.pop(bottom, None)
        if layer.type.endswith("Loss") and not layer.tops:
            # net.cpp, AutoTopBlobs: a loss without a top gets one of its own.
            layer.spec.top.append(self._free_name(layer.name))
        for i, top in enumerate(layer.tops):
            self._add_top(layer, top, in_place=layer.is_in_place(i))
        self._objective += [
            top for top, weight in zip(layer.tops, layer.loss_weights, strict=True) if weight
        ]
        self.layers.append(layer)

    def _add_source(self, layer: Layer) -> None:
        for i, top in enumerate(layer.tops):
            self._add_top(layer, top, in_place=False)
            self.inputs[top] = Input((), required=layer.type == "Input" or i == 0)
        # Imported here: shapes are inferred from Layer, which this module defines.
        from prototxt_import.shapes import infer

        shapes = infer(layer, []).tops
        for top, shape in zip(layer.tops, shapes, strict=True):
            self.inputs[top] = Input(shape, self.inputs[top].required)
        if layer.type in DATA_LAYERS:
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

    def _free_name(self, wanted: str) -> str:
        free = wanted
        while free in self._existing:
            # Counted for each name, so that many losses of one name do not search anew each time.
            self._automatic_tops[wanted] += 1
            free = f"{wanted}_{self._automatic_tops[wanted]}"
        return free

    def outputs(self) -> list[str]:
        """What nobody reads, and what the objective needs although somebody reads it.

        Labels and sizes that a data layer offers do not count.
        """
        unread = [b for b in self._unread if b not in self.inputs or self.inputs[b].required]
        return list(dict.fromkeys([*unread, *self._objective]))
