"""Checkpoints: what TensorFlow wrote, bit for bit, and what is written here, byte for byte."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tensorflow_import import (
    TensorFlowImportError,
    list_variables,
    other_dtypes,
    read_variables,
    write_checkpoint,
)
from tensorflow_import.bundle import Entry, read_bundle
from tensorflow_import.crc32c import crc32c, mask
from tensorflow_import.slices import FULL, slice_key
from tensorflow_import.table import read_table, write_table
from tests.tensorflow_import.building import message, number, shape, varint
from tests.testing.disk import full_disk

CHECKPOINTS = ["small.ckpt", "sharded.ckpt", "partitioned.ckpt", "network.ckpt-2"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_values_that_tensorflow_read(stored, expected, described, name):
    variables = read_variables(stored / name)
    assert described(variables, ends_only=name.startswith("network")) == expected[name]
    infos = list_variables(stored / name)
    assert {n: info.shape for n, info in infos.items()} == {
        n: array.shape for n, array in variables.items()
    }


def test_types_of_the_small_checkpoint(stored):
    infos = list_variables(stored / "small.ckpt")
    assert {info.dtype for info in infos.values()} == {
        *("float32", "int64", "float16", "bool", "int32", "float64", "uint8", "int8", "int16"),
        *("complex64", "bfloat16", "string"),
    }
    variables = read_variables(stored / "small.ckpt")
    assert other_dtypes(variables, infos) == {"brain": "bfloat16"}
    assert variables["strings"][0] == b"deeplab"


@pytest.mark.parametrize("name", ["small.ckpt", "network.ckpt-2"])
def test_written_again_it_is_the_same_files(stored, tmp_path, name):
    """The format leaves no freedom where there is one data file and nothing is partitioned."""
    variables = read_variables(stored / name)
    dtypes = other_dtypes(variables, list_variables(stored / name))
    # The order in which they are given makes no difference.
    turned = dict(reversed(variables.items()))
    write_checkpoint(tmp_path / "copy.ckpt", turned, dtypes=dtypes)
    for part in ("index", "data-00000-of-00001"):
        assert (tmp_path / f"copy.ckpt.{part}").read_bytes() == (
            stored / f"{name}.{part}"
        ).read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["sharded.ckpt", "partitioned.ckpt"])
def test_shards_and_slices_are_written_as_one(stored, tmp_path, described, name):
    variables = read_variables(stored / name)
    write_checkpoint(tmp_path / "copy.ckpt", variables)
    assert described(read_variables(tmp_path / "copy.ckpt")) == described(variables)
    assert read_bundle(str(tmp_path / "copy.ckpt")).shards == 1


ALL_TYPES = {
    "bool": [True, False],
    **{f"int{bits}": [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": [0, 2**bits - 1] for bits in (8, 16, 32, 64)},
    **{f"float{bits}": [-0.0, float("nan")] for bits in (16, 32, 64)},
    **{f"complex{bits}": [complex(1, -2), complex(float("inf"), 0)] for bits in (64, 128)},
}


def test_every_type_there_and_back(tmp_path, described):
    given = {name: np.array([values, values[::-1]], name) for name, values in ALL_TYPES.items()}
    given |= {f"{name}/scalar": array[0, 1] for name, array in given.items()}
    given |= {f"{name}/none": array[:, :0] for name, array in given.items() if array.ndim == 2}
    given["strings"] = np.array([[b"", b"\0\xff\0"], [b"x" * 300, "ü".encode()]], object)
    write_checkpoint(tmp_path / "all.ckpt", given)
    read = read_variables(tmp_path / "all.ckpt")
    wanted = {name: np.asarray(array) for name, array in given.items()}
    assert described(read) == described(dict(sorted(wanted.items())))
    assert {i.dtype for i in list_variables(tmp_path / "all.ckpt").values()} == {
        *ALL_TYPES,
        "string",
    }


def test_types_that_numpy_does_not_have(tmp_path):
    exact = np.array([1.5, -0.0, np.inf, 3.0], np.float32)
    given = {"b": exact, "q": np.array([-3, 3], np.int8)}
    write_checkpoint(tmp_path / "x.ckpt", given, dtypes={"b": "bfloat16", "q": "qint8"})
    assert (tmp_path / "x.ckpt.data-00000-of-00001").read_bytes() == (
        np.array([0x3FC0, 0x8000, 0x7F80, 0x4040], "<u2").tobytes() + b"\xfd\x03"
    )
    assert [info.dtype for info in list_variables(tmp_path / "x.ckpt").values()] == [
        "bfloat16",
        "qint8",
    ]
    read = read_variables(tmp_path / "x.ckpt")
    np.testing.assert_array_equal(read["b"].view(np.uint32), exact.view(np.uint32))
    assert read["q"].dtype == np.int8


def test_other_orders_of_bytes_and_memory(tmp_path):
    given = np.arange(12, dtype=">f4").reshape(3, 4)
    write_checkpoint(tmp_path / "x.ckpt", {"big": given, "turned": given.T, "some": given[:, ::2]})
    read = read_variables(tmp_path / "x.ckpt")
    for name, array in (("big", given), ("turned", given.T), ("some", given[:, ::2])):
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == np.dtype("<f4")


def test_only_some_of_the_variables(stored):
    names = ["plain", "p/embedding/weights"]
    some = read_variables(stored / "partitioned.ckpt", names)
    assert list(some) == names
    with pytest.raises(TensorFlowImportError, match=r"ckpt.index: has no variable 'weights'"):
        read_variables(stored / "partitioned.ckpt", ["weights"])


def test_an_index_of_several_blocks(tmp_path):
    """Xception's names; past 256 KB a block ends."""
    names = [f"xception_65/middle_flow/block1/unit_{i}/separable_conv{i % 3}" for i in range(8000)]
    given = {name: np.float32(i) for i, name in enumerate(names)}
    write_checkpoint(tmp_path / "big.ckpt", given)
    assert (tmp_path / "big.ckpt.index").stat().st_size > 1 << 18
    assert read_variables(tmp_path / "big.ckpt") == given


