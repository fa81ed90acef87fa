"""Fetching and adding: sums, structure, archives, kills, several processes, a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.released import resolve
from deeplab_repro.released.acquire import Obtained, add, fetch
from deeplab_repro.released.download import Patience
from deeplab_repro.released.identify import identify
from deeplab_repro.released.manifest import Manifest
from deeplab_repro.released.store import file_sum
from prototxt_import import read_model, read_weights, write_weights
from tests.released.conftest import Shelf, twin, twin_weights, write_caffemodel, zipped
from tests.released.server import Page, Server
from tests.testing.disk import full_disk

HURRIED = Patience(attempts=2, first_wait=0.01, connect=1.0, silence=1.0)


def get(shelf: Shelf, manifest: Manifest, name: str | None = None, **options: object) -> Obtained:
    model = next(iter(manifest.models.values()))
    (obtained,) = fetch(
        model,
        [model.weights(name)],
        shelf.store,
        patience=HURRIED,
        **options,  # type: ignore[arg-type]
    )
    return obtained


def make_zip(path: Path, network: str = "aspp-l", folder: str = "released/") -> Path:
    """As the v2 archives: two sets of weights, weights to start from, and prototxts."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}train.prototxt", "name: 'x'")
        for seed, name in enumerate(("val_iter", "test_iter", "init")):
            part = write_caffemodel(
                path.with_name(f"{name}.caffemodel"), network, seed, 81 if name == "init" else 21
            )
            archive.write(part, f"{folder}{name}.caffemodel")
            archive.writestr(f"__MACOSX/{folder}._{name}.caffemodel", b"\0")
            part.unlink()
    return path


def same(path: Path, source: Path) -> bool:
    """The same weights bit for bit."""
    one, other = read_weights(path), read_weights(source)
    return list(one) == list(other) and all(
        np.array_equal(a, b) for layer in one for a, b in zip(one[layer], other[layer], strict=True)
    )


def test_fetch_and_use(shelf: Shelf, server: Server, caffemodel: Path) -> None:
    url = server.url("/a", Page(caffemodel.read_bytes()))
    manifest = shelf.put(twin=twin(server.url("/gone"), url))
    with pytest.raises(InputError, match="deeplab-repro weights fetch twin` before, or `deeplab"):
        resolve("twin")
    first = get(shelf, manifest)
    assert (first.first_use, first.already) == (True, False)
    assert first.record is not None
    assert first.record.sha256 == file_sum(caffemodel)
    assert first.record.origin == url
    assert same(first.path, caffemodel)
    network = read_model(first.path).net("TEST")
    assert network.outputs == ["fc8_interp"]
    assert resolve("twin") == manifest.models["twin"].file("val_iter") == first.path
    assert resolve("twin/val_iter") == first.path
    assert resolve("nothing") is None
    with pytest.raises(InputError, match="weights fetch twin/test_iter`"):
        resolve("twin/test_iter")
    with pytest.raises(InputError, match="expected val_iter or test_iter, got x"):
        resolve("twin/x")
    server.requests.clear()
    again = get(shelf, manifest)
    assert (again.already, again.record, server.requests) == (True, first.record, [])
    # Converted anew from what was downloaded: no request either.
    first.path.unlink()
    assert not get(shelf, manifest).first_use
    assert server.requests == []
    assert shelf.left_over() == []


def test_a_later_different_sum_is_an_error_that_names_both(
    shelf: Shelf, server: Server, caffemodel: Path, other_caffemodel: Path
) -> None:
    page = Page(caffemodel.read_bytes())
    manifest = shelf.put(twin=twin(server.url("/a", page)))
    get(shelf, manifest)
    for path in (shelf.store.root / "twin").rglob("val_iter.*"):
        path.unlink()
    page.content = other_caffemodel.read_bytes()
    with pytest.raises(InputError) as error:
        get(shelf, manifest)
    assert file_sum(caffemodel) in str(error.value)
    assert file_sum(other_caffemodel) in str(error.value)
    assert "--accept-changed" in str(error.value)
    with pytest.raises(InputError, match=r"b.caffemodel: has another SHA-256 than twin/val"):
        add(other_caffemodel, manifest, shelf.store, file="val_iter")
    accepted = get(shelf, manifest, accept_changed=True)
    assert same(accepted.path, other_caffemodel)
    assert accepted.record == shelf.store.record("twin/val_iter.caffemodel")


