"""Paths that stand for variables, and the variables in .safetensors and .npz."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tensorflow_import import (
    TensorFlowImportError,
    is_of_tensorflow,
    kind_of_output,
    list_variables,
    locate,
    other_dtypes,
    read_variables,
    write_checkpoint,
    write_variables,
)
from tests.testing.disk import full_disk


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, and the file that names them."""
    for step in (10, 20):
        write_checkpoint(tmp_path / f"model.ckpt-{step}", {"global_step": np.int64(step)})
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-20"\n'
        'all_model_checkpoint_paths: "model.ckpt-10"\n'
        'all_model_checkpoint_paths: "model.ckpt-20"\n'
        "all_model_checkpoint_timestamps: 1.5e9\n"
        "last_preserved_timestamp: 1.4e9\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("", 20),
        ("model.ckpt-10", 10),
        ("model.ckpt-10.index", 10),
        ("model.ckpt-10.data-00000-of-00001", 10),
        ("model.ckpt-20.meta", 20),
    ],
)
def test_names_of_a_checkpoint(folder, name, step):
    assert read_variables(folder / name)["global_step"] == step


def test_the_folder_of_another_machine(folder):
    """An absolute path that does not exist here: the files lie beside its list."""
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/them/train/model.ckpt-10"')
    assert read_variables(folder)["global_step"] == 10
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{folder}/model.ckpt-20"')
    assert read_variables(folder)["global_step"] == 20


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it names no checkpoint"),
        (b"model_checkpoint_path: 5", "is no list of checkpoints"),
        (b"something: 5", "is no list of checkpoints"),
        (b"\xff\xfe", "is no list of checkpoints"),
        (b"#" * (1 << 19), "too large a list of checkpoints"),
        (b'model_checkpoint_path: "gone"', "gone.index: No such file"),
        (b'model_checkpoint_path: "a\\000b"', "no file name"),
    ],
)
def test_lists_of_checkpoints_that_are_none(folder, content, problem):
    (folder / "checkpoint").write_bytes(content)
    with pytest.raises(TensorFlowImportError, match=problem) as error:
        read_variables(folder)
    assert str(error.value).isprintable()


def test_names_of_nothing(folder):
    with pytest.raises(TensorFlowImportError, match="nothing: no such file, and no checkpoint of"):
        read_variables(folder / "nothing")
    (folder / "sub").mkdir()
    with pytest.raises(TensorFlowImportError, match="sub: is a folder without the file 'checkp"):
        read_variables(folder / "sub")
    (folder / "notes.txt").write_text("no table")
    with pytest.raises(TensorFlowImportError, match="notes.txt: is no file of TensorFlow's"):
        read_variables(folder / "notes.txt")
    shutil.copy(folder / "model.ckpt-10.index", folder / "old.ckpt")
    with pytest.raises(TensorFlowImportError, match="old.ckpt: is a checkpoint of .* first format"):
        read_variables(folder / "old.ckpt")
    with pytest.raises(TensorFlowImportError):
        read_variables("a\0b")


def test_kinds(folder):
    (folder / "net.pb").write_bytes(b"")
    assert locate(folder / "net.pb").kind == "graph"
    assert locate(folder / "model.ckpt-10") == ("checkpoint", str(folder / "model.ckpt-10"))
    kinds = {
        "a.ckpt-5": "checkpoint",
        "a.index": "checkpoint",
        "a.npz": "npz",
        "a.pt": None,
        "a.ckpt-5.npz": "npz",
        "a.ckpt-5.pt": None,
    }
    assert {name: kind_of_output(name) for name in kinds} == kinds


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_there_and_back(stored, tmp_path, described, ending):
    """Through another kind of file, the checkpoint is byte for byte what it was."""
    given = read_variables(stored / "small.ckpt")
    infos = list_variables(stored / "small.ckpt")
    if ending == ".npz":  # which holds neither
        given = {name: array for name, array in given.items() if infos[name].dtype != "string"}
    path = tmp_path / f"x{ending}"
    write_variables(path, given, dtypes=other_dtypes(given, infos))
    back = read_variables(path)
    assert described(dict(sorted(back.items()))) == described(dict(sorted(given.items())))
    if ending == ".npz":
        assert list_variables(path)["brain"] == ("float32", (4,))
        return
    assert {n: i.dtype for n, i in list_variables(path).items()} == {
        n: i.dtype for n, i in infos.items()
    }
    write_variables(tmp_path / "x.ckpt", back, dtypes=other_dtypes(back, list_variables(path)))
    for part in ("index", "data-00000-of-00001"):
        whole = (stored / f"small.ckpt.{part}").read_bytes()
        assert (tmp_path / f"x.ckpt.{part}").read_bytes() == whole


def test_what_other_programs_see(tmp_path):
    given = {"a/weights": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "file": np.int64(3)}
    write_variables(tmp_path / "x.safetensors", given)
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert file.metadata() == {"tensorflow.layout": "1"}
        np.testing.assert_array_equal(file.get_tensor("a/weights"), given["a/weights"])
    write_variables(tmp_path / "x.npz", given)
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive["a/weights"], given["a/weights"])
        assert archive["file"] == 3


