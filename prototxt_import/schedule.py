"""Who reads and writes what, when: the one account of a network's blobs over a forward pass.

A blob's name stands for several values where layers work in place; a value is a name and how often
it had been written.  Running, fusing, counting memory and looking for causes all ask here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

from prototxt_import.layers.parts import Memory

__all__ = ["Node", "Schedule", "Turn", "Value"]


class Node(Protocol):
    """Something that reads and writes blobs; a layer is one."""

    @property
    def bottoms(self) -> Sequence[str]:
        """Blobs that it reads."""

    @property
    def tops(self) -> Sequence[str]:
        """Blobs that it writes."""

    @property
    def memory(self) -> Memory:
        """Where its tops lie; a top of its bottom's name lies where that lies in any case."""

    @property
    def shares_data(self) -> bool:
        """Whether in Caffe its tops are the memory of bottom 0."""


class Value(NamedTuple):
    """A blob, from one writing to the next; version 0 is the first."""

    blob: str
    version: int


class Turn(NamedTuple):
    """What one node's turn does to the blobs.

    Attributes:
        reads: the value of each bottom.
        writes: the value of each top.
        frees: blobs that nobody needs after it.
        aliases: blobs whose memory, in Caffe, its in-place top overwrites too.
    """

    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    frees: tuple[str, ...]
    aliases: tuple[str, ...]


class Schedule:
    """The values of a sequence of nodes.

    Args:
        nodes: in the order in which they run.
        inputs: blobs that are there before.
        outputs: blobs that stay.

    Attributes:
        turns: one a node.
        readers: value -> numbers of the nodes that read it.
        last_touch: blob -> number of the last node that reads or writes it.
        writers: blob -> numbers of the nodes that write it, in order.
        final: the values that the outputs have in the end.
        home: value -> the first value of the memory that it lies in, itself if that is its own.
        last_use: first value of a memory -> number of the last node that touches it, -1 for an
            input that nobody reads, the number of nodes for what stays.
        fresh: values in memory that nothing else looks at.
    """

    def __init__(
        self, nodes: Sequence[Node], inputs: Iterable[str], outputs: Collection[str]
    ) -> None:
        self.readers: dict[Value, list[int]] = {}
        self.writers: dict[str, list[int]] = {}
        self.home: dict[Value, Value] = {}
        self.fresh: set[Value] = set()
        self._version = dict.fromkeys(inputs, 0)
        self._inputs = frozenset(self._version)
        for name in self._version:
            self.home[Value(name, 0)] = Value(name, 0)
        self.last_touch: dict[str, int] = {}
        data = _SharedData(self._version)
        accesses = []
        for i, node in enumerate(nodes):
            reads = tuple(self._now(bottom) for bottom in node.bottoms)
            for value in reads:
                self.readers.setdefault(value, []).append(i)
            writes = tuple(self._write(i, k, node, reads) for k in range(len(node.tops)))
            self.last_touch.update(dict.fromkeys([*node.bottoms, *node.tops], i))
            accesses.append((reads, writes, data.after(node)))
        self.final = {self._now(name) for name in outputs if name in self._version}
        self.turns: list[Turn] = []
        for i, (node, (reads, writes, aliases)) in enumerate(zip(nodes, accesses, strict=True)):
            touched = dict.fromkeys([*node.bottoms, *node.tops])
            frees = tuple(b for b in touched if self.last_touch[b] == i and b not in outputs)
            self.turns.append(Turn(reads, writes, frees, aliases))
        self.last_use = self._last_uses()

    def _now(self, blob: str) -> Value:
        return Value(blob, self._version[blob])

    def _write(self, i: int, k: int, node: Node, reads: tuple[Value, ...]) -> Value:
        """Node ``i`` writes top ``k``."""
        blob = node.tops[k]
        self._version[blob] = self._version.get(blob, -1) + 1
        value = self._now(blob)
        in_place = k < len(node.bottoms) and node.bottoms[k] == blob
        # A top over its own name replaces the value, in the same memory if one can.
        shared = reads[k] if in_place else reads[0] if node.memory is Memory.VIEW else None
        self.home[value] = value if shared is None else self.home[shared]
        if node.memory is Memory.FRESH:
            self.fresh.add(value)
        self.writers.setdefault(blob, []).append(i)
        return value

    def _last_uses(self) -> dict[Value, int]:
        last = dict.fromkeys(self.home.values(), -1)
        for i, turn in enumerate(self.turns):
            for value in (*turn.reads, *turn.writes):
                last[self.home[value]] = i
        last.update({self.home[value]: len(self.turns) for value in self.final})
        return last

    def may_overwrite(self, i: int) -> bool:
        """Whether node ``i`` is the only one to look at the memory of its one bottom's value.

        In :attr:`fresh` memory, that is: others may be views, or what the caller gave.
        """
        (value,) = self.turns[i].reads
        return value in self.fresh and self.readers[value] == [i]

    def readers_of(self, blob: str) -> list[int]:
        """Numbers of the nodes that read any value of ``blob``, in order."""
        found = (nodes for value, nodes in self.readers.items() if value.blob == blob)
        return sorted(chain.from_iterable(found))

    def is_there(self, value: Value, i: int) -> bool:
        """Whether ``value`` is what node ``i`` would find under its name."""
        # Inputs have a version before anything is written.
        first = 0 if value.blob in self._inputs else 1
        return self.read_before(i, value.blob) - first == value.version

    def read_before(self, i: int, blob: str) -> int:
        """How many of the :attr:`writers` of ``blob`` had written it when node ``i`` read it."""
        return sum(writer < i for writer in self.writers.get(blob, ()))


class _SharedData:
    """Which blobs are one memory in Caffe: the tops of layers that share data, and the bottoms."""

    def __init__(self, inputs: Iterable[str]) -> None:
        self._owner = {name: name for name in inputs}  # blob -> the blob whose memory it is
        self._family: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def after(self, node: Node) -> tuple[str, ...]:
        """Account for a node; the blobs that it overwrites by the way."""
        aliases: dict[str, None] = {}
        for k, top in enumerate(node.tops):
            if k < len(node.bottoms) and node.bottoms[k] == top:
                if node.memory is Memory.VIEW:  # it leaves the values as they are
                    continue
                family = self._family.get(self._owner.get(top, top), {})
                aliases.update({name: None for name in family if name != top})
            elif node.shares_data:
                owner = self._owner.get(node.bottoms[0], node.bottoms[0])
                self._owner[top] = owner
                self._family[owner].update({node.bottoms[0]: None, top: None})
            else:
                self._owner[top] = top
        return tuple(aliases)
