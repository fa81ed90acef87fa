"""A solver prototxt as a typed object: every field checked once, as ``caffe train`` checks them."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from deeplab_repro.train.rates import POLICIES, Policy
from prototxt_import import CaffeImportError, Dialect, Model, Net, Phase, read_model
from prototxt_import.files import read_text
from prototxt_import.text import fill_placeholders, parse_message, parse_text, placeholders_in

__all__ = ["NetSource", "SolverSettings", "read_solver"]

#: The fields that name the network to train, in the order in which solver.cpp lists them.
_TRAIN_NETS: Final = ("net", "net_param", "train_net", "train_net_param")
#: ``solver_type``, the enum of old solver files -> ``type``.
_OLD_TYPES: Final = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}
#: The settings that each solver's arithmetic reads.
_READ_BY: Final = {
    "SGD": ("momentum",),
    "Nesterov": ("momentum",),
    "AdaGrad": ("delta",),
    "RMSProp": ("rms_decay", "delta"),
    "AdaDelta": ("momentum", "delta"),
    "Adam": ("momentum", "momentum2", "delta"),
}
#: Fields that ask for what is not done here, with the value that asks for nothing.
_WITHOUT_EFFECT: Final = {"debug_info": False, "snapshot_diff": False}


@dataclass(frozen=True)
class NetSource:
    """Where a network comes from, and the state that the solver file adds to it.

    Attributes:
        model: the network, all phases.
        level: for ``min_level`` and ``max_level`` rules.
        stages: for ``stage`` and ``not_stage`` rules.
    """

    model: Model
    level: int = 0
    stages: tuple[str, ...] = ()

    def net(self, phase: Phase) -> Net:
        """The network of a phase."""
        return self.model.net(phase, level=self.level, stages=self.stages)


@dataclass(frozen=True, kw_only=True)
class SolverSettings:
    """What a solver file says, Caffe's defaults filled in.

    Attributes:
        file: the solver file.
        train_net: the network to train; None where it was not asked for.
        test_nets: the networks to test with, one for each of ``test_iter``.
        type: ``"SGD"``, ``"Nesterov"``, ``"AdaGrad"``, ``"RMSProp"``, ``"AdaDelta"`` or ``"Adam"``.
        options: what that solver reads of momentum, momentum2, rms_decay and delta, and what all
            read: weight_decay, regularization, clip_gradients, iter_size.
        base_lr: what the policy's factor is multiplied by.
        policy: how the rate follows the iterations.
        max_iter: iterations in all.
        iter_size: passes over a batch each, whose gradients are averaged for one update.
        display: how often the loss is told, in iterations; 0 for never.
        average_loss: over how many iterations the told loss is averaged.
        test_iter: batches of each test.
        test_interval: how often to test, in iterations; 0 for never.
        test_initialization: test before the first iteration too.
        test_compute_loss: tell the objective of the test too.
        snapshot: how often to write a snapshot, in iterations; 0 for never.
        snapshot_prefix: folder and start of the name of every snapshot.
        snapshot_hdf5: write ``.h5`` files rather than serialized messages.
        snapshot_after_train: write one at the end.
        random_seed: None for a different one in every run.
        on_cpu: ``solver_mode: CPU``.
        device_id: number of the GPU.
        weights: caffemodels to start from.
        placeholders: names of the ``${NAME}`` that it and its networks had.
    """

    file: str
    train_net: NetSource | None
    test_nets: tuple[NetSource, ...]
    type: str
    options: Mapping[str, Any]
    base_lr: float
    policy: Policy
    max_iter: int
    iter_size: int
    display: int
    average_loss: int
    test_iter: tuple[int, ...]
    test_interval: int
    test_initialization: bool
    test_compute_loss: bool
    snapshot: int
    snapshot_prefix: str
    snapshot_hdf5: bool
    snapshot_after_train: bool
    random_seed: int | None
    on_cpu: bool
    device_id: int
    weights: tuple[str, ...]
    placeholders: tuple[str, ...]

    def snapshot_path(self, iteration: int, ending: str) -> Path:
        """The file of a snapshot (solver.cpp, SnapshotFilename).

        Args:
            iteration: updates done.
            ending: ``".caffemodel"`` or ``".solverstate"``.
        """
        ending += ".h5" if self.snapshot_hdf5 else ""
        return Path(f"{self.snapshot_prefix}_iter_{iteration}{ending}")


def read_solver(
    path: str | os.PathLike[str],
    *,
    placeholders: Mapping[str, str] | None = None,
    dialect: Dialect | None = None,
    with_net: bool = True,
) -> SolverSettings:
    """Read a solver file, and the networks that it names.

    File names in it are relative to the working directory, as in Caffe.  ``rms_decay`` is 0.99
    where the file states none, as in BVLC Caffe 1.0; the v2 fork had 0.

    Args:
        path: the solver prototxt.
        placeholders: values of ``${NAME}`` in it and in the networks.
        dialect: of the networks, if their own evidence is to be overruled.
        with_net: read the network to train, which the file then has to name.

    Raises:
        CaffeImportError: a file that cannot be read, an unknown field or value, or settings that
            contradict each other; one line says which.
    """
    text = read_text(path)
    filled = fill_placeholders(text, placeholders, file=path)
    message = parse_message(filled, "SolverParameter", file=path)
    try:
        return _Reader(message, path, placeholders, dialect).read(with_net, placeholders_in(text))
    except CaffeImportError as error:
        raise error.with_file(path) from None


class _Reader:
    """Reads one message; an error that names no file gets the solver's."""

    def __init__(
        self,
        message: Any,
        path: str | os.PathLike[str],
        placeholders: Mapping[str, str] | None,
        dialect: Dialect | None,
    ) -> None:
        self.message = message
        self.dialect = dialect
        self.path = path
        self.placeholders = placeholders
        self._files: dict[str, Model] = {}

    def read(self, with_net: bool, own: tuple[str, ...]) -> SolverSettings:
        """The settings of a solver file with these placeholders of its own."""
        message = self.message
        for name, without in _WITHOUT_EFFECT.items():
            if getattr(message, name) != without:
                warnings.warn(f"{self.path}: {name} has no effect here", stacklevel=4)
        solver = self._type()
        self._check_numbers()
        test_iter = tuple(message.test_iter)
        train_net = self._train_net() if with_net else None
        test_nets = self._test_nets()
        modes = message.DESCRIPTOR.fields_by_name["solver_mode"].enum_type.values_by_name
        formats = message.DESCRIPTOR.fields_by_name["snapshot_format"].enum_type.values_by_name
        return SolverSettings(
            file=os.fspath(self.path),
            train_net=train_net,
            test_nets=test_nets,
            type=solver,
            options={
                **{name: getattr(message, name) for name in _READ_BY[solver]},
                "weight_decay": message.weight_decay,
                "regularization": message.regularization_type,
                "clip_gradients": message.clip_gradients,
                "iter_size": message.iter_size,
            },
            base_lr=message.base_lr,
            policy=self._policy(),
            max_iter=message.max_iter,
            iter_size=message.iter_size,
            display=message.display,
            average_loss=message.average_loss,
            test_iter=test_iter,
            test_interval=message.test_interval,
            test_initialization=message.test_initialization,
            test_compute_loss=message.test_compute_loss,
            snapshot=message.snapshot,
            snapshot_prefix=self._snapshot_prefix(),
            snapshot_hdf5=message.snapshot_format == formats["HDF5"].number,
            snapshot_after_train=message.snapshot_after_train,
            random_seed=message.random_seed if message.random_seed >= 0 else None,
            on_cpu=message.solver_mode == modes["CPU"].number,
            device_id=message.device_id,
            weights=tuple(name.strip() for names in message.weights for name in names.split(",")),
            placeholders=tuple(
                dict.fromkeys(
                    (*own, *(n for model in self._files.values() for n in model.placeholders))
                )
            ),
        )

    # ---------------------------------------------------------------- numbers

    def _type(self) -> str:
        """``type``, or the enum ``solver_type`` of old files (upgrade_proto.cpp)."""
        message = self.message
        if not message.HasField("solver_type"):
            found: str = message.type
        elif message.HasField("type"):
            raise CaffeImportError("has type and solver_type", expected="one of them")
        else:
            enum = message.DESCRIPTOR.fields_by_name["solver_type"].enum_type
            found = _OLD_TYPES[enum.values_by_number[message.solver_type].name]
        if found not in _READ_BY:
            raise CaffeImportError("unknown solver type", expected=_either(_READ_BY), got=found)
        if found in ("AdaGrad", "RMSProp") and message.momentum:
            raise CaffeImportError(
                f"momentum cannot be used with {found}", expected="0", got=message.momentum
            )
        return found

    def _check_numbers(self) -> None:
        message = self.message
        for name in ("base_lr", "max_iter"):
            if not message.HasField(name):
                raise CaffeImportError(f"lacks {name}", expected=f"{name}: NUMBER")
        self._check("base_lr", "0 or more", message.base_lr >= 0)
        self._check("max_iter", "0 or more", message.max_iter >= 0)
        for name in ("iter_size", "average_loss"):
            self._check(name, "1 or more", getattr(message, name) >= 1)
        for name in ("momentum", "weight_decay", "delta", "display", "snapshot", "test_interval"):
            self._check(name, "0 or more", getattr(message, name) >= 0)
        for name in ("momentum2", "rms_decay"):
            self._check(name, "0 or more and below 1", 0 <= getattr(message, name) < 1)
        self._check("clip_gradients", "a number", not math.isnan(message.clip_gradients))
        self._check("regularization_type", "L1 or L2", message.regularization_type in ("L1", "L2"))
        if any(count < 1 for count in message.test_iter):
            raise CaffeImportError("test_iter", expected="1 or more", got=min(message.test_iter))

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            raise CaffeImportError(name, expected=expected, got=getattr(self.message, name))

    def _policy(self) -> Policy:
        message = self.message
        name = message.lr_policy
        kind = POLICIES.get(name)
        if kind is None:
            raise CaffeImportError(
                "unknown lr_policy" if name else "lacks lr_policy",
                expected=_either(POLICIES),
                got=name or None,
            )
        if name == "step":
            self._check("stepsize", "1 or more with lr_policy step", message.stepsize >= 1)
        fields = (field for field in kind.__dataclass_fields__ if field not in ("name", "start"))
        values = {field: getattr(message, field) for field in fields}
        if "stepvalue" in values:
            values["stepvalue"] = tuple(values["stepvalue"])
        return kind(**values)

    def _snapshot_prefix(self) -> str:
        """As upgrade_proto.cpp completes it."""
        message = self.message
        own = Path(self.path).with_suffix("")
        if not message.HasField("snapshot_prefix"):
            return str(own)
        prefix: str = message.snapshot_prefix
        return str(Path(prefix) / own.name) if os.path.isdir(prefix) else prefix

    # ---------------------------------------------------------------- networks

    def _train_net(self) -> NetSource:
        message = self.message
        named = [name for name in _TRAIN_NETS if message.HasField(name)]
        if len(named) != 1:
            raise CaffeImportError(
                "names several networks to train" if named else "names no network to train",
                expected=f"one of {', '.join(_TRAIN_NETS)}",
                got=" and ".join(named) or None,
            )
        value = getattr(message, named[0])
        return self._source(value, message.train_state)

    def _test_nets(self) -> tuple[NetSource, ...]:
        """First those of their own, then the generic one for what is left (InitTestNets)."""
        message = self.message
        values: list[Any] = [*message.test_net_param, *message.test_net]
        count, wanted = len(message.test_iter), len(values)
        generic = [name for name in ("net_param", "net") if message.HasField(name)]
        if count < wanted or (count > wanted and not generic):
            raise CaffeImportError(
                "needs a test_iter for each test net", expected=wanted, got=count
            )
        values += [getattr(message, name) for name in generic] * (count - wanted)
        states = list(message.test_state)
        if states and len(states) != count:
            raise CaffeImportError(
                "needs a test_state for each test net, or none", expected=count, got=len(states)
            )
        if count and message.test_interval == 0:
            raise CaffeImportError("lacks test_interval", expected="1 or more with test_iter")
        states = states or [message.train_state.__class__()] * count
        return tuple(self._source(*pair) for pair in zip(values, states, strict=True))

    def _source(self, net: Any, state: Any) -> NetSource:
        """A network from the file of that name, or the one in the solver file itself."""
        if isinstance(net, str):
            if net not in self._files:
                self._files[net] = read_model(
                    net, placeholders=self.placeholders, dialect=self.dialect
                )
            model = self._files[net]
        else:
            text = text_format.MessageToString(net)
            model = Model(
                parse_text(text, forced=self.dialect, file=self.path), net_file=os.fspath(self.path)
            )
        stated: Any = None if model.raw is None else model.raw.header
        level = state.level if state.HasField("level") or stated is None else stated.state.level
        return NetSource(model, level, tuple(state.stage))


def _either(names: Mapping[str, Any]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
