"""The command line: ``deeplab-repro COMMAND``.

Exit code 0: done, and for ``compare``: equal.  1: not equal.  2: bad input, said in one line.
130: stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

import deeplab_repro

__all__ = ["main"]

#: Command -> one line for the overview.  Each lives in the module of its name, with "_" for "-",
#: and is imported only when it is called, so that ``--help`` need not wait for torch.
_COMMANDS: Final = {
    "convert": "Convert a Caffe model, or TensorFlow's variables, to another kind of file.",
    "inspect": "Show the layers, shapes and costs of a network, or the variables of a checkpoint.",
    "activations": "Run a network and save every blob.",
    "compare": "Compare every blob with what Caffe computed.",
    "segment": "Label the pixels of pictures.",
    "crf": "Refine score maps by a dense CRF.",
    "crf-search": "Search for the CRF's parameters that suit a network's scores.",
    "crf-tune": "Choose a CRF's parameters by eye, on a page in the browser.",
    "data": "Prepare and check pictures and labels.",
    "evaluate": "Score label maps against the truth.",
    "reproduce": "Score a released model, and hold it against the published numbers.",
    "train": "Train a network as `caffe train` does.",
    "networks": "List the DeepLab networks, or write one as prototxt.",
    "weights": "List the released models, and get their weights.",
    "surgery": "Make the weights that a DeepLab network starts its training from.",
    "plot": "Draw the curves of training runs.",
    "export": "Export a network to ONNX.",
    "autotune": "Measure which algorithms are the fastest for a network here.",
    "doctor": "Show what this installation can do, and why not more.",
    "build": "Compile the native libraries into the user's cache.",
}


#: Exit code of a program that SIGINT has ended.
_INTERRUPTED: Final = 130


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"deeplab_repro.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(deeplab_repro.__version__, prog_name="deeplab-repro")
def _app() -> None:
    """DeepLab v1 and v2 as their Caffe code computed them, v3 and v3+ as TensorFlow did.

    MODEL is a .caffemodel, .caffemodel.h5, .safetensors, a prototxt alone, or the name of a
    released model whose weights are here (`deeplab-repro weights`); of DeepLab v3 and v3+ a
    TensorFlow checkpoint by its prefix, or a frozen graph.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    warnings.showwarning = _show_warning
    try:
        code = _app.main(args=arguments, prog_name="deeplab-repro", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except click.exceptions.Abort:
        _fail("stopped", _INTERRUPTED)
    except ModuleNotFoundError as error:
        _fail(f"the Python package {error.name} is not installed (deeplab-repro doctor)")
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's way of saying MemoryError
            raise
        _fail("not enough memory for this network and input")
    except (ValueError, OSError, MemoryError) as error:
        # BadInput is a ValueError; what else an unusable argument raises is said in one line too.
        _fail(_describe(error))
    sys.exit(code if isinstance(code, int) else 0)


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _fail(message: str, code: int = 2) -> None:
    click.echo(f"deeplab-repro: {_one_line(message)}", err=True)
    sys.exit(code)


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    click.echo(f"deeplab-repro: warning: {_one_line(str(message))}", err=True)


def _one_line(message: str) -> str:
    from prototxt_import.errors import printable  # imports h5py: --help need not wait for that

    return printable(message)
