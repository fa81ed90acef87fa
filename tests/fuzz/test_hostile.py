"""Files that once broke a reader, or that try what the mutator hardly finds by chance."""

from __future__ import annotations

import base64
import contextlib
import os
import resource
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf import text_format

from deeplab_repro import load_caffe
from deeplab_repro.cli import main
from deeplab_repro.errors import InputError
from deeplab_repro.pictures.reading import load_inputs, read_mean
from prototxt_import import (
    CaffeImportError,
    infer_net,
    parse_net,
    read_model,
    read_solverstate,
    read_weights,
    write_weights,
)
from prototxt_import.files import kind_of
from prototxt_import.limits import MAX_BLOB_BYTES, MAX_LAYERS, MAX_PARAMETER_BYTES
from prototxt_import.schema import message_class
from tests.fuzz import hostile
from tests.fuzz.readers import read
from tests.fuzz.seeds import CURRENT, ENDINGS, make_seeds

#: The mark that this process's memory reached before: it only rises.
HIGHEST = [0]


def resident():
    HIGHEST[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def message(number, content):
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def layer(*parts):
    return message(100, b"".join(parts))


def slowness():
    """How many times as long as a usual machine this one takes now, at least 1."""
    started = time.process_time()
    total = 0
    for i in range(1_000_000):
        total += i & 7
    return max(1.0, (time.process_time() - started) / 0.08)


def refused(tmp_path, content, ending=".caffemodel", match=""):
    """Refused in 5 s of a usual machine, with no more memory than 4 times the file and 200 MB."""
    path = tmp_path / f"hostile{ending}"
    path.write_bytes(content)
    before = resident()
    started = time.process_time()
    with pytest.raises(CaffeImportError, match=match) as error:
        infer_net(read_model(path).net())
    seconds = time.process_time() - started
    assert seconds < 5 * slowness()
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert highest - before < 4 * len(content) + 200e6 or highest == HIGHEST[0]
    line = str(error.value)
    assert line.isprintable()
    assert len(line) < 2500
    assert str(path) in line
    return line


# ---------------------------------------------------------------- found by the fuzzers


def test_an_empty_blob_with_an_empty_list_of_numbers(tmp_path):
    """Coverage-guided: reading nothing into an array of nothing was a BufferError."""
    path = tmp_path / "x.solverstate"
    path.write_bytes(bytes.fromhex("1a023a00") + b"\x1a\x08\x3a\x04\x0a\x02\x00\x05\x2a\x00")
    with pytest.raises(CaffeImportError, match="history 0 holds the wrong number of values"):
        read_solverstate(path)
    path.write_bytes(b"\x1a\x08\x3a\x04\x0a\x02\x00\x05\x2a\x00")
    assert read_solverstate(path).history[0].shape == (0, 5)


def test_an_hdf5_file_that_points_beyond_its_end(tmp_path):
    """305 bytes at which the library asked for 4 GB, and took 10 seconds to zero them."""
    packed = (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfVEhCI{J`JCC5VaV0h1D#$IOUk3_9RqVgM^)69<uuEHGnOQW8rNy<xh08E6H"
        "N-GVNL>NXev00w(H`T"
    )
    path = tmp_path / "far.caffemodel.h5"
    path.write_bytes(zlib.decompress(base64.b85decode(packed)))
    started = time.monotonic()
    with pytest.raises(CaffeImportError, match="is no HDF5 file, or damaged"):
        read_weights(path)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("header", ["{[]: 1}", "(" * 3000, "'" * 3000, "-" * 9000])
def test_npy_headers_that_python_cannot_parse(tmp_path, header):
    """TypeError, MemoryError, TokenError: numpy passes on whatever Python's parser says."""
    path = tmp_path / "x.npy"
    content = header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content)
    for reader in (read_mean, lambda p: load_inputs(p, parse_net(CURRENT))):
        with pytest.raises(InputError, match=r"is no \.npy"):
            reader(path)


def test_a_window_of_lrn_far_larger_than_the_picture():
    """It padded the blob with as many zeros; the result is the same without them."""

    def lrn(size, alpha, region):
        parameters = f"local_size: {size} alpha: {alpha} norm_region: {region}"
        net = parse_net(
            'input: "x" input_shape { dim: 1 dim: 3 dim: 9 dim: 11 } layer { name: "l" type: "LRN"'
            f' bottom: "x" top: "y" lrn_param {{ {parameters} }} }}'
        )
        return load_caffe(net)(x=x)["y"]

    x = np.random.default_rng(0).normal(size=(1, 3, 9, 11)).astype(np.float32)
    for region, power, sizes in (("ACROSS_CHANNELS", 1, 3), ("WITHIN_CHANNEL", 2, 11)):
        huge = 4_000_000_001
        alpha = float(huge) ** power  # per value of the window, as much in both
        window = 2 * sizes - 1
        far, near = lrn(huge, alpha, region), lrn(window, float(window) ** power, region)
        # The factor goes through float32 in the file: seven digits.
        np.testing.assert_allclose(far, near, rtol=1e-5, err_msg=region)


# ---------------------------------------------------------------- prototxt


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("layer{}" * 200_000, "too many layers"),
        ("input_dim:[" + "1," * 900_000 + "1]", "too many words and marks"),
        (" " * 2_000_000, "too many blanks"),
        ("#" * 3_000_000, "too large for a prototxt"),
        ('"' + '\\"' * 250_000, "line 1, column 1"),  # once a quadratic search for the end
        ("layer " + "{" * 500_000, "line 1, column"),
        ("input_dim: " + "9" * 1_000_000, "line 1, column"),
        ("layers { layer { name: 'x' type: 'conv' } }", "V0 layers"),
        ('input: "a" input_dim: -1 input_dim: 1 input_dim: 1 input_dim: 1', "impossible shape"),
    ],
)
@pytest.mark.slow
def test_texts(tmp_path, text, match):
    refused(tmp_path, text.encode(), ".prototxt", match)


