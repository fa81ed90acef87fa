"""Hostile pieces that the mutator puts into files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

NAMES = [
    "", " ", "0", ".", "..", "a/b", "/", "/etc/passwd", "[/]", "[red]x", "[/red]", "\\", "\n",
    "\r\n", "\t", "\x00", "\x1b[31m", "\u202e", "\ufffe", "é" * 50, "x" * 100_000, "%s", "{}",
    "__class__", "_modules", "forward", "training", "weight", "data", "conv1", "conv1.0", "#2",
    "conv1_conv1_0_split", "data_data_0_split_0", "${X}", "\udcff", "a" * 255 + "/" + "b" * 255,
]  # fmt: skip


def _layer(kind: str, parameters: str = "", bottoms: tuple[str, ...] = ("data",)) -> str:
    reads = " ".join(f'bottom: "{name}"' for name in bottoms)
    return f'layer {{ name: "h" type: "{kind}" {reads} top: "h" {parameters} }}\n'


LAYERS = [
    _layer("Tile", "tile_param { tiles: 2147483647 }"),
    _layer("Tile", "tile_param { axis: -4 tiles: 30000 }"),
    _layer("SPP", "spp_param { pyramid_height: 30 }"),
    _layer("SPP", "spp_param { pyramid_height: 4294967295 }"),
    _layer("Interp", "interp_param { zoom_factor: 1000000000 }"),
    _layer("Interp", "interp_param { height: 2147483647 width: 2147483647 }"),
    _layer("Interp", "interp_param { shrink_factor: 2147483647 }"),
    _layer("Convolution", "convolution_param { num_output: 4294967295 kernel_size: 1 }"),
    _layer("Convolution", "convolution_param { num_output: 100000000 kernel_size: 1 }"),
    _layer("Convolution", "convolution_param { num_output: 1 kernel_size: 3 dilation: 1000000 }"),
    _layer("Convolution", "convolution_param { num_output: 1 kernel_size: 1 pad: 4000000000"
           " stride: 1000000000 }"),
    _layer("Convolution", "convolution_param { num_output: 1 kernel_size: 3 axis: -2147483648 }"),
    _layer("Convolution", "convolution_param { num_output: 1 group: 3 kernel_size: 3 }"),
    _layer("Deconvolution", "convolution_param { num_output: 1 kernel_size: 1 stride: 90000000 }"),
    _layer("Im2col", "convolution_param { kernel_size: 50000 pad: 50000 }"),
    _layer("Pooling", "pooling_param { kernel_size: 4294967295 stride: 1 }"),
    _layer("Pooling", "pooling_param { kernel_size: 2 stride: 4294967295 }"),
    _layer("Pooling", "pooling_param { pool: AVE kernel_size: 60000 pad: 59999 }"),
    _layer("InnerProduct", "inner_product_param { num_output: 2147483647 }"),
    _layer("Embed", "embed_param { num_output: 70000 input_dim: 70000 }"),
    _layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 0 } }"),
    _layer("Reshape", "reshape_param { shape { dim: -9223372036854775808 } }"),
    _layer("Reshape", "reshape_param { shape {" + " dim: 1" * 1000 + " } }"),
    _layer("Slice", "slice_param { slice_point: 4294967295 }"),
    _layer("ArgMax", "argmax_param { top_k: 4294967295 }"),
    _layer("LRN", "lrn_param { local_size: 4294967295 }"),
    _layer("LRN", "lrn_param { local_size: 99999999 norm_region: WITHIN_CHANNEL }"),
    _layer("Power", "power_param { power: nan scale: inf shift: -inf }"),
    _layer("Eltwise", "eltwise_param { coeff: 1e38 coeff: -1e38 }", ("data", "data")),
    _layer("Concat", "concat_param { axis: 7 }", ("data",) * 300),
    _layer("Crop", "crop_param { axis: -9 offset: 4294967295 }", ("data", "data")),
    _layer("DenseCRF", "dense_crf_param { max_iter: 2147483647 }", ("data", "data")),
    _layer("DummyData", "dummy_data_param { shape { dim: 1000000000 dim: 1000000000 } }", ()),
    _layer("DummyData", "dummy_data_param { shape { dim: 500000000 } }", ()),
    _layer("DummyData", "dummy_data_param { shape { dim: -5 } data_filler { type: 'msra' } }", ()),
    _layer("Input", "input_param { shape { dim: 9223372036854775807 dim: 3 } }", ()),
    _layer("MemoryData", "memory_data_param { batch_size: 4294967295 }", ()),
    _layer("Parameter", "parameter_param { shape { dim: 2147483647 dim: 2 } }", ()),
    _layer("Filter", "", ("data", "data")),
    _layer("BatchReindex", "", ("data", "data")),
    _layer("Python", "python_param { module: 'os' layer: 'system' }"),
    _layer("Nonsense"),
    _layer("Silence"),
    _layer("ReLU", "", ()),
    _layer("ReLU", "", ("h",)),
    'layer { name: "s" type: "Split" bottom: "data"' + ' top: "t"' * 3 + " }\n",
    'layer { name: "d_s_0_split" type: "Split" bottom: "data" top: "d_s_0_split_0" }\n',
    "layers { layer { name: 'v0' type: 'conv' } }\n",
    "".join(
        f'layer {{ name: "e{i}" type: "Concat" bottom: "{b}" bottom: "{b}" top: "e{i}" }}\n'
        for i, b in enumerate(["data", *(f"e{i}" for i in range(70))])
    ),
    'layer { name: "x" type: "HingeLoss" bottom: "data" bottom: "data" }\n' * 300,
]  # fmt: skip

#: Put behind a NetParameter; or whole messages of their own.
MESSAGES = [
    b"\xa2\x06\x00" * 3000,  # layers without anything
    b"\x12\x00" * 3000,  # V1 layers without anything
    b"\xa2\x06\x0a\x0a\x00" + b"\x3a\x00" * 4,  # cut off
    b"\xa2\x06\x08\x0a\x02xx\x3a\x02\x3a\x00",  # a shape inside itself
    b"\xa2\x06\x17\x0a\x01x\x3a\x12\x3a\x10\x0a\x0e" + b"\xff\xff\xff\xff\x07" * 2 + b"\x01" * 4,
    b"\x0a\x80\x80\x80\x80\x10",  # a name of four gigabytes
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x0b" * 1000,  # groups in groups
    b"\xa2\x06" + b"\x80" * 20,
    b"\xa2\x06\x1b\x0a\x01u\x3a\x16" + b"\x2d\x00\x00\x80\x3f" * 4 + b"\x08\x04",  # unpacked floats
]

INDEXES = [
    "", "0", "[]", "{}", "null", "[[]]", '[["a"]]', '[["a", 1]]', '[["a", ["nowhere"]]]',
    '[[1, []]]', '[["\\ud800", []]]', "[" * 100_000, "9" * 5000, '[["conv1", ["conv1.0"]]]',
    '{"a": "b"}', '[["conv1", "conv1.0"]]', "dl1", "bvlc", "true",
]  # fmt: skip

NPY_HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 9, 11), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,) * 10**9, }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 70 + "), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|V4', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<U99999999', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '>f8', 'fortran_order': False, 'shape': (3, 3, 3), }",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 3, 3), }",
    "{'descr': None, 'fortran_order': None, 'shape': None}",
    "{[]: 1}", "(" * 3000, "'" * 3000, "\\", "{'descr'", "\x00", "", "1" * 9999, "-" * 9000,
]  # fmt: skip


# ---------------------------------------------------------------- what HDF5 can do

Change = Callable[[random.Random, h5py.File, str, Path], None]


def _link(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    target = rng.choice(["/", "/nowhere", name, "/data"])
    del file[name]
    file[name] = rng.choice(
        [h5py.SoftLink(target), h5py.ExternalLink("/etc/passwd", "/"), h5py.ExternalLink("x", "/")]
    )


def _circle(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    group = file[name] if isinstance(file[name], h5py.Group) else file[name].parent
    group["circle"] = rng.choice([group, group.parent, file])


def _huge(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    shape = rng.choice([(10**12,), (1 << 31, 1 << 20), (1 << 28,), (3000, 3000, 30)])
    del file[name]
    file.create_dataset(name, shape, "f4", chunks=tuple(min(n, 64) for n in shape))


def _bomb(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    del file[name]
    file.create_dataset(
        name, (rng.choice((100, 30_000_000)),), "f4", fillvalue=1, compression="gzip"
    )


def _elsewhere(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    del file[name]
    if rng.random() < 0.5:
        file.create_dataset(name, (4,), "f4", external=[("/etc/passwd", 0, 16)])
        return
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,), "f4")
    file.create_virtual_dataset(name, layout)


def _other_type(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    del file[name]
    values = [
        np.arange(4), np.ones(4, np.float16), np.ones(4, np.longdouble), np.ones(4, bool),
        np.ones(4, np.complex64), np.zeros(3, [("a", "<f4")]), b"text", "text", h5py.Empty("f4"),
        np.full(4, np.nan), np.float32(3), np.zeros((0, 5), np.float32), np.zeros((1,) * 32),
        np.array([-1]), np.array([2**40]), np.array([b"a", b"b"]),
    ]  # fmt: skip
    file[name] = rng.choice(values)


def _reference(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    reference = file[name].ref
    file.create_dataset("0", data=reference, dtype=h5py.ref_dtype)
    file.move(name, "moved")


def _deep(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    path = name if isinstance(file[name], h5py.Group) else "data"
    file[path + "/a" * rng.choice((3, 100, 300)) + "/0"] = np.ones(3, np.float32)


def _many(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    group = file[name] if isinstance(file[name], h5py.Group) else file
    for i in range(300):
        group.create_group(f"many{i}")


def _same(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    for i in range(200):
        file[f"data/again{i}/0"] = file[name]


def _rename(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    new = rng.choice([n for n in NAMES if n and "\x00" not in n and "\udcff" not in n])
    file.move(name, f"{name.rpartition('/')[0]}/{new}")


def _drop(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    del file[name]


def _attributes(rng: random.Random, file: h5py.File, name: str, scratch: Path) -> None:
    for key in ("shape", "l2", "largest"):
        if rng.random() < 0.5:
            file[name].attrs[key] = rng.choice([np.arange(3), "text", -1, np.nan, 10**12])


HDF5: list[Change] = [
    _link, _circle, _huge, _bomb, _elsewhere, _other_type, _other_type, _reference, _deep, _many,
    _same, _rename, _drop, _attributes,
]  # fmt: skip
