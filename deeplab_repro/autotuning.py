"""Which algorithm of the atrous convolution is the fastest here, layer by layer of a network.

>>> net = load_caffe("test.prototxt", "train_iter_20000.caffemodel").fuse()
>>> print(deeplab_repro.autotune(net, (1, 3, 513, 513)))
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deeplab_repro.errors import InputError
from deeplab_repro.ops import _atrous_rules, _atrous_tuned
from deeplab_repro.ops._atrous_cache import Milliseconds, TimingsFile, is_wanted
from deeplab_repro.ops._atrous_filters import KeepsFilters
from deeplab_repro.ops._atrous_rules import Problem
from deeplab_repro.ops._atrous_timing import candidates, measure
from prototxt_import.errors import printable

__all__ = ["Timing", "Tuning", "autotune", "forget"]


@dataclass(frozen=True)
class Timing:
    """One convolution problem of a network.

    Attributes:
        problem: sizes, in which direction, on which device.
        layers: the names of the modules that meet it in one pass, one for each time.
        milliseconds: algorithm -> median.
        by_rules: what "auto" takes without measurement.
        is_new: it was measured now, not in an earlier process.
    """

    problem: Problem
    layers: tuple[str, ...]
    milliseconds: Milliseconds
    by_rules: str
    is_new: bool

    @property
    def chosen(self) -> str:
        """The fastest algorithm."""
        return _fastest(self.milliseconds)


@dataclass(frozen=True)
class Tuning:
    """What :func:`autotune` found; ``print`` shows it as a table.

    Attributes:
        timings: of each problem, in the order of the network.
        threads: that torch had.
        cache: the file that keeps them, or None.
    """

    timings: tuple[Timing, ...]
    threads: int
    cache: Path | None

    def total(self, *, by_rules: bool = False) -> float:
        """Milliseconds of all convolutions of a pass, as chosen or by the rules' choices."""
        return sum(
            len(t.layers) * t.milliseconds[t.by_rules if by_rules else t.chosen]
            for t in self.timings
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what the attributes say, and both totals."""
        return {
            "threads": self.threads,
            "cache": None if self.cache is None else str(self.cache),
            "milliseconds": self.total(),
            "milliseconds_by_rules": self.total(by_rules=True),
            "timings": [
                {
                    "layers": t.layers,
                    "problem": {**t.problem._asdict(), "dtype": str(t.problem.dtype)},
                    "milliseconds": t.milliseconds,
                    "chosen": t.chosen,
                    "by_rules": t.by_rules,
                }
                for t in self.timings
            ],
        }

    def __rich__(self) -> Table:
        names = list(dict.fromkeys(chain(*(t.milliseconds for t in self.timings))))
        table = Table(box=None, pad_edge=False, header_style="bold", caption=self._caption())
        table.caption_justify = "left"
        table.add_column("layer", overflow="fold")
        table.add_column("convolution", no_wrap=True)
        for heading in (*names, "chosen", "by rules"):
            table.add_column(heading, justify="right" if heading in names else "left", no_wrap=True)
        some_kept = any(t.problem.kept for t in self.timings)
        for t in self.timings:
            shown = (
                _rounded(t.milliseconds[name]) if name in t.milliseconds else "-" for name in names
            )
            chosen = t.chosen if t.chosen == t.by_rules else f"[bold green]{t.chosen}[/]"
            layers = escape(printable(_shortened(t.layers)))
            words = _described(t.problem)
            if some_kept and t.problem.direction == "forward" and not t.problem.kept:
                words += ", filters not kept" if "winograd" in t.milliseconds else ""
            table.add_row(layers, words, *shown, chosen, t.by_rules)
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=160)
        console.print(self)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in lines)

    def _caption(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        accuracies = sorted({"fast" if t.problem.fast else "exact" for t in self.timings})
        kept = "" if self.cache is None else f"; kept in {escape(str(self.cache))}"
        return (
            f"milliseconds on {threads}, {' and '.join(accuracies)}; all convolutions of a pass:"
            f" {_rounded(self.total())} as chosen, {_rounded(self.total(by_rules=True))} by the"
            f" rules{kept}"
        )


def autotune(
    net: nn.Module,
    input_shape: Sequence[int],
    *,
    seconds: float = 0.3,
    cache: bool = True,
    progress: bool = True,
) -> Tuning:
    """Measure which algorithms are the fastest for a network here, and let "auto" take them.

    Every convolution with holes of the network whose algorithm is "auto" counts, in evaluation
    mode forward, and in train mode with its gradients. What was measured before on such a machine
    with as many threads is read from the user's cache, and what was not is added there. The choices
    hold for this process, for whatever network meets the same problems: the same sizes, on as many
    threads. "auto" decides by its rules for all else, and in graphs of torch.compile. Results
    differ by rounding, within what the layers' `accuracy` allows.

    Args:
        net: on its device and in its mode. It computes one batch of random pictures, or a few;
            parameters and buffers stay as they are.
        input_shape: (N, C, H, W), such as (1, 3, 513, 513).
        seconds: for each problem.
        cache: False measures everything anew, and keeps it for this process only; so does
            DEEPLAB_REPRO_AUTOTUNE_CACHE=0 in the environment. `print` of the result names the file.
        progress: show a bar, where there is a terminal.

    Returns:
        the times of every algorithm, and the choices.

    Raises:
        InputError: another shape, or a network without such convolutions.
        ValueError: an input that the network cannot use, as it says itself.

    Warns:
        UserWarning: a cache file that cannot be used or written.
    """
    if len(input_shape) != 4 or not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise InputError(
            "input_shape", expected="(N, C, H, W) of at least 1", got=tuple(input_shape)
        )
    tensors = (t for t in chain(net.parameters(), net.buffers()) if t.is_floating_point())
    like = next(tensors, torch.empty(0))
    file = TimingsFile(like.device.type) if cache and is_wanted() else None
    before = {} if file is None else file.read()
    measured: dict[Problem, Milliseconds] = {}
    timings: dict[Problem, Milliseconds] = {}
    try:
        with _unchanged(net):
            x = torch.randn(tuple(input_shape), dtype=like.dtype, device=like.device)
            met = _met(net, x)
            # Once other algorithms are chosen, other layers find room to keep their filters.
            while new := [problem for problem in met if problem not in timings]:
                for problem in _tracked(new, progress):
                    found = before.get(problem)
                    if found is None or found.keys() != set(candidates(problem)):
                        found = measured[problem] = measure(problem, seconds)
                    timings[problem] = found
                for problem in new:
                    _atrous_tuned.prefer(problem, _fastest(timings[problem]))
                met = _met(net, x)
    finally:
        if file is not None and measured:
            file.add(measured)
    return Tuning(
        tuple(
            Timing(
                problem,
                tuple(layers),
                timings[problem],
                _atrous_rules.choose(problem),
                problem in measured,
            )
            for problem, layers in met.items()
        ),
        torch.get_num_threads(),
        None if file is None else file.path,
    )


def forget() -> None:
    """Let "auto" decide by its rules again, in this process; the cache stays."""
    _atrous_tuned.forget()


def _fastest(milliseconds: Milliseconds) -> str:
    return min(milliseconds, key=milliseconds.__getitem__)


def _met(net: nn.Module, x: Tensor) -> dict[Problem, list[str]]:
    """Every problem of a pass, with the name of the layer each time that it is met.

    Raises:
        InputError: there is none.
    """
    met: dict[Problem, list[str]] = {}
    running = ""

    def meet(problem: Problem) -> None:
        met.setdefault(problem, []).append(running)

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            nonlocal running
            running = name

        return hook

    layers = {name: m for name, m in net.named_modules() if isinstance(m, KeepsFilters)}
    hooks = [
        hook
        for name, layer in layers.items()
        for hook in (
            layer.register_forward_pre_hook(enter(name)),
            layer.register_forward_hook(enter("")),
        )
    ]
    try:
        with _atrous_tuned.listening(meet):
            _pass(net, x)
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers.values():
            if layer.kept is not None:
                layer.kept.clear()  # measurements need the room
    if not met:
        other = {str(getattr(layer, "algorithm", "auto")) for layer in layers.values()}
        raise InputError(
            "the network has no convolution to choose an algorithm for",
            expected="one with algorithm 'auto' and precision 'fp32', not compiled by torch",
            got=f"{len(layers)} by {', '.join(sorted(other))}" if layers else "none with holes",
        )
    return met


def _pass(net: nn.Module, x: Tensor) -> None:
    """Forward, and back where the network learns."""
    with torch.set_grad_enabled(net.training):
        leaves = [leaf for leaf in tree_leaves(net(x)) if isinstance(leaf, Tensor)]
        learned = [leaf.float().sum() for leaf in leaves if leaf.requires_grad]
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if learned:
            torch.autograd.grad(torch.stack(learned).sum(), parameters, allow_unused=True)


@contextmanager
def _unchanged(net: nn.Module) -> Iterator[None]:
    """Give what a pass changes its state back: random numbers, averages of a normalization."""
    values: Mapping[str, Tensor] = (
        {name: buffer.clone() for name, buffer in net.named_buffers()} if net.training else {}
    )
    with torch.random.fork_rng():
        try:
            yield
        finally:
            buffers = dict(net.named_buffers())
            with torch.no_grad():
                for name, value in values.items():
                    buffers[name].copy_(value)


def _tracked(problems: Sequence[Problem], progress: bool) -> Iterator[Problem]:
    """One after the other, with a bar on a terminal."""
    errors = Console(stderr=True)
    yield from track(
        problems,
        "measuring",
        console=errors,
        transient=True,
        disable=not (progress and errors.is_terminal),
    )


def _rounded(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _shortened(layers: Sequence[str]) -> str:
    named = [name for name in dict.fromkeys(layers) if name]
    if not named:
        return f"({len(layers)})" if len(layers) > 1 else ""
    return named[0] if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"


def _described(p: Problem) -> str:
    def pair(values: tuple[int, int]) -> str:
        return str(values[0]) if values[0] == values[1] else f"{values[0]}x{values[1]}"

    parts = [f"{p.channels} -> {p.filters}", f"{p.kernel_size[0]}x{p.kernel_size[1]}"]
    for word, values in (("rate", p.rate), ("stride", p.stride)):
        if values != (1, 1):
            parts.append(f"{word} {pair(values)}")
    if p.groups > 1:
        parts.append(f"{p.groups} groups")
    parts.append(f"{p.image_size[0]}x{p.image_size[1]}")
    if p.batch > 1:
        parts.append(f"{p.batch} pictures")
    if p.direction != "forward":
        parts.append({"grad_input": "to the input", "grad_weight": "to the weight"}[p.direction])
    if p.channels_last:
        parts.append("channels last")
    return ", ".join(parts)