@pytest.mark.parametrize("text", hostile.LAYERS)
@pytest.mark.sampled(3)
def test_layers(text):
    """Shapes are refused before anything is computed from them; so is what would be allocated."""
    started = time.process_time()
    with contextlib.suppress(CaffeImportError):
        infer_net(parse_net(CURRENT + text))
    assert time.process_time() - started < 5 * slowness()


@pytest.mark.slow
def test_ten_thousand_layers_take_seconds(tmp_path):
    """Linear: half of them take about half of the time."""

    def seconds(layers):
        text = 'input: "b0" input_shape { dim: 1 dim: 3 dim: 9 dim: 9 }\n' + "".join(
            f'layer {{ name: "same" type: "{kind}" bottom: "b{i}" top: "b{i + 1}" {parameters} }}\n'
            for i in range(layers)
            for kind, parameters in (
                [("Convolution", "convolution_param { num_output: 3 kernel_size: 1 }")]
                if i % 2
                else [("ReLU", "")]
            )
        )
        text += 'layer { name: "x" type: "EuclideanLoss" bottom: "b0" bottom: "b0" }\n' * layers
        started = time.process_time()
        net = parse_net(text)
        infer_net(net)
        assert net.outputs == [f"b{layers}"]
        return time.process_time() - started, parsing(text)

    (half, _), (whole, parser) = seconds(2500), seconds(5000)
    # Two dialects' readings, and the rest of the work: 3 to 4 times on any machine.
    assert whole < 8 * parser
    assert whole < 4 * half  # a quadratic part would make it 4 times


def parsing(text):
    """Seconds that protobuf alone takes to read the text once, here and now."""
    started = time.process_time()
    text_format.Parse(text, message_class("dl2", "NetParameter")())
    return time.process_time() - started


def test_names_in_a_message_are_one_printable_line():
    for name in ("\x1b[31mred", "two\\nlines", "\x00", "\u202e", "[/red]", "x" * 100_000):
        with pytest.raises(CaffeImportError) as error:
            parse_net(f'layer {{ name: "{name}" type: "ReLU" bottom: "nowhere" top: "y" }}')
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 2500


