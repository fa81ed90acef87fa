"""Whole models: a network, its weights, or both, from any of the four kinds of file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prototxt_import import caffemodel, hdf5, safetensors_file
from prototxt_import.caffemodel import Array, Weights
from prototxt_import.dialect import RawNet
from prototxt_import.errors import CaffeImportError
from prototxt_import.files import kind_of, read_text
from prototxt_import.layers import Phase
from prototxt_import.net import Net, build_net
from prototxt_import.schema import DIALECTS, Dialect
from prototxt_import.text import fill_placeholders, parse_text, placeholders_in

__all__ = ["Model", "parse_net", "read_model", "read_net", "read_weights", "write_weights"]

StrPath = str | os.PathLike[str]
#: Ending of a file to write -> its kind.
_WRITERS = (".safetensors", ".caffemodel", ".h5")


@dataclass
class Model:
    """What one or two files hold.

    Attributes:
        raw: the network as its file states it, all phases; None if no file holds one.
        filtered: the phase rules have been applied already, as in a caffemodel.
        weights: layer name -> blobs.
        net_file: where the network came from.
        weights_file: where the weights came from.
        placeholders: names of the ``${NAME}`` that the network's prototxt had.
    """

    raw: RawNet | None = None
    filtered: bool = False
    weights: Weights = field(default_factory=dict)
    net_file: str | None = None
    weights_file: str | None = None
    placeholders: tuple[str, ...] = ()

    def net(self, phase: Phase = "TEST", *, level: int = 0, stages: Iterable[str] = ()) -> Net:
        """The network in one phase.

        Raises:
            CaffeImportError: the files hold weights alone.
        """
        if self.raw is None:
            raise CaffeImportError(
                "holds weights but no network",
                file=self.weights_file,
                expected="its prototxt beside it (--prototxt)",
            )
        return build_net(
            self.raw,
            phase=phase,
            level=level,
            stages=stages,
            filtered=self.filtered,
            file=self.net_file,
        )


def parse_net(
    text: str,
    phase: Phase = "TEST",
    dialect: Dialect | None = None,
    *,
    level: int = 0,
    stages: Iterable[str] = (),
    placeholders: Mapping[str, str] | None = None,
    file: object | None = None,
) -> Net:
    """The network that a prototxt describes, for one phase.

    Args:
        text: prototxt in the V1 or the current format.
        phase: ``"TRAIN"`` or ``"TEST"``.
        dialect: read it in this dialect; by default the names in it decide.
        level: for ``min_level`` and ``max_level`` rules.
        stages: for ``stage`` and ``not_stage`` rules.
        placeholders: values of ``${NAME}``.
        file: for messages.

    Raises:
        CaffeImportError: text that cannot be used; says where and why.
    """
    filled = fill_placeholders(text, placeholders, file=file)
    raw = parse_text(filled, forced=_known(dialect), file=file)
    return build_net(raw, phase=phase, level=level, stages=stages, file=file)


def read_net(
    path: StrPath,
    phase: Phase = "TEST",
    dialect: Dialect | None = None,
    *,
    level: int = 0,
    stages: Iterable[str] = (),
    placeholders: Mapping[str, str] | None = None,
) -> Net:
    """The network in a prototxt, or the one that a caffemodel or safetensors file embeds.

    See :func:`parse_net` for the arguments.
    """
    model = read_model(path, dialect=dialect, placeholders=placeholders, want_weights=False)
    return model.net(phase, level=level, stages=stages)


def read_weights(path: StrPath) -> Weights:
    """The weights in a ``.caffemodel``, ``.caffemodel.h5`` or ``.safetensors``.

    Returns:
        layer name -> blobs as numpy arrays (float32, or float64 where the file has doubles), in
        Caffe's order and in the shapes that the file states: four axes in files of old programs.

    Raises:
        CaffeImportError: damaged, or none of the three.
    """
    return _read_weights(path, want_net=False, dialect=None).weights


def read_model(
    path: StrPath,
    prototxt: StrPath | None = None,
    *,
    dialect: Dialect | None = None,
    placeholders: Mapping[str, str] | None = None,
    want_weights: bool = True,
) -> Model:
    """A model, from weights with the network in them or beside them, or from a prototxt alone.

    Args:
        path: a caffemodel, ``.caffemodel.h5``, safetensors file or prototxt.
        prototxt: the network; goes before the one that ``path`` may embed.
        dialect: read the network in this dialect.
        placeholders: values of ``${NAME}`` in a prototxt.
        want_weights: leave the weights in their file if False.

    Raises:
        CaffeImportError: a file that cannot be used.
    """
    _known(dialect)
    if kind_of(path) == "prototxt":
        if prototxt is not None:
            raise CaffeImportError(
                "is a prototxt, and so is the other file", file=path, expected="weights"
            )
        model, text_file = Model(), path
    else:
        model = _read_weights(
            path,
            want_net=prototxt is None,
            dialect=dialect,
            want_weights=want_weights,
        )
        if prototxt is None:
            return model
        text_file = prototxt
    text = read_text(text_file)
    filled = fill_placeholders(text, placeholders, file=text_file)
    model.placeholders = placeholders_in(text)
    model.raw = parse_text(filled, forced=dialect, file=text_file)
    model.net_file, model.filtered = str(text_file), False
    return model


def write_weights(
    path: StrPath,
    weights: Mapping[str, Sequence[Array]],
    net: RawNet | Net | None = None,
    *,
    filtered: bool = False,
) -> None:
    """Write weights as ``.caffemodel``, ``.caffemodel.h5`` or ``.safetensors``, by the ending.

    Args:
        path: the file to write; it is replaced in one step when all is written.
        weights: layer name -> blobs.
        net: the network to embed (a ``.caffemodel.h5`` has no place for it).
        filtered: its phase rules have been applied (remembered in a safetensors file).

    Raises:
        CaffeImportError: another ending, or a file that cannot be written.
    """
    raw = net.raw if isinstance(net, Net) else net
    ending = Path(path).suffix
    if ending == ".safetensors":
        safetensors_file.write_safetensors(path, weights, raw, filtered=filtered)
    elif ending == ".caffemodel":
        caffemodel.write_caffemodel(path, weights, raw)
    elif ending == ".h5":
        hdf5.write_hdf5(path, weights)
    else:
        raise CaffeImportError(
            "unknown kind of output", file=path, expected=" or ".join(_WRITERS), got=ending
        )


def _read_weights(
    path: StrPath, *, want_net: bool, dialect: Dialect | None, want_weights: bool = True
) -> Model:
    kind = kind_of(path)
    name = os.fspath(path)
    if kind == "prototxt":
        raise CaffeImportError("is a prototxt", file=path, expected="weights")
    if kind == "torch":
        raise CaffeImportError(
            "is a file of torch.save",
            file=path,
            expected="a caffemodel, .caffemodel.h5 or safetensors file",
        )
    if kind == "hdf5":
        return Model(weights=hdf5.read_hdf5(path) if want_weights else {}, weights_file=name)
    if kind == "safetensors":
        raw, filtered, weights = safetensors_file.read_safetensors(
            path, dialect=dialect, want_weights=want_weights
        )
        return Model(raw, filtered, weights, net_file=name, weights_file=name)
    raw, weights = caffemodel.read_caffemodel(
        path, dialect=dialect, want_net=want_net, want_weights=want_weights
    )
    return Model(raw, raw is not None, weights, net_file=name, weights_file=name)


def _known(dialect: str | None) -> Dialect | None:
    for known in DIALECTS:
        if dialect == known:
            return known
    if dialect is None:
        return None
    raise CaffeImportError("unknown dialect", expected=" or ".join(DIALECTS), got=dialect)
