"""TensorFlow's files for the mutator: sound ones, and checkpoints spoilt with understanding.

A checkpoint is several files, but a case is one: they are packed behind each other, each with its
length in front, the index first.
"""

from __future__ import annotations

import random
from pathlib import Path

from prototxt_import.wire import WireError
from tensorflow_import import BadInput, read_variables, write_variables
from tensorflow_import.errors import Damaged
from tensorflow_import.table import read_table, write_table
from tests.fuzz import hostile
from tests.fuzz.blind import BLIND, NUMBERS, absurd
from tests.fuzz.protobuf import protobuf
from tests.tensorflow_import.building import block, compressed, table, varint

STORED = Path(__file__).parents[1] / "data" / "tensorflow" / "checkpoints"
Entries = list[tuple[bytes, bytes]]


def pack(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def parts_of(data: bytes) -> list[bytes]:
    """The parts that were packed; a length that has been spoilt ends the last one."""
    parts = []
    while len(data) >= 4 and len(parts) < 4:
        length = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts or [data]


def unpack(path: Path) -> Path:
    """Write the files of a packed checkpoint beside it; their prefix."""
    index, *data = parts_of(path.read_bytes())
    prefix = path.with_suffix(".ckpt")
    Path(f"{prefix}.index").write_bytes(index)
    for shards in (1, 2):
        for shard in range(shards):
            content = data[shard] if shard < len(data) else b""
            Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    return prefix


def tensorflow_seeds(folder: Path, seeds: dict[str, list[bytes]]) -> None:
    """Add TensorFlow's files to the sound ones: as it wrote them, but for large constants."""
    for name in ("small", "sharded", "partitioned"):
        files = sorted(STORED.glob(f"{name}.ckpt.data-*"))
        index = (STORED / f"{name}.ckpt.index").read_bytes()
        data = [path.read_bytes() for path in files]
        seeds["tf_checkpoint"].append(pack([index, *data]))
        # As TensorFlow could have compressed it.
        seeds["tf_checkpoint"].append(pack([packed_table(list(read_table(index))), *data]))
        variables = read_variables(STORED / f"{name}.ckpt")
        for kind in ("tf_safetensors", "tf_npz"):
            numbers = {n: a for n, a in variables.items() if a.dtype != object or kind[3] == "s"}
            path = folder / f"seed.{kind[3:]}"
            write_variables(path, numbers)
            seeds[kind].append(path.read_bytes())
    seeds["tf_graph"].append(_small_nodes())
    names = b'model_checkpoint_path: "sound.ckpt"\nall_model_checkpoint_paths: "sound.ckpt"\n'
    seeds["tf_state"].append(names + b"all_model_checkpoint_timestamps: 1.5e9\n")


def _small_nodes() -> bytes:
    """The nodes of the frozen graph of less than 500 bytes, and one in eight of those only."""
    data = (STORED / "frozen_inference_graph.pb").read_bytes()
    kept, at, count = bytearray(), 0, 0
    while at < len(data):
        begin, length, shift = at, 0, 0
        at += 1
        while True:
            byte = data[at]
            length |= (byte & 127) << shift
            shift += 7
            at += 1
            if byte < 128:
                break
        at += length
        if data[begin] == 10 and length < 500:
            count += 1
            kept += data[begin:at] if count % 8 == 0 or b"weights" in data[begin:at] else b""
    return bytes(kept)


def packed_table(entries: Entries) -> bytes:
    """A table of compressed blocks of a few entries each."""
    pieces = [entries[at : at + 7] for at in range(0, len(entries), 7)]
    index = []
    blocks = [(compressed(block(piece)), 1) for piece in pieces]
    at = 0
    for (content, _), piece in zip(blocks, pieces, strict=True):
        index.append((piece[-1][0], varint(at) + varint(len(content))))
        at += len(content) + 5
    return table(*blocks, index=block(index))


def checkpoint(
    rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path
) -> bytes:
    """Entries, keys and blocks changed under checksums that are right, or the values."""
    index, *shards = parts_of(data)
    try:
        entries = list(read_table(index))
    except (Damaged, WireError, BadInput):
        entries = []
    if shards and (not entries or rng.random() < 0.1):
        at = rng.randrange(len(shards))
        shards[at] = rng.choice(BLIND)(rng, shards[at])
        return pack([index, *shards])
    if not entries:
        return rng.choice(BLIND)(rng, data)
    return pack([_spoilt_index(rng, entries, seeds, scratch), *shards])


def _spoilt_index(
    rng: random.Random, entries: Entries, seeds: dict[str, list[bytes]], scratch: Path
) -> bytes:
    at = rng.randrange(len(entries))
    key, value = entries[at]
    roll = rng.randrange(12)
    if roll < 5:
        entries[at] = key, protobuf(rng, value, seeds, scratch)
    elif roll == 5:
        name = rng.choice(hostile.NAMES).encode("utf-8", "surrogatepass")
        entries[at] = rng.choice((name, b"\0" + key, key[::-1], b"", b"\xff" * 9)), value
    elif roll == 6:
        other = rng.randrange(len(entries))
        entries[at], entries[other] = (key, entries[other][1]), (entries[other][0], value)
    elif roll == 7:
        count = rng.choice((2, 40, 3000))
        entries[at : at + 1] = [(key + b"%05d" % i, value) for i in range(count)]
    elif roll == 8:
        del entries[at]
    elif roll == 9:
        return table((rng.choice(BLIND)(rng, block(entries)), 0))
    elif roll == 10:
        return table(
            (rng.choice(BLIND)(rng, compressed(block(entries))), rng.choice((0, 1, 1, 1, 2)))
        )
    else:
        content = block(entries)
        handles = [varint(rng.choice(NUMBERS)) + varint(rng.choice(NUMBERS)) for _ in range(3)]
        handles += [varint(0) + varint(len(content))] * rng.choice((1, 2, 500))
        pointers = block([(b"%05d" % i, handle) for i, handle in enumerate(handles)])
        return table((content, 0), index=rng.choice((absurd(rng, pointers), pointers)))
    if rng.random() < 0.8:
        entries.sort()
    return write_table(entries, rng.choice((1, 300, 1 << 18)))