def command_line(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.mark.parametrize("name", ["[/]", "[red]x[/red]", "\\x1b[31m", "a\\nb", "\\x00", "\\u202e"])
@pytest.mark.sampled(2)
def test_names_in_tables(tmp_path, capsys, name):
    """No markup, no terminal sequences, no other lines: "[/]" was a MarkupError."""
    text = CURRENT.replace('"conv2"', f'"{name}"').replace('"tiny"', f'"{name}"')
    prototxt = tmp_path / "x.prototxt"
    prototxt.write_text(text)
    model = tmp_path / "x.caffemodel"
    net = parse_net(text)
    filled = [np.zeros((4, 3, 3, 3), np.float32), np.zeros(4, np.float32)]
    write_weights(model, {net.layers[5].name: filled}, net)
    recorded = tmp_path / "a.h5"
    with h5py.File(recorded, "w") as file:
        file["blobs/data"], file["blobs/[/]"] = np.ones((1, 3, 9, 11)), np.ones(3)
    for arguments, code in (
        (["inspect", prototxt], 0),
        (["convert", model], 0),
        (["compare", prototxt, "--activations", recorded], 1),
    ):
        assert command_line(*arguments) == code
        out, err = capsys.readouterr()
        for line in (out + err).splitlines():
            assert line.isprintable()
        if "\\" not in name and arguments[0] == "inspect":
            assert name in out


@pytest.mark.slow
def test_tables_end(tmp_path, capsys):
    """Ten thousand rows took rich ten seconds."""
    path = tmp_path / "x.prototxt"
    text = CURRENT + 'layer { name: "y" type: "Silence" bottom: "data" }\n' * 10_000
    path.write_text(text)
    started = time.process_time()
    assert command_line("inspect", path) == 0
    # Rich alone took 10 seconds on a machine on which protobuf takes half a second.
    spent = time.process_time() - started
    assert spent < 12 * parsing(text)
    assert "more rows" in capsys.readouterr().out


# ---------------------------------------------------------------- caffemodel


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (layer() * 100_000, "too many layers"),
        (layer(message(1, b"x"), message(3, b"a") * 400_000), "too many fields"),
        (layer(message(1, b"x"), message(106, b"\x20\x01" * 400_000)), "too many fields"),
        (layer(message(1, b"x"), message(7, b"\x2d\0\0\x80\x3f" * 50_000)), "too many pieces"),
        (message(1, b"n" * 9_000_000) + layer(), "too large a network"),
        (message(1, b"n" * 9)[:-1], "is no caffemodel"),
        (layer(message(1, b"x"), message(7, message(7, b"\x0a" + varint(400) + b"\1" * 400))),
         "more than 32 axes"),
        (layer(message(1, b"x"), message(7, message(7, b"\x08" + varint(2**31)))), "of shape"),
        (layer(message(1, b"x"), message(7, message(7, b"\x08\x00" + (b"\x08" + varint(2**31 - 1))
         * 20))), "impossible shape"),
        (layer(message(1, b"x"), message(7, message(7, b"\x08" + varint(2**31 - 1)))),
         "wrong number of values"),
        (layer(message(1, b"\xff\xfe"), message(2, b"ReLU")), "not UTF-8"),
    ],
)  # fmt: skip
def test_caffemodels(tmp_path, content, match):
    refused(tmp_path, content, match=match)


def test_a_forced_dialect_does_not_let_damage_through(tmp_path):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(layer(message(1, b"x"), message(2, b"\xff"), message(106, b"\xff\xff\xff")))
    with pytest.raises(CaffeImportError, match="layer 'x': is no LayerParameter of dialect bvlc"):
        read_model(path, dialect="bvlc")


def test_v1_convolution_that_is_no_message(tmp_path):
    """Looking for hole in it was a WireError."""
    blob = message(6, b"\x08\x01\x10\x01\x18\x01\x20\x01\x2a\x04\0\0\x80\x3f")
    content = message(2, message(4, b"x") + b"\x28\x04" + message(10, b"\xff") + blob)
    refused(tmp_path, content, match="no known Caffe dialect")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    """A mapping would end the process with SIGBUS."""
    from prototxt_import.caffemodel import opened
    from prototxt_import.wire import WireError, scan_net

    path = tmp_path / "x.caffemodel"
    path.write_bytes(layer(message(1, b"x" * 100)) * 2000)
    with opened(path) as (_, data):
        path.write_bytes(b"\n")
        with pytest.raises(WireError, match="changed meanwhile"):
            scan_net(data)


# ---------------------------------------------------------------- HDF5, safetensors


