"""Transformed filters of minimal filtering, kept with a layer while its weight stays as it is."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final

import torch

_OPS = torch.ops.deeplab_repro

#: Bytes that all layers of a process may keep; DEEPLAB_REPRO_KEPT_FILTERS (in MB) says otherwise.
LIMIT: Final = int(float(os.environ.get("DEEPLAB_REPRO_KEPT_FILTERS") or 384) * 1e6)
_MOST_SIZES: Final = 2

_kept_bytes = 0


def kept_bytes() -> int:
    """What all layers keep at this moment, in bytes."""
    return _kept_bytes


class KeptFilters:
    """The transformed filters of one layer, for the sizes of maps that it met last.

    They go when the weight is another one or has changed, as its version counter tells; writing
    through ``weight.data`` escapes that counter, and :meth:`clear` is for those who do. A layer
    keeps none where the process keeps :data:`LIMIT` bytes already.
    """

    def __init__(self) -> None:
        # Of the same memory as the weight, so that no other tensor can come to lie there.
        self._made_of: torch.Tensor | None = None
        self._version = 0
        self._filters: dict[tuple, torch.Tensor] = {}
        self._lock = threading.RLock()  # several threads may run one network

    def __deepcopy__(self, memo: Any) -> KeptFilters:
        return KeptFilters()

    def __reduce__(self) -> tuple:
        return KeptFilters, ()

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._made_of = None
            self._filters.clear()

    def has_room(self, weight: torch.Tensor) -> bool:
        """Whether :meth:`find` will have an answer for this weight."""
        if weight.is_inference():  # no version counter
            return False
        return bool(self._filters) or _fits(weight)

    def find(
        self,
        weight: torch.Tensor,
        image_size: Sequence[int],
        padding: Sequence[int],
        rate: Sequence[int],
        groups: int,
    ) -> torch.Tensor | None:
        """The filters (groups, filters, panels, C / groups, 32), made where there are none.

        weight: (K, C / groups, 3, 3). image_size, padding, rate: (h, w) in pixels. None where they
        cannot be kept: a weight without a version counter, or no memory left for them.
        """
        with self._lock:
            if not self.has_room(weight):
                return None
            if (
                self._made_of is None
                or self._made_of.data_ptr() != weight.data_ptr()
                or self._made_of.stride() != weight.stride()
                or self._version != weight._version
            ):
                self.clear()
                self._made_of, self._version = weight.detach(), weight._version
            key = (tuple(image_size), tuple(padding), tuple(rate), groups, weight.dtype)
            found = self._filters.pop(key, None)
            if found is None:
                while len(self._filters) >= _MOST_SIZES or (self._filters and not _fits(weight)):
                    del self._filters[next(iter(self._filters))]
                found = _OPS.atrous_winograd_filters(
                    weight, list(image_size), list(padding), list(rate), groups, False
                )
                _count(found)
            self._filters[key] = found
            return found


def _fits(weight: torch.Tensor) -> bool:
    # At most 49 transformed filters take the place of 9 taps.
    return _kept_bytes + 6 * weight.nbytes <= LIMIT


def _count(filters: torch.Tensor) -> None:
    global _kept_bytes
    _kept_bytes += filters.nbytes
    weakref.finalize(filters, _uncount, filters.nbytes)


def _uncount(size: int) -> None:
    global _kept_bytes
    _kept_bytes -= size
