"""Networks as programs for other runtimes: torch.export, and ONNX by way of it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from importlib import import_module
from io import StringIO
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.graph import GraphModule
from deeplab_repro.caffe.scoring import input_rule, scoring_net
from prototxt_import import CaffeImportError, Net, Shape
from prototxt_import.files import replacing
from prototxt_import.words import show

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "export_onnx",
    "export_program",
    "first_line",
    "input_shapes",
    "onnx_bytes",
    "onnx_model",
    "other_shapes",
    "quiet",
    "require_package",
    "without_labels",
]

#: What a protobuf message, and so an ONNX file with its weights inside, can hold.
_MOST_BYTES: Final = 2**31 - 1
#: Characters of another program's error that are passed on.
_LONGEST_REASON: Final = 200
#: Pixels that (height, width) may change by; networks of several scales take sizes in steps of 32.
_SIZE_STEPS: Final = ((-32, -64), (32, 64), (-16, -32), (16, 32), (-1, -2), (1, 2))


class _ByName(nn.Module):
    """A network whose one argument is a table of blobs: what torch.export can give free sizes."""

    def __init__(self, net: GraphModule) -> None:
        super().__init__()
        self.net = net

    def forward(self, blobs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Input blob -> values, to output blob -> values."""
        outputs: dict[str, Tensor] = self.net(**blobs)
        return outputs


def without_labels(net: Net, blob: str | None = None) -> Net:
    """What there is to export of a network: all of it, or what its scores need.

    Args:
        net: in the TEST phase.
        blob: the scores.  A training network, whose outputs want labels, is cut at its scores
            without this (:func:`~deeplab_repro.caffe.scoring.scoring_net`); another stays whole.

    Raises:
        CaffeImportError: no such blob, or several that may be the scores.
    """
    if blob is None and all(declared.required for declared in net.inputs.values()):
        return net
    return scoring_net(net, blob)


