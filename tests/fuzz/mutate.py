"""Spoils files: bit by bit, and with an understanding of what they are."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py

from tests.fuzz import hostile

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = [0, 1, 2, 3, 127, 128, 255, 65535, 1 << 20, 10**9, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS += [2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63)]


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


# ---------------------------------------------------------------- blind


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _absurd(rng: random.Random, data: bytes) -> bytes:
    number = rng.choice(NUMBERS) & (2**64 - 1)
    word = number.to_bytes(8, rng.choice(("little", "big")))[: rng.choice((1, 2, 4, 8))]
    at = rng.randrange(len(data) + 1)
    return data[:at] + word + data[at + len(word) :]


def _copy(rng: random.Random, data: bytes) -> bytes:
    start, at = (rng.randrange(len(data) + 1) for _ in range(2))
    piece = data[start : start + rng.choice((1, 4, 16, 200))] * rng.choice((1, 1, 2, 50))
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 8, 100)) :]


BLIND: list[Mutation] = [_truncate, _flip, _flip, _absurd, _copy, _cut]


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


# ---------------------------------------------------------------- protobuf

Field = tuple[int, int, "int | bytes | list"]


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _parse(data: bytes, depth: int = 0) -> list[Field] | None:
    """The message's fields, those that look like messages taken apart too; None if it is none."""
    fields: list[Field] = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(data):
            tag = number()
            kind = tag & 7
            if kind == 0:
                fields.append((tag >> 3, kind, number()))
                continue
            length = {1: 8, 5: 4}.get(kind) if kind != 2 else number()
            if length is None or at + length > len(data):
                return None
            piece = data[at : at + length]
            at += length
            inner = _parse(piece, depth + 1) if kind == 2 and depth < 4 and len(piece) > 1 else None
            fields.append((tag >> 3, kind, piece if inner is None else inner))
    except IndexError:
        return None
    return fields


def _write(fields: list[Field]) -> bytes:
    out = bytearray()
    for number, kind, value in fields:
        out += _varint(number << 3 | kind)
        if isinstance(value, int):
            out += _varint(value)
        else:
            piece = _write(value) if isinstance(value, list) else value
            out += (_varint(len(piece)) if kind == 2 else b"") + piece
    return bytes(out)


def protobuf(
    rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path
) -> bytes:
    """Fields changed, renumbered, repeated, left out, nested, at any depth."""
    tree = _parse(data)
    if not tree:
        return _flip(rng, data)
    if rng.random() < 0.1:
        return data + rng.choice(hostile.MESSAGES)
    fields = tree
    while True:
        at = rng.randrange(len(fields))
        number, kind, value = fields[at]
        if not (isinstance(value, list) and value and rng.random() < 0.75):
            break
        fields = value
    roll = rng.randrange(9)
    if roll == 0:
        del fields[at]
    elif roll == 1:
        fields[at : at + 1] = [fields[at]] * rng.choice((2, 3, 40, 3000))
    elif roll == 2:
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif roll == 3:
        fields[at] = (rng.choice((number + 1, 5, 7, 17, 18, 100, 143, 2**28)), kind, value)
    elif roll == 4:
        deep: list[Field] = []
        for _ in range(rng.choice((3, 100, 400))):
            deep = [(rng.choice((1, 2, 7, 100)), 2, deep)]
        fields[at] = (number, 2, deep)
    elif isinstance(value, int):
        fields[at] = (number, 0, rng.choice(NUMBERS))
    elif kind == 5:
        fields[at] = (number, 5, struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e38))))
    elif isinstance(value, bytes) and roll < 7:
        name = rng.choice(hostile.NAMES).encode("utf-8", "surrogateescape")
        fields[at] = (number, kind, name if kind == 2 else value[::-1])
    elif isinstance(value, bytes):
        # As many numbers, but NaN; or another count.
        spoilt = b"\xff" * len(value) if rng.random() < 0.5 else value[: len(value) // 2]
        fields[at] = (number, kind, spoilt if kind == 2 else value)
    else:
        value.append((rng.randrange(1, 150), 0, rng.choice(NUMBERS)))
    return _write(tree)


# ---------------------------------------------------------------- HDF5, safetensors, npy


def hdf5(rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path) -> bytes:
    """Members replaced by what HDF5 can do and Caffe never does; or bytes of its metadata."""
    if rng.random() < 0.4:
        return _absurd(rng, _flip(rng, data[:4096])) + data[4096:]
    memory = io.BytesIO(data)
    try:
        with h5py.File(memory, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            rng.choice(hostile.HDF5)(rng, file, rng.choice(names), scratch)
    except Exception:
        return _flip(rng, data)  # spoilt so far already that h5py can't open or change it
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
            key = rng.choice(["caffe.layers", "caffe.dialect", "caffe.filtered"])
            meta[key] = rng.choice(hostile.INDEXES)
        else:
            index = json.loads(meta["caffe.layers"])
            rng.choice(index)[1] *= rng.choice((0, 2, 5000))
            meta["caffe.layers"] = json.dumps(index)
        changed = json.dumps(header).encode()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return _flip(rng, data)
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
            return _flip(rng, data)
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
}
