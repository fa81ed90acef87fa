"""Weights in and out of all three kinds of file, bit for bit; damaged files refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from prototxt_import import (
    CaffeImportError,
    SolverState,
    infer_net,
    parse_net,
    read_model,
    read_net,
    read_solverstate,
    read_weights,
    write_solverstate,
    write_weights,
)
from prototxt_import.matching import match_weights
from prototxt_import.schema import message_class

DATA = Path(__file__).parents[1] / "data" / "caffe"
NETWORKS = sorted(path.parent.name for path in DATA.glob("*/weights.caffemodel"))
ENDINGS = [".caffemodel", ".safetensors", ".caffemodel.h5"]


def same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        for a, b in zip(ours[name], theirs[name], strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sampled(5)
def test_write_back(name, ending, tmp_path):
    source = read_model(DATA / name / "weights.caffemodel")
    path = tmp_path / f"copy{ending}"
    write_weights(path, source.weights, source.raw, filtered=source.filtered)
    same_bits(read_weights(path), source.weights)
    if ending != ".caffemodel.h5":
        assert list(read_weights(path)) == list(source.weights)  # in file order
        copy = read_model(path)
        assert copy.raw.text() == source.raw.text()
        assert copy.raw.dialect == source.raw.dialect
        assert copy.filtered


@pytest.mark.parametrize("name", NETWORKS)
def test_what_we_write_parses_in_the_programs_own_schema(name, tmp_path):
    """The protobuf library, with the dialect's schema, finds the very values: as Caffe would."""
    source = read_model(DATA / name / "weights.caffemodel")
    path = tmp_path / "copy.caffemodel"
    write_weights(path, source.weights, source.raw)
    net = message_class(source.raw.dialect, "NetParameter").FromString(path.read_bytes())
    original = message_class(source.raw.dialect, "NetParameter").FromString(
        (DATA / name / "weights.caffemodel").read_bytes()
    )
    assert net == original


@pytest.mark.slow
def test_shared_copies_are_stored_once(tmp_path):
    from safetensors import safe_open

    source = read_model(DATA / "resnet101_msc_w16" / "weights.caffemodel")
    path = tmp_path / "r.safetensors"
    write_weights(path, source.weights, source.raw)
    with safe_open(path, "numpy") as file:
        names = set(file.keys())
    assert "conv1.0" in names
    assert "conv1_res05.0" not in names
    blobs = sum(map(len, source.weights.values()))
    assert len(names) * 3 == blobs


def test_copies_that_differ_are_both_kept_and_the_last_one_counts(tmp_path):
    net = parse_net(
        'input: "x" input_dim: 1 input_dim: 1 input_dim: 3 input_dim: 3 '
        + "".join(
            f'layer {{ name: "{n}" type: "Convolution" bottom: "x" top: "{n}" param {{ name: "w" }}'
            " convolution_param { num_output: 1 kernel_size: 1 bias_term: false } } "
            for n in ("a", "b")
        )
    )
    one, two = (np.full((1, 1, 1, 1), v, np.float32) for v in (1, 2))
    write_weights(tmp_path / "w.safetensors", {"a": [one], "b": [two]}, net)
    same_bits(read_weights(tmp_path / "w.safetensors"), {"a": [one], "b": [two]})
    match = match_weights(infer_net(net), {"a": [one], "b": [two]})
    assert len(match.conflicts) == 1
    assert "'b' is used" in match.conflicts[0]
    assert not match_weights(infer_net(net), {"a": [one], "b": [one]}).conflicts


def test_doubles_stay_doubles(tmp_path):
    weights = {"a": [np.array([1 / 3, 2 / 3])]}
    for ending in ENDINGS:
        path = tmp_path / f"d{ending}"
        write_weights(path, weights)
        same_bits(read_weights(path), weights)