def test_what_is_in_the_store_is_damaged(
    shelf: Shelf, server: Server, caffemodel: Path, other_caffemodel: Path
) -> None:
    """Nothing is converted from it, and the message names the file."""
    manifest = shelf.put(twin=twin(server.url("/a", Page(caffemodel.read_bytes()))))
    get(shelf, manifest).path.unlink()
    model = manifest.find("twin")
    published = shelf.store.published(model, model.default.download)
    published.write_bytes(other_caffemodel.read_bytes())
    with pytest.raises(InputError, match=f"{published}: has another SHA-256 than twin/val_iter"):
        get(shelf, manifest)
    assert not shelf.store.converted(model, model.default).exists()


def test_published_sum_and_length(shelf: Shelf, server: Server, caffemodel: Path) -> None:
    fields = twin(server.url("/a", Page(caffemodel.read_bytes())))
    published = fields["downloads"]["val_iter.caffemodel"]
    published["sha256"] = "0" * 64
    with pytest.raises(InputError, match=f"as published; expected {'0' * 64}, got"):
        get(shelf, shelf.put(twin=fields))
    published["sha256"] = file_sum(caffemodel)
    published["bytes"] = 5
    with pytest.raises(InputError, match="another length than published; expected 5"):
        get(shelf, shelf.put(twin=fields))
    published["bytes"] = caffemodel.stat().st_size
    assert not get(shelf, shelf.put(twin=fields)).first_use


def test_wrong_files(shelf: Shelf, server: Server, caffemodel: Path, tmp_path: Path) -> None:
    """Each is refused with what is wrong, and the address behind it gives the right one."""
    spoiled = twin_weights("largefov")
    spoiled["fc6"][0][0, 0, 0, 0] = np.nan
    write_weights(tmp_path / "nan.caffemodel", spoiled)
    pages = {
        "is a web page": b" <!DOCTYPE html><html><title>Sorry</title></html>",
        "is empty": b"",
        "is a text": b"not here any more",
        "its message ends at": caffemodel.read_bytes()[:-100],
        "layer 'fc6' is missing": write_caffemodel(
            tmp_path / "v.caffemodel", "aspp-l"
        ).read_bytes(),
        "it has 5 labels in place of 21": write_caffemodel(
            tmp_path / "c.caffemodel", "largefov", num_labels=5
        ).read_bytes(),
        "layer 'fc6': holds values that are not finite": (tmp_path / "nan.caffemodel").read_bytes(),
    }
    urls = [server.url(f"/{i}", Page(content)) for i, content in enumerate(pages.values())]
    with pytest.raises(InputError) as error:
        get(shelf, shelf.put(twin=twin(*urls)))
    for message in pages:
        assert message in str(error.value)
    assert shelf.left_over() == []
    assert shelf.store.records() == {}
    manifest = shelf.put(twin=twin(*urls, server.url("/right", Page(caffemodel.read_bytes()))))
    assert same(get(shelf, manifest).path, caffemodel)