def test_hdf5_beyond_the_file(tmp_path):
    path = tmp_path / "w.caffemodel.h5"

    def try_with(change):
        write_weights(path, {"a": [np.ones(3, np.float32)], "b": [np.ones(4, np.float32)]})
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(CaffeImportError) as error:
            read_weights(path)
        return str(error.value)

    def replaced(**how):
        def change(file):
            del file["data/a/0"]
            file.create_dataset("data/a/0", **how)

        return change

    assert "larger than what the file stores" in try_with(
        replaced(shape=(10**12,), dtype="f4", chunks=(1024,))
    )
    assert "larger than what the file stores" in try_with(
        replaced(shape=(10**8,), dtype="f4", fillvalue=1, compression="gzip")
    )
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret data here")
    assert "lie in another file" in try_with(
        replaced(shape=(4,), dtype="f4", external=[(str(outside), 0, 16)])
    )

    def link(target):
        def change(file):
            del file["data/a"]
            file["data/a"] = target

        return change

    assert "is a link" in try_with(link(h5py.ExternalLink(str(outside), "/")))
    assert "is a link" in try_with(link(h5py.SoftLink("/data/b")))

    def circle(file):
        file["data/b/again"] = file["data"]

    assert "in a circle" in try_with(circle)

    def many_names(file):
        del file["data/a/0"]
        file["data/a/0"] = np.ones(300_000, np.float32)
        for i in range(200):
            file[f"data/name{i}/0"] = file["data/a/0"]

    assert "larger than the file, so many times" in try_with(many_names)


def test_activations_that_point_elsewhere(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["blobs/data"] = h5py.ExternalLink("/etc/passwd", "/")
    assert read("activations_h5", path) == "refused"


def test_a_safetensors_index_that_multiplies(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, {"a": [np.ones(100_000, np.float32)]})
    content = path.read_bytes()
    index = '[[\\"a\\", [' + ", ".join(['\\"a.0\\"'] * 5000) + "]]]"
    changed = content[8:].replace(b'[[\\"a\\", [\\"a.0\\"]]]', index.encode(), 1)
    grown = int.from_bytes(content[:8], "little") + len(changed) - len(content) + 8
    refused(tmp_path, grown.to_bytes(8, "little") + changed, ".safetensors", "again and again")


# ---------------------------------------------------------------- limits


def test_no_pipes_devices_or_folders(tmp_path):
    pipe = tmp_path / "pipe.prototxt"
    os.mkfifo(pipe)
    for path, match in (
        (pipe, "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file"),
        ("a\0b", "is no file name"),
    ):
        for reader in (kind_of, read_model, read_weights, read_solverstate, read_mean):
            with pytest.raises(CaffeImportError, match=match):
                reader(path)


def test_parameters_are_limited_before_they_are_allocated(monkeypatch):
    text = CURRENT + (
        'layer { name: "big" type: "InnerProduct" bottom: "data" top: "big"'
        " inner_product_param { num_output: 7000000 } }"
    )
    net = parse_net(text)
    with pytest.raises(CaffeImportError, match="layer 'big': the network's parameters are too"):
        load_caffe(net)
    monkeypatch.setenv(MAX_PARAMETER_BYTES.variable, "1000")
    with pytest.raises(CaffeImportError, match=MAX_PARAMETER_BYTES.variable):
        load_caffe(parse_net(CURRENT))
    monkeypatch.setenv(MAX_PARAMETER_BYTES.variable, "100000")
    load_caffe(parse_net(CURRENT))


def test_blobs_are_limited_before_they_are_computed(monkeypatch):
    net = load_caffe(parse_net(CURRENT))
    x = np.zeros((1, 3, 9, 11), np.float32)
    everything = sum(4 * blob.numel() for blob in net.blobs(data=x).values())
    monkeypatch.setenv(MAX_BLOB_BYTES.variable, str(everything - 1))
    net = load_caffe(parse_net(CURRENT))
    net(data=x)  # blobs are freed on the way
    with pytest.raises(CaffeImportError, match="the blobs that exist at the same time"):
        net.blobs(data=x)
    padded = load_caffe(parse_net(
        'input: "data" input_shape { dim: 1 dim: 1 dim: 1 dim: 1 } layer { name: "p" type: '
        '"Convolution" bottom: "data" top: "p" convolution_param { num_output: 1 kernel_size: 1'
        " pad: 40000 stride: 40000 } }"
    ))  # fmt: skip
    with pytest.raises(CaffeImportError, match="layer 'p': the blobs"):
        padded(data=np.zeros((1, 1, 1, 1), np.float32))


@pytest.mark.parametrize("text", ["", "-1", "0", "many", "9" * 40])
def test_a_limit_that_is_no_number(monkeypatch, text):
    monkeypatch.setenv(MAX_LAYERS.variable, text)
    with pytest.raises(CaffeImportError, match="a positive whole number"):
        parse_net(CURRENT)


def test_sound_files_are_read(tmp_path):
    """What the mutator starts from is no error."""
    for kind, contents in make_seeds(tmp_path).items():
        for content in contents:
            path = tmp_path / f"sound{ENDINGS[kind]}"
            path.write_bytes(content)
            assert read(kind, path) == "result", kind
