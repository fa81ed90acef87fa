"""``deeplab-repro build``"""

from __future__ import annotations

import click

from deeplab_repro.cli.common import console, progress
from deeplab_repro.native import build


@click.command("build")
def command() -> None:
    """Compile the native libraries into the user's cache.

    For an installation that was made without torch or a compiler at hand.
    DEEPLAB_REPRO_BUILD=auto|cpu|cuda|none says which, TORCH_CUDA_ARCH_LIST for which GPUs.
    """
    try:
        plan = build.plan()
        for reason in plan.reasons:
            console.print(reason, highlight=False, soft_wrap=True)
        with progress("compiling") as advance:
            libraries = build.build(what=plan)
            advance()
    except build.BuildError as error:
        raise click.ClickException(str(error)) from None
    for library in libraries:
        console.print(f"written: {library}", highlight=False, soft_wrap=True)