def input_shapes(net: Net, given: Mapping[str, Shape] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that a network needs: the given ones, else the declared ones.

    A network that labels pictures and declares no size gets the test crop of the released ones.

    Raises:
        CaffeImportError: an unknown input, or one of which no whole shape is known.
    """
    given = given or {}
    if unknown := given.keys() - net.inputs.keys():
        raise CaffeImportError(
            f"unknown input '{min(unknown)}'", file=net.file, expected=list(net.inputs)
        )
    shapes = {}
    for name, declared in net.inputs.items():
        if not declared.required and name not in given:
            continue
        shape = given.get(name, declared.shape)
        if name not in given and None in shape:
            shape = _test_crop(net, name) or shape
        sizes = [size for size in shape if size]
        if len(sizes) != len(shape) or not sizes:
            raise CaffeImportError(
                f"the size of input '{name}' is not known",
                file=net.file,
                expected=f"--input-shape {name}=1x3xHxW, or what its sizes are",
                got=show([size or None for size in shape]) if shape else None,
            )
        shapes[name] = tuple(sizes)
    return shapes


def _test_crop(net: Net, name: str) -> Shape | None:
    """The shape of one test crop, if the input is a picture that the network labels."""
    with suppress(CaffeImportError):
        part = scoring_net(net)
        if list(part.inputs) == [name]:
            return 1, 3, *input_rule(part).crop
    return None


def other_shapes(
    net: GraphModule, shapes: Mapping[str, tuple[int, ...]], *, batch: bool = False
) -> dict[str, tuple[int, ...]] | None:
    """Input shapes of another height and width, or another batch size, that the network takes.

    Returns:
        None where it takes no other, as with an InnerProduct behind a map.
    """
    changes = ((1,),) if batch else _SIZE_STEPS
    for change in changes:
        changed = {name: _changed(shape, change) for name, shape in shapes.items()}
        if changed == shapes or any(min(shape) < 1 for shape in changed.values()):
            continue
        try:
            net.check_sizes(changed)
        except CaffeImportError:
            continue
        return changed
    return None


def _changed(shape: tuple[int, ...], change: Sequence[int]) -> tuple[int, ...]:
    if len(change) == 1:
        return (shape[0] + change[0], *shape[1:])
    if len(shape) != 4:
        return shape
    return (*shape[:2], shape[2] + change[0], shape[3] + change[1])


def export_program(net: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> ExportedProgram:
    """The network as torch.export writes it down.

    The program takes one argument, a dict from input blobs to values, and returns one from output
    blobs to values.  Batch size, height and width are free where the network leaves them free.
    It holds torch's own operations only.

    Args:
        net: in eval mode; fused or not.
        shapes: of the inputs, as an example; :func:`input_shapes` finds them.

    Raises:
        CaffeImportError: shapes that do not fit, or layers that cannot be exported.

    Example:
        >>> program = export_program(net.fuse(), {"data": (1, 3, 321, 321)})
        >>> scores = program.module()({"data": picture})["fc8_interp"]
    """
    from torch.export import Dim, export

    net.check_sizes(shapes)
    free: list[int] = []
    larger = other_shapes(net, shapes, batch=True)
    if larger is not None:
        free.append(0)
        shapes = larger  # an example of one picture would make a program for one picture
    if other_shapes(net, shapes):
        free += [2, 3]
    example = {name: torch.zeros(shape) for name, shape in shapes.items()}
    dynamic = {
        name: {axis: Dim.DYNAMIC for axis in free if axis == 0 or len(shape) == 4}
        for name, shape in shapes.items()
    }
    try:
        with torch.no_grad(), quiet():
            program = export(
                _ByName(net).eval(),
                (example,),
                dynamic_shapes=(dynamic,),
                # Where branches of a network must meet at one size, that is for the caller of the
                # program to see to, and no reason to allow the example's size only.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except CaffeImportError:
        raise
    except Exception as error:  # torch.export raises whatever its stages raise
        raise CaffeImportError(
            f"cannot be exported: {first_line(error)}", file=net.net.file
        ) from error
    if not _outputs(program):
        raise CaffeImportError(
            "no output of the network can be computed from these inputs",
            file=net.net.file,
            expected="the shapes of more inputs, or a network that is cut at its scores",
            got=list(shapes),
        )
    return program


def export_onnx(
    net: GraphModule, path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Write :func:`onnx_model` to a file; whole or not at all.

    Raises:
        CaffeImportError: as :func:`onnx_model`, or the file cannot be written.
    """
    content = onnx_model(net, shapes)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def onnx_model(net: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The network as an ONNX file with its weights inside.

    Inputs and outputs have the blobs' names; sizes are free as in :func:`export_program`.

    Args:
        net: in eval mode; a fused one makes the smaller file.
        shapes: of the inputs, as an example.

    Raises:
        CaffeImportError: as :func:`export_program`; packages are missing, or the weights exceed
            the 2 GB that such a file can hold.
    """
    for package in ("onnx", "onnxscript"):
        require_package(package)
    tensors = {tensor.data_ptr(): tensor for tensor in (*net.parameters(), *net.buffers())}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > _MOST_BYTES:
        raise CaffeImportError(
            "too large for ONNX",
            file=net.net.file,
            expected="at most 2 GB of weights",
            got=size,
        )
    program = export_program(net, shapes)
    try:
        return onnx_bytes(program, list(shapes), _outputs(program))
    except Exception as error:  # onnxscript raises whatever its stages raise
        raise CaffeImportError(
            f"cannot be written as ONNX: {first_line(error)}", file=net.net.file
        ) from error


def onnx_bytes(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A program as an ONNX file; raises whatever onnxscript raises.

    Args:
        program: what torch.export gave.
        inputs, outputs: their names in the file.
    """
    with quiet():
        onnx_program = torch.onnx.export(
            program, input_names=list(inputs), output_names=list(outputs), verbose=False
        )
        assert onnx_program is not None
        _strip(onnx_program.model)
        content: bytes = onnx_program.model_proto.SerializeToString()
    return content


def _outputs(program: ExportedProgram) -> list[str]:
    """Names of the outputs, in the program's order."""
    spec: Any = program.call_spec.out_spec
    names: list[str] = spec.context
    return names


def _strip(model: Any) -> None:
    """Remove the notes on where each node came from: they name files of this machine."""
    graph = model.graph
    for item in (model, graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        item.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    model.producer_name = "deeplab-repro"


def require_package(package: str) -> Any:
    """Import a package that ONNX needs.

    Raises:
        CaffeImportError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError:
        raise CaffeImportError(
            f"ONNX needs the package {package}, which is not installed",
            expected="pip install 'deeplab-repro[onnx]'",
        ) from None


def first_line(error: BaseException) -> str:
    """What an error says in its first line with any words, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # onnxruntime puts signatures of its C++ functions in front of what is wrong.
    return shorten(lines[0], _LONGEST_REASON) if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's own notes on the progress of an export, and on its own code, to itself.

    Of a network that it cannot export it prints the graph to stderr, too.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