def test_odd_names_and_empty_blobs(tmp_path):
    weights = {
        "a/b": [np.zeros((2, 0), np.float32)],
        "data": [np.float32([1, np.nan, -0.0, np.inf])],
        "dots.and spaces": [np.ones((1, 2, 3, 4, 5), np.float32), np.ones((), np.float32)],
    }
    for ending in (".caffemodel", ".safetensors"):
        path = tmp_path / f"odd{ending}"
        write_weights(path, weights)
        same_bits(read_weights(path), weights)
    path = tmp_path / "odd.caffemodel.h5"
    with h5py.File(path, "w", track_order=True) as file:
        for name, blobs in weights.items():
            for i, blob in enumerate(blobs):
                file[f"data/{name}/{i}"] = blob
    same_bits(read_weights(path), weights)


@pytest.mark.parametrize("name", ["inception_3a/1x1", "/", "", "."])
def test_no_hdf5_in_which_caffe_would_not_find_a_layer(name, tmp_path):
    """Caffe reads the groups of /data alone, and says nothing of layers that it misses."""
    path = tmp_path / "w.caffemodel.h5"
    layers = {"first": [np.ones(3, np.float32)], name: [np.ones(3, np.float32)]}
    with pytest.raises(CaffeImportError, match=f"{path}: (layer '{name}': )?Caffe would not find"):
        write_weights(path, layers)
    assert list(tmp_path.iterdir()) == []


def test_types_that_no_blob_has(tmp_path):
    for ending in ENDINGS[:2]:
        path = tmp_path / f"w{ending}"
        with pytest.raises(CaffeImportError, match="of this type cannot be written.*int32"):
            write_weights(path, {"a": [np.ones(3, np.int32)]})
        assert not path.exists()


def test_real_hdf5_weights():
    path = DATA / "solvers" / "sgd_poly_hdf5_snapshots" / "snap_iter_6.caffemodel.h5"
    weights = read_weights(path)
    assert {name: [b.shape for b in blobs] for name, blobs in weights.items()} == {
        "conv": [(6, 3, 3, 3), (6,)],
        "score": [(4, 6, 1, 1), (4,)],
    }


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[: len(b) // 2], "is no caffemodel"),
        (lambda b: b[:-1], "is no caffemodel"),
        (lambda b: b"", "is empty"),
        (lambda b: b"\xff" * 100, "is no caffemodel"),
        (lambda b: b"\x0a\x03abc", "holds no layers"),
    ],
)
def test_damaged_caffemodels(damage, message, tmp_path):
    path = tmp_path / "bad.caffemodel"
    path.write_bytes(damage((DATA / "largefov_v2_w8" / "weights.caffemodel").read_bytes()))
    with pytest.raises(CaffeImportError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("dims", "message"),
    [([3], "expected 3 .3., got 2"), ([2**40], "shape"), ([1] * 40, "axes"), ([], "got 2")],
)
def test_blobs_that_lie_about_their_size(dims, message, tmp_path):
    net = message_class("bvlc", "NetParameter")()
    blob = net.layer.add(name="liar", type="Convolution").blobs.add(data=[1, 2])
    blob.shape.dim.extend(dims)
    path = tmp_path / "liar.caffemodel"
    path.write_bytes(net.SerializeToString())
    with pytest.raises(CaffeImportError, match=message):
        read_weights(path)


def test_unpacked_and_split_data_are_read(tmp_path):
    """protobuf lets a packed field come in pieces, and as single values."""
    import struct

    pieces = struct.pack("<BBf", 0x2A, 4, 1.0) + struct.pack("<Bf", 0x2D, 2.0)
    shape = bytes([0x3A, 3, 0x0A, 1, 2])
    blob = pieces + shape
    layer = b"\x0a\x01a" + bytes([0x3A, len(blob)]) + blob
    path = tmp_path / "pieces.caffemodel"
    path.write_bytes(bytes([0xA2, 0x06, len(layer)]) + layer)
    assert read_weights(path)["a"][0].tolist() == [1.0, 2.0]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(b"old")
    with pytest.raises(CaffeImportError, match="int32"):
        write_weights(path, {"a": [np.ones(3, np.float32)], "b": [np.ones(3, np.int32)]})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", [".safetensors", ".h5"])
