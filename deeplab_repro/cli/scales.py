"""``--scales 0.5 0.75 1`` of ``segment``."""

from __future__ import annotations

import click

from deeplab_repro.errors import InputError

__all__ = ["ScalesCommand", "scale_of"]


class ScalesCommand(click.Command):
    """``--scales 0.5 0.75 1``: click has no options with any number of values."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        in_scales = False
        for i, argument in enumerate(args):
            if argument == "--":
                spread += args[i:]
                break
            if in_scales and spread[-1] != "--scales":
                in_scales = _is_number(argument)
                if in_scales:
                    spread.append("--scales")
            in_scales = in_scales or argument == "--scales"
            spread.append(argument)
        return super().parse_args(ctx, spread)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def scale_of(text: str) -> float:
    """A factor of ``--scales``.

    Raises:
        InputError: it is no positive number.
    """
    scale = float(text) if _is_number(text) else 0.0
    if not 0 < scale < float("inf"):
        raise InputError("--scales", expected="positive numbers", got=text)
    return scale
