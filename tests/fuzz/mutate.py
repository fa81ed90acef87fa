"""Spoils files: bit by bit, and with an understanding of what they are."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from pathlib import Path

import h5py

from tests.fuzz import hostile
from tests.fuzz.blind import BLIND, NUMBERS, absurd, flip
from tests.fuzz.bundles import checkpoint
from tests.fuzz.protobuf import protobuf


def mutate(kind: str, rng: random.Random, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """One spoilt file of ``kind``: one to four mutations of a seed, understanding ones or blind."""
    data = rng.choice(seeds[kind])
    knowing = KNOWING[kind]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        roll = rng.random()
        if roll < 0.65:
            data = knowing(rng, data, seeds, scratch)
        elif roll < 0.95:
            data = rng.choice(BLIND)(rng, data)
        else:
            other = rng.choice(seeds[rng.choice(list(seeds))])
            data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]
    return data


# ---------------------------------------------------------------- prototxt

_TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|\S|\s+')


def text(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Tokens and whole layers moved, repeated, left out, or replaced by hostile ones."""
    words = data.decode("utf-8", "replace")
    layers = re.split(r"(?m)^(?=layers? \{)", words)
    roll = rng.randrange(8)
    if roll == 0 and len(layers) > 1:
        layers.insert(rng.randrange(1, len(layers) + 1), rng.choice(hostile.LAYERS))
        return "".join(layers).encode("utf-8", "replace")
    if roll == 1 and len(layers) > 2:
        one, two = rng.randrange(1, len(layers)), rng.randrange(1, len(layers))
        if rng.random() < 0.5:
            layers[one], layers[two] = layers[two], layers[one]
        else:
            layers[one : one + 1] = [layers[one]] * rng.choice((0, 2, 3, 100))
        return "".join(layers).encode()
    if roll == 2:
        deep = rng.choice((10, 1000, 20000))
        opening = rng.choice(("{", "layer {", "[", "layer { blobs { shape {", "<"))
        return (words + opening * deep).encode()
    tokens = _TOKEN.findall(words)
    at = rng.randrange(len(tokens)) if tokens else 0
    names = [i for i, token in enumerate(tokens) if token.startswith('"')]
    numbers = [i for i, token in enumerate(tokens) if token.isdecimal()]
    if roll == 3 and names:
        # Also bottoms that point forwards or in a circle, and names that occur twice.
        tokens[rng.choice(names)] = (
            tokens[rng.choice(names)] if rng.random() < 0.6 else f'"{rng.choice(hostile.NAMES)}"'
        )
    elif roll in (4, 5) and numbers:
        tokens[rng.choice(numbers)] = rng.choice([*map(str, NUMBERS), "1e38", "nan", "9" * 5000])
    elif roll == 6 and tokens:
        del tokens[at : at + rng.choice((1, 2, 5))]
    elif tokens:
        tokens[at] = rng.choice(tokens) * rng.choice((1, 1, 2, 300))
    return "".join(tokens).encode("utf-8", "replace")


# ---------------------------------------------------------------- HDF5, safetensors, npy


def hdf5(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Members replaced by what HDF5 can do and Caffe never does; or bytes of its metadata."""
    if rng.random() < 0.4:
        return absurd(rng, flip(rng, data[:4096])) + data[4096:]
    memory = io.BytesIO(data)
    try:
        with h5py.File(memory, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            rng.choice(hostile.HDF5)(rng, file, rng.choice(names), scratch)
    except Exception:
        return flip(rng, data)  # spoilt so far already that h5py can't open or change it
    return memory.getvalue()


def safetensors(
    rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path
) -> bytes:
    """Header that lies: sizes, offsets, types, the index of layers, the network's text."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        entry = header[rng.choice([key for key in header if key != "__metadata__"])]
        meta = header.setdefault("__metadata__", {})
        roll = rng.randrange(9)
        if roll == 0:
            entry["data_offsets"][rng.randrange(2)] = rng.choice(NUMBERS)
        elif roll == 1:
            entry["shape"] = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 4, 40)))]
        elif roll == 2:
            entry["dtype"] = rng.choice(["F64", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "X"])
        elif roll == 3:
            other = rng.choice(list(header))
            header[rng.choice(hostile.NAMES)] = header[other]
        elif roll == 4:
            del header[rng.choice(list(header))]
        elif roll in (5, 6):
            spoilt = text(rng, meta.get("caffe.prototxt", "").encode(), seeds, scratch)
            meta["caffe.prototxt"] = spoilt.decode("utf-8", "replace")
        elif roll == 7:
            keys = [*meta, "caffe.layers", "caffe.dialect", "caffe.filtered"]
            key = rng.choice([*keys, "tensorflow.dtypes", "tensorflow.strings"])
            meta[key] = rng.choice(hostile.INDEXES)
        else:
            index = json.loads(meta["caffe.layers"])
            rng.choice(index)[1] *= rng.choice((0, 2, 5000))
            meta["caffe.layers"] = json.dumps(index)
        changed = json.dumps(header).encode()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return flip(rng, data)
    stated = rng.choice((len(changed),) * 8 + (len(changed) + 1, 2**63, 0))
    return (stated & (2**64 - 1)).to_bytes(8, "little") + changed + data[8 + length :]


