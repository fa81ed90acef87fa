"""Parts of a network that are computed again in the backward pass instead of being remembered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prototxt_import import Net
from prototxt_import.inference import NetShapes, blob_memory
from prototxt_import.layers import count

__all__ = ["checkpointed", "layer_parts", "parts"]

_Result = TypeVar("_Result")


def checkpointed(
    run: Callable[[dict[str, Tensor]], _Result],
    values: Mapping[str, Tensor],
    modules: Iterable[nn.Module] = (),
) -> _Result:
    """What ``run`` makes of ``values``; the backward pass computes it again, to the bit.

    Random numbers are drawn again as they were, and buffers that a module changes, such as the
    statistics of BatchNorm, are for that while what they were at first and then what they are.

    Args:
        run: computes tensors, in any nesting of dicts and tuples.
        values: what it gets; they are remembered.
        modules: those that it calls.
    """
    names = tuple(values)
    before = _Buffers(modules)
    result: _Result = checkpoint(
        lambda *tensors: run(dict(zip(names, tensors, strict=True))),
        *values.values(),
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), before),
    )
    return result


class _Buffers:
    """A context in which the buffers of modules are copies of what they were when this was made."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        own = [m for module in modules for m in module.modules() if m.training and m._buffers]
        self._modules = list(dict.fromkeys(own))
        self._first = self._copies([dict(module._buffers) for module in self._modules])
        self._present: list[dict[str, Tensor | None]] = []

    def __enter__(self) -> None:
        self._present = [dict(module._buffers) for module in self._modules]
        self._put(self._copies(self._first))  # a second backward pass finds the first ones as well

    def __exit__(self, *error: object) -> None:
        self._put(self._present)
        self._present = []

    def _put(self, buffers: Sequence[dict[str, Tensor | None]]) -> None:
        for module, own in zip(self._modules, buffers, strict=True):
            module._buffers.update(own)

    @staticmethod
    def _copies(buffers: Sequence[dict[str, Tensor | None]]) -> list[dict[str, Tensor | None]]:
        """A tensor that modules share is shared among the copies, too."""
        copies = {id(b): b.clone() for own in buffers for b in own.values() if b is not None}
        return [
            {n: None if b is None else copies[id(b)] for n, b in own.items()} for own in buffers
        ]


def layer_parts(net: Net, shapes: NetShapes) -> list[range]:
    """:func:`parts` of a network's layers.

    Args:
        net: the network.
        shapes: of its blobs, for the inputs in question.
    """
    costs = [sum(count(top) or 0 for top in item.shapes.tops) for item in shapes.layers]
    return parts(costs, [live or 0 for live in blob_memory(net, shapes).live])


def parts(costs: Sequence[int], live: Sequence[int]) -> list[range]:
    """Where to divide a sequence of layers so that the backward pass needs little memory.

    It needs what lives at the ends of the parts all the time, and of one part after the other what
    its layers remember.  Of the divisions into parts of about the same costs, this is the one for
    which the sum is least.

    Args:
        costs: what each layer remembers, in any unit.
        live: what lives beside and behind each layer, in the same unit.

    Returns:
        the numbers of each part's layers.
    """

    def peak(division: Sequence[range]) -> int:
        ends = sum(live[part[-1]] for part in division[:-1])
        return ends + max(sum(costs[i] for i in part) for part in division)

    if not costs:
        return []
    # Where all layers cost the same, the root of their number is best.
    most = min(len(costs), 4 * math.isqrt(len(costs)))
    divisions = [_divided(costs, sum(costs) / n) for n in range(1, most + 1)]
    return min(divisions, key=peak)


def _divided(costs: Sequence[int], most: float) -> list[range]:
    """Parts of no more than ``most``, where no single layer has more."""
    division, start, cost = [], 0, 0
    for i, own in enumerate(costs):
        if cost + own > most and i > start:
            division.append(range(start, i))
            start, cost = i, 0
        cost += own
    return [*division, range(start, len(costs))]
