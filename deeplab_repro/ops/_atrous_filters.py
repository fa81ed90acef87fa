"""Filters that are kept, transformed for minimal filtering, while a layer does not learn."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch import nn

from deeplab_repro.ops._atrous_interlace import How

_OPS = torch.ops.deeplab_repro

_Pair = tuple[int, ...]

_PANEL: Final = 32  # filters
_MOST_SETS: Final = 2

# All that any layer keeps: the scales of a network have the same weights, and share.
_shared: weakref.WeakValueDictionary[tuple, torch.Tensor] = weakref.WeakValueDictionary()
_kept_bytes = 0
# Of all that is kept, for several threads may run one network; and memory may be freed within.
_lock = threading.RLock()


@lru_cache(maxsize=1)
def limit() -> int:
    """Bytes that all layers of a process may keep: 512 MB, or DEEPLAB_REPRO_KEPT_FILTERS (in MB).

    Raises:
        ValueError: that variable is no number.
    """
    given = os.environ.get("DEEPLAB_REPRO_KEPT_FILTERS") or "512"
    try:
        return int(float(given) * 1e6)
    except (ValueError, OverflowError):
        raise ValueError(
            f"DEEPLAB_REPRO_KEPT_FILTERS must be a number of megabytes, got {given!r}"
        ) from None


def kept_bytes() -> int:
    """What all layers keep at this moment, in bytes."""
    return _kept_bytes


class KeptFilters:
    """The transformed filters of one layer, for the combinations of taps that it met last.

    They are made again when a fingerprint of the weight says that its values have changed, however
    that came about. Layers of equal weights share them, and filters for more combinations serve for
    fewer. A layer keeps none where the process keeps :func:`limit` bytes already.
    """

    def __init__(self) -> None:
        self._made_of: tuple | None = None
        self._filters: dict[int, torch.Tensor] = {}

    def __deepcopy__(self, memo: Any) -> KeptFilters:
        return KeptFilters()

    def __reduce__(self) -> tuple:
        return KeptFilters, ()

    def clear(self) -> None:
        """Forget all."""
        with _lock:
            self._made_of = None
            self._filters.clear()

    def has_room(self, weight: torch.Tensor, image_size: Sequence[int], how: How) -> bool:
        """Whether :meth:`find` will have an answer, as far as one can tell without looking."""
        return bool(self._filters) or _fits(_size(weight, how.groups, _needed(image_size, how)))

    def find(
        self, weight: torch.Tensor, image_size: Sequence[int], how: How
    ) -> tuple[torch.Tensor | None, int]:
        """The filters, made where there are none.

        Args:
            weight: (K, C / groups, 3, 3).
            image_size: (H, W) of the maps, in pixels.
            how: of the convolution, whose stride is 1.

        Returns:
            (groups, filters, panels, C / groups, 32), or None where there is no memory left for
            them; and the set of combinations that they are for, which has those that are needed. It
            alone says which filters they are, whatever accuracy asks for it.
        """
        needed, groups = _needed(image_size, how), how.groups
        made_of = (_OPS.fingerprint(weight), weight.shape, weight.dtype, groups)
        with _lock:
            if made_of != self._made_of:
                self.clear()
            found, of = self._filters.pop(needed, None), needed
            if found is None:
                found, of = _shared_by(made_of, needed)
            if found is None:
                size = _size(weight, groups, needed)
                while self._filters and (len(self._filters) >= _MOST_SETS or not _fits(size)):
                    del self._filters[next(iter(self._filters))]
                if not _fits(size):
                    return None, needed
                found = _OPS.atrous_winograd_filters(weight, needed, groups)
                _shared[made_of, needed] = found
                _count(found)
            self._made_of = made_of
            self._filters[of] = found
            return found, of


class KeepsFilters(nn.Module):
    """A layer with :class:`KeptFilters` while it is in evaluation mode.

    Attributes:
        accuracy: "exact" or "fast", as of :func:`~deeplab_repro.ops.atrous_conv2d`.
    """

    accuracy: str = "exact"

    @property
    def kept(self) -> KeptFilters | None:
        """None while the layer learns."""
        return None if self.training else self.__dict__.setdefault("_kept", KeptFilters())

    def train(self, mode: bool = True) -> Any:
        """As of every module; a layer that learns keeps nothing."""
        self.__dict__.pop("_kept", None)
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> Any:
        self.__dict__.pop("_kept", None)
        return super()._apply(fn, recurse)


def may_keep() -> bool:
    """Whether nobody records the operations: what is kept would be a constant of the recording."""
    return not torch.jit.is_tracing() and torch._C._len_torch_dispatch_stack() == 0


def _needed(image_size: Sequence[int], how: How) -> int:
    """The set of combinations for maps of this size (H, W)."""
    return _filter_set(tuple(image_size), how.padding, how.rate, how.fast)


@lru_cache(maxsize=1024)
def _filter_set(image_size: _Pair, padding: _Pair, rate: _Pair, fast: bool) -> int:
    return int(_OPS.atrous_winograd_filter_set(image_size, padding, rate, fast))


def _size(weight: torch.Tensor, groups: int, filter_set: int) -> int:
    """Bytes of the transformed filters of a set, whose panels are filled up."""
    count = _OPS.atrous_winograd_filter_count(filter_set)
    panels = -(-(weight.shape[0] // groups) // _PANEL)
    return int(groups * count * panels * _PANEL * weight.shape[1] * weight.element_size())


def _shared_by(made_of: tuple, needed: int) -> tuple[torch.Tensor | None, int]:
    """Filters of an equal weight, for these combinations and perhaps more."""
    for (weight, combinations), filters in list(_shared.items()):
        if weight == made_of and combinations & needed == needed:
            return filters, combinations
    return None, needed


def _fits(size: int) -> bool:
    return _kept_bytes + size <= limit()


def _count(filters: torch.Tensor) -> None:
    global _kept_bytes
    _kept_bytes += filters.nbytes
    weakref.finalize(filters, _uncount, filters.nbytes).atexit = False


def _uncount(size: int) -> None:
    global _kept_bytes
    with _lock:
        _kept_bytes -= size