def npy(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Another header in front of the same numbers."""
    header = rng.choice(hostile.NPY_HEADERS).encode("latin1") + b"\n"
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header + data[128:]


def mat(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Words of elements changed: kinds, sizes, axes; inside of compressed ones too."""
    head, rest = bytearray(data[:128]), bytearray(data[128:])
    kind, count = struct.unpack("<2I", (rest[:8] + bytes(8))[:8])
    packed = kind == 15
    if packed:
        try:
            rest = bytearray(zlib.decompress(rest[8 : 8 + count]))
        except zlib.error:
            return flip(rng, data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = 4 * rng.randrange(1 + min(len(rest), 96) // 4)
        number = rng.choice((*NUMBERS, *range(1, 19))) & (2**32 - 1)
        rest[at : at + 4] = struct.pack(rng.choice("<<<>") + "I", number)
    if rng.random() < 0.1:
        rest += bytes(rng.choice((1, 8, 1 << 20, 60 << 20)))
    if packed or rng.random() < 0.1:
        content = zlib.compress(bytes(rest), 1)
        rest = bytearray(struct.pack("<2I", 15, len(content)) + content)
    return bytes(head + rest)


def bin_(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Another count of rows, columns or channels in front of the same numbers."""
    at = 4 * rng.randrange(3)
    number = rng.choice((*NUMBERS, 5, 6, 10, 12, 15, 20, 30, 60)) & (2**32 - 1)
    return data[:at] + struct.pack("<I", number) + data[at + 4 :]


def npz(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """An archive of spoilt arrays, of several, of none, or compressed."""
    memory = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(memory, "w", kind) as archive:
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            name = rng.choice(("scores", "data", "a/b", "../x", ""))
            if f"{name}.npy" not in archive.namelist():
                inside = rng.choice((npy, npy, _only))(
                    rng, rng.choice(seeds["npy"]), seeds, scratch
                )
                archive.writestr(f"{name}.npy", inside)
    return memory.getvalue()


def _only(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    return data


def mean(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """A BlobProto is a protobuf message like any other."""
    return protobuf(rng, data, seeds, scratch)


def png(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Another size, depth or kind of colours in the header, with the right check sum."""
    field = rng.choice((16, 20, 24, 25, 28))  # width, height, depth, colours, interlacing
    size = 4 if field < 24 else 1
    value = (
        rng.choice(NUMBERS) & (256**size - 1) if size == 4 else rng.choice((0, 1, 2, 3, 4, 6, 16))
    )
    header = data[12:field] + value.to_bytes(size, "big") + data[field + size : 29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def numbers(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Another number where sizes and types stand: the first 12 bytes, or behind MATLAB's text."""
    start = 0 if not data.startswith(b"MATLAB") else 124
    at = start + 4 * rng.randrange(3 if not start else max(1, min(24, (len(data) - 124) // 4)))
    return data[:at] + (rng.choice(NUMBERS) & (2**32 - 1)).to_bytes(4, "little") + data[at + 4 :]


KNOWING = {
    "prototxt": text,
    "caffemodel": protobuf,
    "caffemodel_v1": protobuf,
    "caffemodel_h5": hdf5,
    "safetensors": safetensors,
    "solverstate": protobuf,
    "solverstate_h5": hdf5,
    "activations_h5": hdf5,
    "mean": mean,
    "npy": npy,
    "scores_mat": mat,
    "scores_bin": bin_,
    "scores_npz": npz,
    "scores_h5": hdf5,
    "label_png": png,
    "label_mat": numbers,
    "label_bin": numbers,
    "tf_checkpoint": checkpoint,
    "tf_graph": protobuf,
    "tf_state": text,
    "tf_safetensors": safetensors,
    "tf_npz": npz,
}
