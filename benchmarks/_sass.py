"""Machine code as nvdisasm lists it: the loops of a kernel, and what one pass of a loop issues."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_KERNEL = re.compile(r"^\.text\.(\S+):$", re.MULTILINE)
_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?PT?\d*\s+)?([A-Z]\w*)(.*);")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")


class CodeError(ValueError):
    """Code that has not the loops that a description of it has."""


@dataclass
class Loop:
    """From a label to the last jump back to it. opcodes: counted outside the loops within."""

    first: int
    last: int
    opcodes: Counter[str] = field(default_factory=Counter)
    inner: list[Loop] = field(default_factory=list)

    def within(self) -> list[Loop]:
        """All loops inside, in the order of the code."""
        return [loop for child in self.inner for loop in (child, *child.within())]

    def holds(self, opcode: str) -> int:
        """How often the loop has an opcode, loops within included."""
        return sum(loop.opcodes[opcode] for loop in (self, *self.within()))

    def issued(self, passes: Sequence[float] = ()) -> float:
        """Instructions of one pass; passes: of each loop within, for one of the loop around it."""
        rest = list(passes)
        count = self._issued(rest)
        if rest:
            raise CodeError(f"{len(passes)} loops expected within, {len(self.within())} found")
        return count

    def _issued(self, rest: list[float]) -> float:
        count = float(self.opcodes.total())
        for child in self.inner:
            if not rest:
                raise CodeError("more loops within than expected")
            times = rest.pop(0)
            count += times * child._issued(rest)
        return count


def find_nvdisasm(nvcc: str) -> str | None:
    """On the path, beside nvcc, or from the Python package nvidia-cuda-nvdisasm."""
    beside = [Path(nvcc).resolve().parent / "nvdisasm"]
    packages = [p for entry in sys.path for p in Path(entry or ".").glob("nvidia/*/bin/nvdisasm")]
    installed = [str(path) for path in (*beside, *packages) if path.is_file()]
    return shutil.which("nvdisasm") or (installed[0] if installed else None)


def listing(nvdisasm: str, cubin: Path) -> str:
    command = [nvdisasm, "-c", str(cubin)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kernels(text: str) -> dict[str, list[Loop]]:
    """The outermost loops of each kernel of a listing, by mangled name.

    What leads to a call is left out: the compiler calls its division for numbers beyond 32 bits and
    for denormal floats alone. So are empty instructions.
    """
    parts = _KERNEL.split(text)
    return {name: _loops(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _loops(body: str) -> list[Loop]:
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    jumps: dict[int, str] = {}
    for line in body.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif instruction := _INSTRUCTION.match(line):
            opcode, operands = instruction.groups()
            target = _TARGET.search(operands)
            if opcode == "BRA" and target:
                jumps[len(opcodes)] = target[1]
            opcodes.append(opcode)
    counted = _counted(opcodes, {*labels.values(), *(i + 1 for i in jumps)})
    ends: dict[int, int] = {}
    for i, target in jumps.items():
        start = labels.get(target, i)
        if start < i and counted[i]:
            ends[start] = max(i, ends.get(start, 0))
    outermost: list[Loop] = []
    stack: list[Loop] = []
    for first, last in sorted(ends.items(), key=lambda item: (item[0], -item[1])):
        while stack and stack[-1].last < first:
            stack.pop()
        if stack and stack[-1].last < last:
            continue  # comes back from code that was moved behind the loop
        loop = Loop(first, last)
        (stack[-1].inner if stack else outermost).append(loop)
        stack.append(loop)
    for loop in (inner for outer in outermost for inner in (outer, *outer.within())):
        spans = [(child.first, child.last) for child in loop.inner]
        loop.opcodes.update(
            opcodes[i]
            for i in range(loop.first, loop.last + 1)
            if counted[i] and not any(a <= i <= b for a, b in spans)
        )
    return outermost


def _counted(opcodes: list[str], starts: set[int]) -> list[bool]:
    """Which instructions count: none of a block with a call, and no NOP."""
    counted = [opcode != "NOP" for opcode in opcodes]
    borders = sorted({0, len(opcodes), *(s for s in starts if s < len(opcodes))})
    for first, last in itertools.pairwise(borders):
        if "CALL" in opcodes[first:last]:
            counted[first:last] = [False] * (last - first)
    return counted


def innermost(loops: list[Loop], opcodes: Sequence[str]) -> Loop | None:
    """The innermost loop with all of the opcodes; of several, the one with most instructions."""
    every = [loop for outer in loops for loop in (outer, *outer.within())]
    having = [loop for loop in every if all(loop.holds(opcode) for opcode in opcodes)]
    deepest = [loop for loop in having if not any(inner in having for inner in loop.within())]
    return max(deepest, key=lambda loop: loop.last - loop.first, default=None)
