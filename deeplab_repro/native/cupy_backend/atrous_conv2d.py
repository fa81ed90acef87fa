"""The five ops of the atrous convolution through CuPy: what atrous_conv2d_launch.cuh does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deeplab_repro.native.cupy_backend import runtime
from deeplab_repro.native.memory import memory_format

IM2COL_FILE = "atrous_conv2d/im2col_kernels.cuh"
KERNEL_FILE = "atrous_conv2d/plan_kernels.cuh"
# As in the kernels' files; a test holds them together.
IM2COL_THREADS = 256
PACK_THREADS = 256
PACK_SIDE = 32
DIRECT_SUM_THREADS = 256
GRAD_SUM_THREADS = 256
CHUNK_BYTES = 16
NARROW_FILTERS = 32
MAX_EXTENT = (1 << 28) - 1

_GEOMETRY = np.dtype(
    [
        (name, "i8")
        for name in (
            *("batch", "in_channels", "height", "width"),
            *("out_channels", "out_height", "out_width"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
            *("rate_h", "rate_w", "groups"),
        )
    ]
)
_RECORD_WORDS = 256  # more than struct PlanRecord has
_RECORD_HEAD = 7


@dataclass(frozen=True)
class Way:
    """A way to multiply, as multiply.cuh has it."""

    name: str
    operand: torch.dtype
    exact: bool = True
    tensor_cores: bool = True

    @property
    def sums(self) -> torch.dtype:
        return torch.float64 if self.operand == torch.float64 else torch.float32

    @property
    def per_chunk(self) -> int:
        return CHUNK_BYTES // self.operand.itemsize


WAYS = {
    "fp32": Way("Tf32x3", torch.float32),
    "tf32": Way("Tf32", torch.float32, exact=False),
    "bf16": Way("Bf16", torch.bfloat16),
    "fp16": Way("Fp16", torch.float16),
}
PLAIN = Way("MultiplyAdd<float>", torch.float32, tensor_cores=False)
PLAIN_DOUBLE = Way("MultiplyAdd<double>", torch.float64, tensor_cores=False)


def direct(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    groups: int,
    precision: str,
    relu: bool,
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_conv2d_direct on CUDA tensors."""
    g = geometry(x.shape, weight.shape[0], weight.shape[2:], stride, padding, rate, groups)
    call = _Call(x, precision, max_blocks)
    y = call.new_map(int(g["batch"][0]), "out", g)
    if y.numel() == 0:
        return y
    tile = call.tile(weight.shape[0] // groups)
    record = call.plan("forward_plan_kernel", tile, g, call.channels_last, relu)
    operands = call.packed_map(x, groups), call.packed_weight(weight, groups, transposed=False)
    bias = None if bias is None else bias.contiguous()
    call.run_plan(record, tile, *operands, bias, y)
    return y


def direct_grad_input(
    grad_y: torch.Tensor,
    weight: torch.Tensor,
    image_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    groups: int,
    precision: str,
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_conv2d_direct_grad_input on CUDA tensors."""
    shape = (grad_y.shape[0], weight.shape[1] * groups, *image_size)
    g = geometry(shape, weight.shape[0], weight.shape[2:], stride, padding, rate, groups)
    call = _Call(grad_y, precision, max_blocks)
    grad_x = call.new_map(grad_y.shape[0], "in", g)
    if grad_x.numel() == 0 or grad_y.numel() == 0:
        return grad_x.zero_()
    tile = call.tile(weight.shape[1])
    operands = call.packed_map(grad_y, groups), call.packed_weight(weight, groups, transposed=True)
    for r in range(min(stride[0], image_size[0])):
        for s in range(min(stride[1], image_size[1])):
            record = call.plan("grad_input_plan_kernel", tile, g, call.channels_last, r, s)
            call.run_plan(record, tile, *operands, None, grad_x)
    return grad_x


def direct_grad_weight(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    groups: int,
    precision: str,
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_conv2d_direct_grad_weight on CUDA tensors."""
    filters, channels = grad_y.shape[1], x.shape[1] // groups
    g = geometry(x.shape, filters, kernel_size, stride, padding, rate, groups)
    grad_weight = x.new_empty((filters, channels, *kernel_size))
    if grad_weight.numel() == 0 or grad_y.numel() == 0:
        return grad_weight.zero_()
    call = _Call(x, precision, max_blocks)
    tile = call.tile(channels)
    if call.way.tensor_cores and filters // groups <= NARROW_FILTERS:
        tile = "LowTile"
    record = call.plan("grad_weight_plan_kernel", tile, g)
    operands = call.packed_map(grad_y, groups), call.packed_map(x, groups)
    partial = x.new_empty(record.sums, dtype=call.way.sums)
    products = (record.plan, *operands, partial)
    call.launch(
        "grad_weight_kernel", tile, record.work, record.threads, products, record.shared_bytes
    )
    blocks = -(-record.sum_work // GRAD_SUM_THREADS)
    sums = (record.plan, partial, grad_weight)
    call.launch("grad_weight_sum_kernel", None, blocks, GRAD_SUM_THREADS, sums)
    return grad_weight


def im2col(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_im2col on CUDA tensors."""
    x = x.contiguous()
    g = geometry(x.shape, 1, kernel_size, stride, padding, rate, 1)
    pixels = int(g["out_height"][0] * g["out_width"][0])
    rows = x.shape[1] * kernel_size[0] * kernel_size[1]
    columns = x.new_empty((x.shape[0], rows, pixels))
    _launch_columns("im2col_kernel", g, x, columns, x.shape[0] * x.shape[1] * pixels, max_blocks)
    return columns


def col2im(
    columns: torch.Tensor,
    image_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_col2im on CUDA tensors."""
    columns = columns.contiguous()
    channels = columns.shape[1] // (kernel_size[0] * kernel_size[1])
    x = columns.new_empty((columns.shape[0], channels, *image_size))
    g = geometry(x.shape, 1, kernel_size, stride, padding, rate, 1)
    _launch_columns("col2im_kernel", g, columns, x, x.numel(), max_blocks)
    return x


def _launch_columns(
    kernel: str,
    g: np.ndarray,
    source: torch.Tensor,
    result: torch.Tensor,
    items: int,
    max_blocks: int,
) -> None:
    if items == 0:
        return
    element = runtime.TYPES[source.dtype]
    names = tuple(f"deeplab::{k}<{element}>" for k in ("im2col_kernel", "col2im_kernel"))
    blocks = runtime.grid_size(items, IM2COL_THREADS, max_blocks)
    name, args = f"deeplab::{kernel}<{element}>", (g, source, result)
    runtime.launch(IM2COL_FILE, names, name, source.device, blocks, IM2COL_THREADS, args)


def geometry(
    shape: Sequence[int],
    filters: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    groups: int,
) -> np.ndarray:
    """struct ConvGeometry of x with `shape` (N, C, H, W)."""
    axes = zip(shape[2:], kernel, padding, rate, stride, strict=True)
    out = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, p, d, s in axes]
    reach = [d * (k - 1) for d, k in zip(rate, kernel, strict=True)]
    extent = max(shape[0], *shape[2:], *out, *stride, *padding, *reach)
    if extent > MAX_EXTENT:
        raise ValueError(
            "atrous_conv2d: sizes, stride, padding and reach of the filter must be at most "
            f"{MAX_EXTENT} pixels on CUDA, got {extent}"
        )
    values = (*shape, filters, *out, *kernel, *stride, *padding, *rate, groups)
    return np.array([values], dtype=_GEOMETRY)


def _words(*values: int) -> np.ndarray:
    """A struct of int64 fields, which CuPy passes by value."""
    return np.array([(values,)], dtype=[("words", "i8", (len(values),))])


@dataclass(frozen=True)
class _Record:
    """struct PlanRecord; `plan` is passed to kernels as it is."""

    work: int
    threads: int
    shared_bytes: int
    sums: int
    sum_work: int
    targets: int
    plan: np.ndarray


class _Call:
    """One call of an op: the way it multiplies, its layout, its launches."""

    def __init__(self, first: torch.Tensor, precision: str, max_blocks: int):
        self.dtype, self.device, self.max_blocks = first.dtype, first.device, max_blocks
        self.memory_format = memory_format(first)
        self.channels_last = self.memory_format == torch.channels_last
        self.way = _way(first.dtype, precision, first.device)

    def new_map(self, batch: int, side: str, g: np.ndarray) -> torch.Tensor:
        """An uninitialised x (side "in") or y (side "out")."""
        size = ("height", "width") if side == "in" else ("out_height", "out_width")
        shape = [batch, *(int(g[name][0]) for name in (f"{side}_channels", *size))]
        return torch.empty(
            shape, dtype=self.dtype, device=self.device, memory_format=self.memory_format
        )

    def tile(self, filters: int) -> str:
        """dispatch_tile of the launchers."""
        if not self.way.tensor_cores:
            return "PlainTile"
        return "NarrowTile" if filters <= NARROW_FILTERS else "WideTile"

    def padded(self, channels: int) -> int:
        return -(-channels // self.way.per_chunk) * self.way.per_chunk

    def packed_map(self, t: torch.Tensor, groups: int) -> torch.Tensor:
        """packed_map of the launchers: (N, H, W, groups, padded)."""
        t = t.contiguous(memory_format=self.memory_format)
        batch, channels, height, width = t.shape
        pixels, padded = height * width, self.padded(channels // groups)
        in_place = self.channels_last and padded == channels // groups
        as_is = t.dtype == self.way.operand and self.way.exact
        if in_place and as_is and t.data_ptr() % CHUNK_BYTES == 0:
            return t
        packed = t.new_empty(batch * pixels * groups * padded, dtype=self.way.operand)
        if packed.numel() == 0:
            return packed
        across, down = -(-pixels // PACK_SIDE), -(-groups * padded // PACK_SIDE)
        divisors = (word for value in (padded, batch, across) for word in runtime.divisor(value))
        steps = (1, channels) if self.channels_last else (pixels, 1)
        sizes = (pixels, groups * padded, channels // groups, *divisors, channels * pixels, *steps)
        squares = batch * across * down
        args = (_words(*sizes), t, packed)
        self.launch("pack_map_kernel", None, squares, PACK_THREADS, args)
        return packed

    def packed_weight(self, weight: torch.Tensor, groups: int, transposed: bool) -> torch.Tensor:
        """packed_weight of the launchers: (groups, R * S, rows, padded)."""
        filters, channels = weight.shape[0] // groups, weight.shape[1]
        kernel, strides = weight.shape[2:], weight.stride()
        rows, columns = (channels, filters) if transposed else (filters, channels)
        steps = (strides[1], strides[0]) if transposed else strides[:2]
        padded = self.padded(columns)
        items = groups * rows * padded
        packed = weight.new_empty(items * kernel[0] * kernel[1], dtype=self.way.operand)
        if packed.numel() == 0:
            return packed
        divisors = (*runtime.divisor(padded), *runtime.divisor(rows))
        sizes = (groups, columns, *divisors, *kernel, filters * strides[0], *steps, *strides[2:])
        blocks = -(-items // PACK_THREADS)
        args = (_words(*sizes), weight, packed)
        self.launch("pack_weight_kernel", None, blocks, PACK_THREADS, args)
        return packed

    def plan(self, kernel: str, tile: str, g: np.ndarray, *settings: int) -> _Record:
        """What the launchers would choose, asked once for each geometry."""
        name = f"deeplab::{kernel}<deeplab::{self.way.name}, deeplab::{tile}>"
        return _plan(name, g.tobytes(), settings, self.device)

    def run_plan(
        self,
        record: _Record,
        tile: str,
        x: torch.Tensor,
        w: torch.Tensor,
        bias: torch.Tensor | None,
        y: torch.Tensor,
    ) -> None:
        """launch_plan of the launchers."""
        partial = y.new_empty(record.sums, dtype=self.way.sums)
        targets = y.new_empty(record.targets, dtype=torch.int64)
        products = (record.plan, x, w, bias, y, partial, targets)
        self.launch(
            "direct_kernel", tile, record.work, record.threads, products, record.shared_bytes
        )
        sums = (record.plan, partial, targets, bias, y)
        blocks = -(-record.sum_work // DIRECT_SUM_THREADS)
        self.launch("direct_sum_kernel", tile, blocks, DIRECT_SUM_THREADS, sums)

    def launch(
        self,
        kernel: str,
        tile: str | None,
        work: int,
        threads: int,
        args: tuple,
        shared_bytes: int = 0,
    ) -> None:
        """A kernel on `work` blocks, or on fewer that loop; on none if there is nothing to do."""
        if work == 0:
            return
        way, element = f"deeplab::{self.way.name}", runtime.TYPES[self.dtype]
        parameters = [way, f"deeplab::{tile}"] if tile else [way]
        if kernel != "grad_weight_kernel":
            parameters.append(element)
        name = f"deeplab::{kernel}<{', '.join(parameters)}>"
        blocks = runtime.grid_size(work, 1, self.max_blocks)
        # A module for each kernel: whoever only runs a net does not wait for its gradients.
        runtime.launch(KERNEL_FILE, (name,), name, self.device, blocks, threads, args, shared_bytes)


@functools.cache
def _plan(name: str, g: bytes, settings: tuple[int, ...], device: torch.device) -> _Record:
    record = torch.empty(_RECORD_WORDS, dtype=torch.int64, device=device)
    args = (np.frombuffer(g, _GEOMETRY), *map(np.int64, settings), record)
    runtime.launch(KERNEL_FILE, (name,), name, device, 1, 1, args)
    plan_bytes, work, threads, shared_bytes, *rest = record[:_RECORD_HEAD].tolist()
    sums, sum_work, targets = rest
    words = record[_RECORD_HEAD : _RECORD_HEAD + plan_bytes // 8].tolist()
    return _Record(work, threads, shared_bytes, sums, sum_work, targets, _words(*words))


def _way(dtype: torch.dtype, precision: str, device: torch.device) -> Way:
    """dispatch_way of the launchers."""
    if dtype == torch.float64:
        return PLAIN_DOUBLE
    if torch.cuda.get_device_capability(device) < (8, 0):
        return PLAIN
    by_dtype = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    return WAYS[by_dtype.get(dtype, precision)]
