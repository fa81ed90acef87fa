"""Networks as programs for other runtimes: torch.export, and ONNX by way of it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.graph import GraphModule
from prototxt_import import CaffeImportError, Net, Shape
from prototxt_import.files import replacing

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "export_onnx",
    "export_program",
    "first_line",
    "input_shapes",
    "other_shapes",
    "require_package",
]

#: What a protobuf message, and so an ONNX file with its weights inside, can hold.
_MOST_BYTES: Final = 2**31 - 1
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


def input_shapes(net: Net, given: Mapping[str, Shape] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that a network needs: the given ones, else the declared ones.

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
        sizes = [size for size in shape if size]
        if len(sizes) != len(shape) or not sizes:
            raise CaffeImportError(
                f"the size of input '{name}' is not known",
                file=net.file,
                expected="an input shape",
                got="x".join("?" if not size else str(size) for size in shape) or None,
            )
        shapes[name] = tuple(sizes)
    return shapes


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
        with torch.no_grad(), _quiet():
            return export(
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


def export_onnx(
    net: GraphModule, path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Write the network as an ONNX file with its weights inside; whole or not at all.

    Inputs and outputs have the blobs' names; sizes are free as in :func:`export_program`.

    Args:
        net: in eval mode; a fused one makes the smaller file.
        path: to write.
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
            "too large for ONNX", file=path, expected="at most 2 GB of weights", got=size
        )
    program = export_program(net, shapes)
    try:
        with _quiet():
            onnx_program = torch.onnx.export(
                program, input_names=list(shapes), output_names=_outputs(program), verbose=False
            )
        assert onnx_program is not None
        _strip(onnx_program.model)
        model = onnx_program.model_proto
    except Exception as error:  # onnxscript raises whatever its stages raise
        raise CaffeImportError(
            f"cannot be written as ONNX: {first_line(error)}", file=net.net.file
        ) from error
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


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
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own notes on the progress of an export, and on its own code, to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