@pytest.mark.parametrize(
    ("value", "code"),
    [
        # ordered_code.cc: one byte up to 63, two up to 8191; negative numbers below.
        (0, "80"),
        (4, "84"),
        (63, "bf"),
        (64, "c040"),
        (8191, "dfff"),
        (8192, "e02000"),
        (-1, "7f"),
        (-64, "40"),
        (-65, "3fbf"),
        (2**31, "f880000000"),
        (2**62 - 1, "ffbfffffffffffffff"),
        (2**63 - 1, "ffc07fffffffffffffff"),
        (-(2**63), "003f8000000000000000"),
    ],
)
def test_numbers_in_the_keys_of_slices(value, code):
    assert slice_key(b"", [(value, FULL)]) == bytes.fromhex("00" + "0001" + "0101" + code + "7f")


def test_the_key_of_a_slice(stored):
    """As TensorFlow wrote it; zero bytes and 255 of a name are escaped."""
    keys = [key for key, _ in read_table((stored / "partitioned.ckpt.index").read_bytes())]
    assert slice_key(b"p/embedding/weights", [(4, 3), (0, 4)]) == keys[2]
    assert slice_key(b"a\0\xff", []) == b"\0a\0\xff\xff\0\0\1\0"


# ---------------------------------------------------------------- hand-made indexes


def header(shards=1, *more):
    return (b"", number(1, shards) + b"".join(more))


def entry(name, *parts, dtype=1, sizes=(2,), size=8, offset=0, checksum=0, shard=0):
    name = name.encode() if isinstance(name, str) else name
    value = number(1, dtype) + shape(*sizes) + number(3, shard) + number(4, offset)
    value += number(5, size) + varint(6 << 3 | 5) + checksum.to_bytes(4, "little")
    return name, value + b"".join(parts)


def extents(*pairs):
    """A TensorSliceProto, as field `slices`."""
    return message(
        7,
        *[
            message(1, number(1, start), b"" if length == FULL else number(2, length))
            for start, length in pairs
        ],
    )


def write_index(folder, *entries, data=bytes(64)):
    (folder / "x.ckpt.index").write_bytes(write_table(sorted(entries)))
    (folder / "x.ckpt.data-00000-of-00001").write_bytes(data)
    return folder / "x.ckpt"