def test_damaged_other_files(ending, tmp_path):
    path = tmp_path / f"w{ending}"
    write_weights(path, {"a": [np.ones(1000, np.float32)]})
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CaffeImportError, match="cannot be read|or damaged"):
        read_weights(path)


# ---------------------------------------------------------------- weights against a network

CONVOLUTION = (
    'input: "x" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 3 '
    'layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" %s'
    " convolution_param { num_output: 4 kernel_size: 1 } }"
)


def shapes(text=""):
    return infer_net(parse_net(CONVOLUTION % text))


def weights(*sizes):
    return {"c": [np.zeros(size, np.float32) for size in sizes]}


@pytest.mark.parametrize("bias", [(4,), (1, 1, 1, 4)])
def test_biases_of_old_files_have_four_axes(bias):
    assert match_weights(shapes(), weights((4, 2, 1, 1), bias)).copied == ["c"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(4, 2, 1, 1)], "another number of blobs; expected 2, got 1"),
        ([(2, 4, 1, 1), (4,)], "blob 0 has another shape; expected 4x2x1x1, got 2x4x1x1"),
        ([(4, 2, 1, 1), (4, 1, 1, 1)], "blob 1 has another shape"),
    ],
)
def test_weights_that_do_not_fit(sizes, message):
    with pytest.raises(CaffeImportError, match=message):
        match_weights(shapes(), weights(*sizes))


def test_strict_dim_false_asks_for_the_count_alone():
    loose = shapes("strict_dim: false")
    assert match_weights(loose, weights((1, 1, 8, 1), (4, 1, 1, 1))).copied == ["c"]
    with pytest.raises(CaffeImportError):
        match_weights(loose, weights((1, 1, 9, 1), (4,)))


def test_report_of_unused_and_missing():
    match = match_weights(shapes(), {"other": [np.zeros(1, np.float32)]})
    assert (match.unused, match.missing) == (["other"], ["c"])


# ---------------------------------------------------------------- solver states


@pytest.mark.parametrize(
    "path", sorted(DATA.rglob("*.solverstate*")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_solver_states(path, tmp_path):
    state = read_solverstate(path)
    assert state.iter > 0
    assert state.learned_net.endswith((".caffemodel", ".caffemodel.h5"))
    for ending in (".solverstate", ".solverstate.h5"):
        copy = tmp_path / f"s{ending}"
        write_solverstate(copy, state)
        again = read_solverstate(copy)
        assert (again.iter, again.learned_net, again.current_step) == (
            state.iter,
            state.learned_net,
            state.current_step,
        )
        for a, b in zip(again.history, state.history, strict=True):
            assert a.tobytes() == b.tobytes()
            assert a.shape == b.shape


def test_solver_state_in_the_programs_own_schema(tmp_path):
    state = SolverState(7, "w.caffemodel", 2, [np.float32([[1, 2]]), np.float32([3])])
    write_solverstate(tmp_path / "s.solverstate", state)
    message = message_class("bvlc", "SolverState").FromString(
        (tmp_path / "s.solverstate").read_bytes()
    )
    assert (message.iter, message.learned_net, message.current_step) == (7, "w.caffemodel", 2)
    assert [list(h.shape.dim) for h in message.history] == [[1, 2], [1]]
    assert list(message.history[0].data) == [1, 2]


def test_a_caffemodel_is_no_solver_state():
    with pytest.raises(CaffeImportError, match="is no solverstate"):
        read_solverstate(DATA / "largefov_v2_w8" / "weights.caffemodel")


def test_kind_of_file_is_told_by_its_content(tmp_path):
    original = DATA / "largefov_v2_w8" / "weights.caffemodel"
    renamed = tmp_path / "weights.bin"
    renamed.write_bytes(original.read_bytes())
    same_bits(read_weights(renamed), read_weights(original))
    plain = tmp_path / "network"
    plain.write_text((DATA / "largefov_v2_w8" / "deploy.prototxt").read_text())
    assert len(read_net(plain).layers) == 40
