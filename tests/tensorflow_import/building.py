"""Makes the parts of TensorFlow's files: protobuf messages, compressed blocks, whole tables."""

from __future__ import annotations

from tensorflow_import.crc32c import crc32c, mask
from tensorflow_import.table import FOOTER, MAGIC


def varint(value):
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field, value):
    """A field that is a whole number."""
    return varint(field << 3) + varint(value)


def message(field, *parts):
    """A field that is a message, a string or bytes, of these parts."""
    content = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return varint(field << 3 | 2) + varint(len(content)) + content


def shape(*sizes, field=2):
    return message(field, *[message(2, number(1, size)) for size in sizes])


def tensor(dtype, sizes, *values):
    """The attribute `value` of a constant."""
    return message(
        5, message(1, "value"), message(2, message(8, number(1, dtype), shape(*sizes), *values))
    )


def node(name, op, *parts, inputs=()):
    return message(1, message(1, name), message(2, op), *[message(3, i) for i in inputs], *parts)


def variable(name, dtype, sizes, *values):
    """A constant that the graph reads as a variable."""
    return node(name, "Const", tensor(dtype, sizes, *values)) + node(
        f"{name}/read", "Identity", inputs=[name]
    )


def sealed(content, compression=0):
    """A block with its trailer."""
    content += bytes([compression])
    return content + mask(crc32c(content)).to_bytes(4, "little")


def table(*blocks, index=None, bounds=(b"\xfe" * 20, b"\xff" * 20)):
    """A table of blocks as they are: ``(content, compression)`` in whose trailers nothing is wrong.

    ``index`` takes the place of the content of the index block, whose keys ``bounds`` are.
    """
    out, handles = b"", []
    for content, compression in blocks:
        handles.append(varint(len(out)) + varint(len(content)))
        out += sealed(content, compression)
    metadata = varint(len(out)) + varint(8)
    out += sealed(block([]))
    if index is None:
        index = block(list(zip(bounds, handles, strict=False)))
    ends = metadata + varint(len(out)) + varint(len(index))
    return out + sealed(index) + ends.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def block(entries):
    """A block whose entries share no prefixes."""
    out = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    return out + bytes(4) + (1).to_bytes(4, "little")


def compressed(content):
    """A snappy block: copies of four bytes or more wherever they are found, literals elsewhere."""
    out = bytearray(varint(len(content)))
    seen = {}
    literal = at = 0

    def flush(end):
        for start in range(literal, end, 60):
            piece = content[start : min(start + 60, end)]
            out.append((len(piece) - 1) << 2)
            out.extend(piece)

    while at < len(content):
        before = seen.get(content[at : at + 4])
        seen[content[at : at + 4]] = at
        if before is None or at - before > 65535 or at + 4 > len(content):
            at += 1
            continue
        length = 4
        while (
            length < 64
            and content[before + length : before + length + 1]
            == content[at + length : at + length + 1]
            != b""
        ):
            length += 1
        flush(at)
        if length < 12 and at - before < 2048:
            out += bytes([(at - before) >> 8 << 5 | (length - 4) << 2 | 1, (at - before) & 255])
        else:
            out += bytes([(length - 1) << 2 | 2]) + (at - before).to_bytes(2, "little")
        at += length
        literal = at
    flush(len(content))
    return bytes(out)