def test_a_partition_along_two_axes(tmp_path):
    whole = np.arange(24, dtype="<f4").reshape(4, 6)
    boxes = [((0, 1), (0, FULL)), ((1, 3), (0, 2)), ((1, 3), (2, 4))]
    data, pieces = b"", []
    for box in boxes:
        (a, n), (b, m) = ((s, w if w != FULL else 6) for s, w in box)
        part = whole[a : a + n, b : b + m].tobytes()
        key = slice_key(b"w", box)
        pieces.append(
            entry(key, sizes=(n, m), size=len(part), offset=len(data), checksum=mask(crc32c(part)))
        )
        data += part
    listed = entry("w", *[extents(*box) for box in boxes], sizes=(4, 6), size=0)
    prefix = write_index(tmp_path, header(), listed, *pieces, data=data)
    np.testing.assert_array_equal(read_variables(prefix)["w"], whole)
    # Without one of them, or with one twice, it is refused.
    for listed_boxes in (boxes[:2], [*boxes, boxes[0]], [boxes[0], boxes[1], boxes[1]]):
        spoilt = entry("w", *[extents(*box) for box in listed_boxes], sizes=(4, 6), size=0)
        write_index(tmp_path, header(), spoilt, *pieces, data=data)
        with pytest.raises(TensorFlowImportError, match="slice"):
            read_variables(prefix)


def sliced(*boxes, size=6):
    """Entries of the variable `w` of `size` values, and of its slices."""
    pieces = [
        entry(slice_key(b"w", [box]), sizes=(box[1],), size=4 * box[1], offset=8 * i)
        for i, box in enumerate(boxes)
    ]
    return [header(), entry("w", *[extents(box) for box in boxes], sizes=(size,), size=0), *pieces]


HOSTILE_INDEXES = {
    "empty": ([], "its table is empty"),
    "no header": ([entry("a")], "does not begin with a header"),
    "big-endian": ([header(1, number(2, 1))], "other byte order; expected little-endian values"),
    "later version": ([header(1, message(3, number(2, 9)))], "needs a later reader"),
    "no shards": ([header(0)], "states 0 data files"),
    "negative shards": ([header(-1)], "states -1 data files"),
    "too many shards": ([header(10**6)], "too many data files.*MAX_SHARDS"),
    "shard out of range": ([header(), entry("a", shard=1)], "lies in data file 1 of 1"),
    "negative shard": ([header(), entry("a", shard=-1)], "lies in data file -1 of 1"),
    "unknown type": ([header(), entry("a", dtype=99)], "a type that cannot be read; got number 99"),
    "resource": ([header(), entry("a", dtype=20)], "cannot be read; got resource"),
    "variant": ([header(), entry("a", dtype=21)], "cannot be read; got variant"),
    "negative axis": ([header(), entry("a", sizes=(-1,))], "impossible shape -1"),
    "huge shape": ([header(), entry("a", sizes=(2**62, 2**62))], "impossible shape"),
    "huge empty shape": ([header(), entry("a", sizes=(0, 2**62, 2**62), size=0)], "impossible"),
    "many axes": ([header(), entry("a", sizes=(1,) * 33)], "impossible shape"),
    "wrong size": ([header(), entry("a", size=4)], "takes 4 bytes, but 2 of float32 takes 8"),
    "negative size": ([header(), entry("a", dtype=7, size=-8)], "takes -8 bytes"),
    "negative offset": ([header(), entry("a", offset=-8)], "at byte -8"),
    "beyond the file": (
        [header(), entry("a", offset=60)],
        "reaches to byte 68, the file ends at 64",
    ),
    "overlap": ([header(), entry("a"), entry("b", offset=4)], "two variables share byte 4"),
    "wrong checksum": ([header(), entry("a")], "the checksum of variable 'a' is wrong"),
    "no text": ([header(), entry(b"\xff\xfe")], "name is no text"),
    "no message": ([header(), (b"a", b"\x0a")], "is no checkpoint's index, or damaged"),
    "large entry": ([header(), (b"a", bytes(1 << 19))], "too many bytes.*MAX_ENTRY_BYTES"),
    "unknown rank": ([header(), (b"a", number(1, 1) + message(2, number(3, 1)))], "has no shape"),
    "missing slice": (sliced((0, 3), (3, 3))[:-1], "a slice is missing"),
    "gap": (sliced((0, 2), (3, 3)), "do not fill it exactly"),
    "overlapping slices": (sliced((0, 3), (2, 3)), "do not fill it exactly"),
    "slice outside": (sliced((0, 3), (3, 4)), "slice that reaches out of it"),
    "orphan slice": ([header(), sliced((0, 6))[2]], "holds slices of no variable"),
    "partitioned scalar": ([header(), entry("w", extents(), sizes=(), size=0)], "cannot be"),
    "many strings": ([header(), entry("a", dtype=7, sizes=(10**7,))], "too many strings"),
    "wrong strings": ([header(), entry("a", dtype=7)], "lengths of its strings do not add up"),
    "petabytes": ([header(), entry("a", sizes=(2**48,), size=2**50)], "holds too much, in bytes"),
}