@pytest.mark.parametrize("name", ["val_iter", "init"])
def test_archive(name: str, shelf: Shelf, server: Server, tmp_path: Path) -> None:
    content = make_zip(tmp_path / "a.zip").read_bytes()
    truncated = server.url("/cut", Page(content[: len(content) // 2]))
    empty = server.url("/none", Page(b"PK\x05\x06" + bytes(18)))
    caffemodel = write_caffemodel(tmp_path / "x.caffemodel", "aspp-l")
    bare = server.url("/bare", Page(caffemodel.read_bytes()))
    page = server.url("/page", Page(b"<html>"))
    manifest = shelf.put(v2=zipped(truncated, empty, bare, page))
    with pytest.raises(InputError) as error:
        get(shelf, manifest, name)
    for message in ("is a damaged archive", "lacks a file", "is no archive", "is a web page"):
        assert message in str(error.value)
    manifest = shelf.put(v2=zipped(truncated, server.url("/a", Page(content))))
    first = get(shelf, manifest, name)
    assert first.first_use
    assert first.path.name == f"{name}.safetensors"
    assert (read_model(first.path).raw is None) == (name == "init")
    server.requests.clear()
    second = get(shelf, manifest, "test_iter")
    assert server.requests == []
    assert set(shelf.store.records()) == {
        f"v2/{each}" for each in ("all.zip", f"{name}.caffemodel", "test_iter.caffemodel")
    }
    assert second.record is not None
    assert second.record.origin == server.url("/a")
    assert shelf.left_over() == []


@pytest.mark.slow
def test_add(shelf: Shelf, caffemodel: Path, other_caffemodel: Path, tmp_path: Path) -> None:
    """Layers tell the model; names and known sums which of its weights."""
    manifest = shelf.put(twin=twin(), v2=zipped(), other=zipped(network="msc"))
    with pytest.raises(InputError, match="does not tell which.*got twin/val_iter, twin/test_iter"):
        add(caffemodel, manifest, shelf.store)
    (obtained,) = add(
        caffemodel, manifest, shelf.store, file="test_iter", model=manifest.find("twin")
    )
    assert obtained.file.name == "test_iter"
    (obtained,) = add(caffemodel, manifest, shelf.store)  # its sum is known now
    assert obtained.file.name == "test_iter"
    named = tmp_path / "val_iter.caffemodel.h5"
    write_weights(named, read_weights(other_caffemodel))
    (obtained,) = add(named, manifest, shelf.store)
    assert (obtained.file.name, same(obtained.path, other_caffemodel)) == ("val_iter", True)
    assert resolve("twin") == obtained.path
    found = add(make_zip(tmp_path / "any.zip"), manifest, shelf.store)
    assert [(each.model.name, each.file.name) for each in found] == [
        ("v2", "val_iter"),
        ("v2", "test_iter"),
        ("v2", "init"),
    ]
    assert shelf.left_over() == []


def test_add_refuses(shelf: Shelf, caffemodel: Path, tmp_path: Path) -> None:
    manifest = shelf.put(twin=twin(), again=twin(), v2=zipped(), other=zipped())
    headless = {
        layer: blobs for layer, blobs in read_weights(caffemodel).items() if layer != "fc8_voc12"
    }
    headless["conv1_1"] = headless["conv1_2"]
    unlike = tmp_path / "unlike.caffemodel"
    write_weights(unlike, headless)
    for path, options, message in [
        (tmp_path / "none", {}, "No such file"),
        (tmp_path, {}, "is a pipe or a device|Is a directory"),
        (
            unlike,
            {},
            "no released model; twin is most like it, but layer 'conv1_1', blob 0 is 4x4x3x3 in",
        ),
        (
            unlike,
            {"file": "val_iter"},
            "no weights named val_iter; twin is most like it, but layer",
        ),
        (caffemodel, {"model": manifest.find("v2")}, "does not tell which.*got v2/init"),
        (caffemodel, {"model": manifest.find("v2"), "file": "val_iter"}, "does not hold v2/val_it"),
        (caffemodel, {"model": manifest.find("v2"), "file": "x"}, "expected val_iter or test_iter"),
        (make_zip(tmp_path / "a.zip"), {}, "may be several models.*got v2, other"),
        (
            make_zip(tmp_path / "b.zip", "plain"),
            {"model": manifest.find("v2")},
            "b.zip: released/val_iter.caffemodel: does not hold v2/val_iter: layer 'fc",
        ),
        (
            make_zip(tmp_path / "c.zip", "plain"),
            {},
            "holds the weights of no released model; got released/train.prototxt, released/val",
        ),
    ]:
        with pytest.raises(BadInput, match=message):
            add(path, manifest, shelf.store, **options)  # type: ignore[arg-type]
    assert shelf.left_over() == []
    assert shelf.store.records() == {}


def test_identify(shelf: Shelf, caffemodel: Path, tmp_path: Path) -> None:
    manifest = shelf.put(twin=twin(), v2=zipped())
    (found,) = identify(caffemodel, manifest, shelf.store)
    assert [each.model.name for each in found.fitting] == ["twin"]
    assert (found.usable, found.known_as, found.kind) == (True, (), "protobuf")
    add(caffemodel, manifest, shelf.store, file="val_iter", model=manifest.find("twin"))
    assert identify(caffemodel, manifest, shelf.store)[0].known_as == ("twin/val_iter.caffemodel",)
    names = [each.name for each in identify(make_zip(tmp_path / "a.zip"), manifest, shelf.store)]
    assert names == [
        f"{tmp_path}/a.zip: released/{name}.caffemodel"
        for name in ("val_iter", "test_iter", "init")
    ]


FETCH = """
import sys
from deeplab_repro.released.acquire import fetch
from deeplab_repro.released.download import Patience
from deeplab_repro.released.manifest import read_manifest
from deeplab_repro.released.store import Store
model = read_manifest().find("twin")
(obtained,) = fetch(model, [model.default], Store(), patience=Patience(silence=5))
print("already" if obtained.already else "new")
"""


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_killed_again_and_again(shelf: Shelf, server: Server, caffemodel: Path) -> None:
    """Every run goes on where the one before was killed, and nothing is left over at the end."""
    content = caffemodel.read_bytes()
    page = Page(content, pause=0.15)
    shelf.put(twin=twin(server.url("/a", page)))
    folder = shelf.store.root / "twin" / "downloads"
    arrived = [0]
    while arrived[-1] < len(content) // 2:
        process = start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            sizes = [path.stat().st_size for path in folder.glob(".*.part")]
            if sizes and sizes[0] > arrived[-1]:
                arrived.append(sizes[0])
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    page.pause = 0.0
    process = start()
    assert process.communicate()[0] == "new\n"
    assert len(arrived) > 2
    ranges = [wanted for _, wanted in server.requests]
    assert ranges[0] == ""
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) for wanted in ranges[1:]]
    assert starts == sorted(starts)
    assert len(set(starts)) == len(starts) > 0
    assert same(resolve("twin") or Path(), caffemodel)
    assert shelf.left_over() == []


def killed_at(step: int, root: Path, work: Callable[[], object]) -> bool:
    """Do some work in a process that dies before its n-th step in a folder; whether it died.

    A step opens, renames or removes something.  `os._exit` cleans nothing up, as SIGKILL.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    steps = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(root) in str(arguments):
            steps += 1
            if steps == step:
                os._exit(9)

    sys.addaudithook(count)
    work()
    os._exit(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process")  # is multi-threaded, says fork()
@pytest.mark.parametrize(("kind", "stride"), [("caffemodel", 1), ("archive", 4)])
def test_killed_at_every_step(
    kind: str, stride: int, shelf: Shelf, server: Server, caffemodel: Path, tmp_path: Path
) -> None:
    """Wherever a process is killed, the next one ends with the right files and nothing else."""
    content, fields = caffemodel.read_bytes(), twin(server.url("/a"))
    if kind == "archive":
        content, fields = make_zip(tmp_path / "a.zip").read_bytes(), zipped(server.url("/a"))
    server.url("/a", Page(content))
    manifest = shelf.put(model=fields)
    expected: dict[str, bytes] = {}
    get(shelf, manifest)
    for path in shelf.store.root.rglob("*.*"):
        if path.is_file() and path.name != "sums.json":
            expected[path.name] = path.read_bytes()
    sums = {key: record.sha256 for key, record in shelf.store.records().items()}
    died, step = True, 0
    while died:
        step += stride
        shutil.rmtree(shelf.store.root)
        died = killed_at(step, shelf.store.root, lambda: get(shelf, manifest))
        server.requests.clear()
        get(shelf, manifest)
        assert len(server.requests) <= 1, step
        assert shelf.left_over() == [], step
        found = {
            path.name: path.read_bytes()
            for path in shelf.store.root.rglob("*.*")
            if path.is_file() and path.name != "sums.json"
        }
        assert found == expected, step
        assert {key: each.sha256 for key, each in shelf.store.records().items()} == sums, step
    assert step > 20


@pytest.mark.slow
def test_several_processes_fetch_the_same(shelf: Shelf, server: Server, caffemodel: Path) -> None:
    """One downloads, the others wait and find it."""
    shelf.put(twin=twin(server.url("/a", Page(caffemodel.read_bytes(), pause=0.1))))
    processes = [start() for _ in range(3)]
    said = sorted(process.communicate()[0].strip() for process in processes)
    assert said == ["already", "already", "new"]
    assert len(server.requests) == 1
    assert shelf.left_over() == []


def test_nothing_stays_of_a_fetch_that_brought_nothing(shelf: Shelf, server: Server) -> None:
    manifest = shelf.put(twin=twin(server.url("/gone")))
    with pytest.raises(InputError, match="404 Not Found"):
        get(shelf, manifest)
    assert not shelf.store.root.exists()


def test_the_first_record_of_a_file_stays(shelf: Shelf, server: Server, caffemodel: Path) -> None:
    """The same bytes from elsewhere change neither origin nor date."""
    manifest = shelf.put(twin=twin(server.url("/a", Page(caffemodel.read_bytes()))))
    get(shelf, manifest)
    first = shelf.store.record("twin/val_iter.caffemodel")
    assert first is not None
    assert first.origin == server.url("/a")
    (again,) = add(caffemodel, manifest, shelf.store, file="val_iter")
    assert again.record is not None
    assert again.record.origin == str(caffemodel)
    assert shelf.store.record("twin/val_iter.caffemodel") == first


def test_what_a_killed_process_left_is_swept_away(
    shelf: Shelf, server: Server, caffemodel: Path
) -> None:
    manifest = shelf.put(twin=twin(server.url("/a", Page(caffemodel.read_bytes()))))
    folder = shelf.store.root / "twin"
    folder.mkdir(parents=True)
    (folder / ".val_iter.safetensors.xyz").write_bytes(b"half")
    (folder / ".unpacked-1").write_bytes(b"half")
    get(shelf, manifest)
    assert shelf.left_over() == []


@pytest.mark.parametrize("when", ["downloading", "unpacking", "converting"])
def test_full_disk(
    when: str, shelf: Shelf, server: Server, caffemodel: Path, tmp_path: Path
) -> None:
    """What has come is kept, so that a second run goes on there."""
    most = 100_000
    content = caffemodel.read_bytes()
    fields = twin(server.url("/a"))
    if when == "converting":
        most = len(content) + 500  # the safetensors hold the network, too
    if when == "unpacking":
        zeros = {
            layer: [np.zeros_like(blob) for blob in blobs]
            for layer, blobs in twin_weights("aspp-l").items()
        }
        write_weights(tmp_path / "val_iter.caffemodel", zeros)
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "val_iter.caffemodel")
        content, fields = (tmp_path / "a.zip").read_bytes(), zipped(server.url("/a"))
        assert len(content) < most
    server.url("/a", Page(content))
    manifest = shelf.put(model=fields)
    with full_disk(most), pytest.raises((BadInput, OSError), match="File too large"):
        get(shelf, manifest)
    model = manifest.find("model")
    assert not shelf.store.converted(model, model.default).exists()
    get(shelf, manifest)
    assert len(server.requests) == (2 if when == "downloading" else 1)
    assert shelf.left_over() == []


def test_damaged_records(shelf: Shelf, server: Server, caffemodel: Path) -> None:
    manifest = shelf.put(twin=twin(server.url("/a", Page(caffemodel.read_bytes()))))
    shelf.store.root.mkdir()
    for content in ("{", "[]", '{"x": 1}', json.dumps({"x": {"sha": 1}})):
        (shelf.store.root / "sums.json").write_text(content)
        with pytest.raises(InputError, match=r"sums.json: is damaged"):
            get(shelf, manifest)