def test_files_of_other_programs(tmp_path):
    given = {"a/weights": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_file(given, tmp_path / "x.safetensors")
    assert not is_of_tensorflow(tmp_path / "x.safetensors")
    np.savez_compressed(
        tmp_path / "x.npz", turned=given["a/weights"].T, big=np.arange(3, dtype=">i4")
    )
    np.testing.assert_array_equal(
        read_variables(tmp_path / "x.safetensors")["a/weights"], given["a/weights"]
    )
    read = read_variables(tmp_path / "x.npz")
    np.testing.assert_array_equal(read["turned"], given["a/weights"].T)
    assert read["big"].dtype == np.dtype("<i4")
    assert list(read_variables(tmp_path / "x.npz", ["big"])) == ["big"]
    with pytest.raises(TensorFlowImportError, match="has no variable 'small'"):
        read_variables(tmp_path / "x.npz", ["small"])


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"tensorflow.dtypes": "["}, "tensorflow.dtypes in its metadata"),
        ({"tensorflow.dtypes": "[" * 100_000}, "tensorflow.dtypes in its metadata"),
        ({"tensorflow.dtypes": "[]"}, "tensorflow.dtypes in its metadata"),
        ({"tensorflow.dtypes": '{"a": "int64"}'}, "of float32 cannot hold 'int64'"),
        ({"tensorflow.dtypes": '{"a": 5}'}, "of float32 cannot hold '5'"),
        ({"tensorflow.strings": '{"s": 5}'}, "the strings of 's'"),
        ({"tensorflow.strings": '{"s": [[2], ["AA=="]]}'}, "the strings of 's'"),
        ({"tensorflow.strings": '{"s": [[1], ["?"]]}'}, "the strings of 's'"),
        ({"tensorflow.strings": '{"s": [[-1], ["AA=="]]}'}, "the strings of 's'"),
        ({"tensorflow.strings": '{"s": [["1"], ["AA=="]]}'}, "the strings of 's'"),
    ],
)
def test_metadata_that_lies(tmp_path, metadata, problem):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(TensorFlowImportError, match=problem) as error:
        read_variables(tmp_path / "x.safetensors")
    assert str(error.value).isprintable()


def npz(folder, content, name="a.npy", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / "x.npz", "w", compression) as archive:
        archive.writestr(name, content)
    return folder / "x.npz"


def npy(header, values=b""):
    header = header.encode("latin1")
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + values


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "array 'a'"),
        (npy("{[]: 1}"), "array 'a'"),
        (npy("(" * 3000), "array 'a'"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "holds no numbers"),
        (npy("{'descr': '<U5', 'fortran_order': False, 'shape': (1,)}"), "holds no numbers"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "impossible shape"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999,)}"), "has 0 bytes"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "has 8 bytes"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': ('x',)}"), "array 'a'"),
    ],
)
def test_arrays_that_lie(tmp_path, content, problem):
    with pytest.raises(TensorFlowImportError, match=problem) as error:
        read_variables(npz(tmp_path, content))
    assert str(error.value).isprintable()


def test_archives_that_are_none(tmp_path):
    with pytest.raises(TensorFlowImportError, match="its member 'notes.txt' is no array"):
        read_variables(npz(tmp_path, b"", name="notes.txt"))
    (tmp_path / "x.npz").write_bytes(b"PK\3\4")
    with pytest.raises(TensorFlowImportError, match=r"is no \.npz of variables, or damaged"):
        read_variables(tmp_path / "x.npz")
    size = 40_000_000
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},)}}"
    path = npz(tmp_path, npy(header, bytes(size)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(TensorFlowImportError, match="expands too far"):
        read_variables(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_arrays_that_are_damaged(tmp_path, compression):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (9999,)}"
    values = np.random.default_rng(0).integers(0, 9, 9999, np.uint8).tobytes()
    path = npz(tmp_path, npy(header, values), compression=compression)
    content = path.read_bytes()
    for place in range(60, len(content) - 200, 97):  # behind the archive's own header
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(
            TensorFlowImportError, match=r"x\.npz: is no \.npz of variables, or dam"
        ):
            read_variables(path)


def test_what_a_kind_of_file_cannot_hold(tmp_path):
    strings = {"s": np.array([b"a"], object)}
    with pytest.raises(TensorFlowImportError, match=r"x.npz: variable 's' holds strings"):
        write_variables(tmp_path / "x.npz", strings)
    with pytest.raises(TensorFlowImportError, match="does not have; got complex128"):
        write_variables(tmp_path / "x.safetensors", {"c": np.complex128(1)})
    with pytest.raises(TensorFlowImportError, match="unknown kind of output; expected .ckpt"):
        write_variables(tmp_path / "x.bin", strings)
    with full_disk(3000), pytest.raises(TensorFlowImportError, match=r"x.npz: File too large"):
        write_variables(tmp_path / "x.npz", {"a": np.zeros(10_000)})
    assert list(tmp_path.iterdir()) == []


def test_strings_of_any_shape(tmp_path):
    given = np.array([[b"", b"\0"], [b"a" * 100, b"\xff"]], object)
    write_variables(tmp_path / "x.safetensors", {"s": given, "scalar": np.array(b"one", object)})
    read = read_variables(tmp_path / "x.safetensors")
    assert read["s"].tolist() == given.tolist()
    assert read["scalar"].tolist() == b"one"
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["tensorflow.strings"])["scalar"] == [[], ["b25l"]]