@pytest.mark.parametrize("case", HOSTILE_INDEXES)
def test_indexes_that_lie(tmp_path, case):
    entries, problem = HOSTILE_INDEXES[case]
    prefix = write_index(tmp_path, *entries)
    with pytest.raises(TensorFlowImportError, match=problem) as error:
        read_variables(prefix)
    assert str(tmp_path / "x.ckpt.") in str(error.value)
    assert str(error.value).isprintable()


def test_checksums_may_be_left_alone(tmp_path):
    prefix = write_index(tmp_path, header(), entry("a"), data=np.float32([1, 2]).tobytes())
    np.testing.assert_array_equal(read_variables(prefix, check=False)["a"], [1, 2])


def test_every_flipped_bit_of_the_data_is_seen(stored, tmp_path):
    for part in ("index", "data-00000-of-00001"):
        shutil.copy(stored / f"partitioned.ckpt.{part}", tmp_path)
    data = tmp_path / "partitioned.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    for at in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << at % 8
        data.write_bytes(spoilt)
        with pytest.raises(TensorFlowImportError, match="checksum of .* is wrong"):
            read_variables(tmp_path / "partitioned.ckpt")


def test_a_data_file_that_is_missing_or_cut_off(stored, tmp_path):
    shutil.copy(stored / "sharded.ckpt.index", tmp_path)
    missing = r"data-0000\d-of-00002: No such file; expected 2 data files, as .*/sharded.ckpt.index"
    with pytest.raises(TensorFlowImportError, match=f"{missing} says, got 0 of them"):
        read_variables(tmp_path / "sharded.ckpt")
    shutil.copy(stored / "sharded.ckpt.data-00000-of-00002", tmp_path)
    with pytest.raises(TensorFlowImportError, match=r"/sharded.ckpt.data-00001-.*got 1 of them"):
        read_variables(tmp_path / "sharded.ckpt")
    shutil.copy(stored / "sharded.ckpt.data-00001-of-00002", tmp_path)
    with (tmp_path / "sharded.ckpt.data-00001-of-00002").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(TensorFlowImportError, match=r"data-00001-of-00002: .*the file ends at 300"):
        read_variables(tmp_path / "sharded.ckpt")


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("variables", "dtypes", "problem"),
    [
        ({"": 1.0}, {}, "cannot hold a variable of this name; got ''"),
        ({"\0a": 1.0}, {}, "cannot hold a variable of this name"),
        ({"\ud800": 1.0}, {}, "cannot hold a variable of this name"),
        ({"a" * 70_000: 1.0}, {}, "too long a name"),
        ({"a": np.zeros(2, "M8[s]")}, {}, "a type that TensorFlow does not have; got datetime64"),
        ({"a": np.array([1, None], object)}, {}, "expected bytes or text, got int"),
        ({"a": 1.0}, {"b": "int8"}, "has no variable 'b' to give a type to"),
        ({"a": 1.0}, {"a": "float31"}, "does not have; got float31"),
        ({"a": 1.0}, {"a": "float32"}, "cannot become float32"),
        ({"a": True}, {"a": "uint8"}, "cannot become uint8"),
        ({"a": "text"}, {"a": "float32"}, "cannot become float32"),
        ({"a": 1.0}, {"a": "bfloat16"}, "cannot become bfloat16; expected float32, got float64"),
        ({"a": np.float32(0.1)}, {"a": "bfloat16"}, "would have to be rounded"),
    ],
)
def test_what_cannot_be_written(tmp_path, variables, dtypes, problem):
    write_checkpoint(tmp_path / "x.ckpt", {"old": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TensorFlowImportError, match=problem):
        write_checkpoint(tmp_path / "x.ckpt", variables, dtypes=dtypes)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "x.ckpt", {"old": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(5000), pytest.raises(TensorFlowImportError, match=r"x.ckpt.data-.*too large"):
        write_checkpoint(tmp_path / "x.ckpt", {"new": np.zeros(100_000)})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_entries_of_an_index(stored):
    bundle = read_bundle(str(stored / "sharded.ckpt"))
    assert bundle.shards == 2
    found = bundle.variables["shard/layer_7/weights"]
    assert isinstance(found, Entry)
    assert (found.shape, found.shard, found.offset, found.size) == ((3, 8), 1, 152, 96)
