"""From a layer's message to its typed object."""

from __future__ import annotations

from typing import Any

from prototxt_import.errors import CaffeImportError
from prototxt_import.layers.core import AUTOMATIC, KINDS, Layer, Phase
from prototxt_import.layers.parts import Blob
from prototxt_import.layers.refused import Unsupported
from prototxt_import.schema import Dialect

__all__ = ["read_layer"]


def read_layer(spec: Any, dialect: Dialect, phase: Phase) -> Layer:
    """The typed object of a layer; the only place where its message is read.

    Args:
        spec: unified ``LayerParameter`` message, without blobs.
        dialect: of its file.
        phase: of its network.

    Raises:
        CaffeImportError: parameters that Caffe refuses, whatever the bottoms are.
    """
    cls = KINDS.get(spec.type, Unsupported)
    tops = list(spec.top)
    has_automatic_top = cls.role == "loss" and not tops
    if has_automatic_top:
        tops = [AUTOMATIC]  # net.cpp, AutoTopBlobs
    message = getattr(spec, cls.kind.message) if cls.kind.message else None
    return cls(
        name=spec.name,
        type=spec.type,
        bottoms=list(spec.bottom),
        tops=tops,
        dialect=dialect,
        phase=phase,
        loss_weights=_loss_weights(spec, cls, len(tops)),
        propagate_down=_propagate_down(spec),
        strict_dim=spec.strict_dim,
        has_automatic_top=has_automatic_top,
        stated_blobs=tuple(
            Blob(
                lr_mult=item.lr_mult,
                decay_mult=item.decay_mult,
                share_name=item.name,
                permissive=item.share_mode == item.PERMISSIVE,
            )
            for item in spec.param
        ),
        spec=spec,
        **cls.read(message, spec, dialect),
    )


def _loss_weights(spec: Any, cls: type[Layer], tops: int) -> list[float]:
    given = list(spec.loss_weight)
    if given and len(given) != tops:
        raise CaffeImportError(
            "has another number of loss weights than tops",
            layer=spec.name,
            expected=tops,
            got=len(given),
        )
    return given or [1.0 if cls.role == "loss" and i == 0 else 0.0 for i in range(tops)]


def _propagate_down(spec: Any) -> list[bool]:
    wanted = list(spec.propagate_down)
    if wanted and len(wanted) != len(spec.bottom):
        raise CaffeImportError(
            "has another number of propagate_down than bottoms",
            layer=spec.name,
            expected=len(spec.bottom),
            got=len(wanted),
        )
    return wanted
