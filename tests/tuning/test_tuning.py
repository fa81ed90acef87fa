"""`crf-tune`: what its page is told over HTTP, whom it refuses, and what it copies."""

from __future__ import annotations

import base64
import http.client
import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

import cv2
import h5py
import numpy as np
import pytest
import torch

import deeplab_repro.crf.pydensecrf.densecrf as dcrf
from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.crf.kernels import Kernel
from deeplab_repro.pictures.overlay import draw_borders, draw_labels
from deeplab_repro.pictures.palette import Classes
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.voc import VOC_CLASSES
from deeplab_repro.tuning import Field, Stale, Subject, Tuner, listen
from deeplab_repro.tuning.texts import command_line, params_code, pydensecrf_code
from tests.cli.conftest import run  # noqa: F401
from tests.cli.test_segment_command import CAFFE, PICTURE, labels_in
from tests.crf.recorded import Case
from tests.testing.html_tags import Tags

LARGEFOV = CRFParams.named("deeplab_largefov")
NAMES = ("iterations", "pos_w", "pos_xy_std", "bi_w", "bi_xy_std", "bi_rgb_std")


@contextmanager
def served(tuner: Tuner):
    server = listen(tuner)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        tuner.close()


def subject_of(picture: np.ndarray, unary: np.ndarray, **options) -> Subject:
    return Subject(picture, unary, Classes.default(len(unary)), "a b.jpg", "s.npy", **options)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The bundled picture, 97 x 97, with 21 labels: too large for a preview without reducing."""
    with h5py.File(CAFFE) as file:
        scores = file["blobs/fc8_interp"][0]
    picture = np.tile(read_picture(PICTURE), (2, 3, 1))[:180]
    return subject_of(picture, np.tile(-scores, (1, 2, 3))[:, :180].copy())


@pytest.fixture(scope="module")
def port(subject):
    with served(Tuner(subject, "deeplab_largefov", torch.device("cpu"))) as port:
        yield port


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=names)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def result_path(params: CRFParams, stage: str = "preview", **changes: object) -> str:
    values = {name: getattr(params, name) for name in NAMES}
    rest = {"stage": stage, "page": "p", "turn": 1, "label": 0, **changes}
    return "/result?" + urlencode({k: v for k, v in {**values, **rest}.items() if v is not None})


def pixels(address: str) -> np.ndarray:
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def middles(count: int, of: int) -> np.ndarray:
    """The pixels in the middle of each of ``count`` parts of a side."""
    return (2 * np.arange(count) + 1) * of // (2 * count)


def refined(subject: Subject, params: CRFParams) -> np.ndarray:
    rgb = torch.from_numpy(subject.picture[:, :, ::-1].transpose(2, 0, 1).copy())
    return dense_crf(torch.from_numpy(subject.unary)[None], rgb[None], params)[0].numpy()


# ---------------------------------------------------------------- the computation


def test_field_is_dense_crf_and_keeps_its_lattices(monkeypatch):
    case = Case("dl_a_64x48_c21")
    unary, image = torch.from_numpy(case.energies).float(), case.image[0]
    field = Field(unary, image)
    built, counts = [], []
    lattice = Kernel.lattice
    monkeypatch.setattr(Kernel, "lattice", lambda k, *rest: built.append(k) or lattice(k, *rest))
    for params in (
        LARGEFOV,
        replace(LARGEFOV, bi_w=7),
        replace(LARGEFOV, iterations=3),
        replace(LARGEFOV, bi_rgb_std=9),
        replace(LARGEFOV, pos_w=0),
        replace(LARGEFOV, bi_w=0),
        replace(LARGEFOV, pos_w=0, bi_w=0),
        replace(LARGEFOV, iterations=0),
    ):
        before = len(built)
        q = field.marginals(params)
        counts.append(len(built) - before)
        assert torch.equal(q, dense_crf(unary[None], image[None], params)[0])
    assert counts == [2, 0, 0, 1, 0, 0, 0, 0]


def test_field_stops_between_steps_and_computes_in_parts(monkeypatch):
    case = Case("dl_a_64x48_c21")
    unary, image = torch.from_numpy(case.energies).float(), case.image[0]
    monkeypatch.setattr("deeplab_repro.tuning.field._VALUES_AT_ONCE", 3 * unary.numel())
    field = Field(unary, image)
    asked = []
    assert torch.equal(
        field.marginals(LARGEFOV, lambda: not asked.append(0)),
        dense_crf(unary[None], image[None], LARGEFOV)[0],
    )
    assert len(asked) == 2 + 3  # before each lattice, and after 3, 6 and 9 of 10 steps
    other = replace(LARGEFOV, bi_w=1)
    answers = iter([True, True, True, False])
    with pytest.raises(Stale):
        field.marginals(other, lambda: next(answers))
    assert torch.equal(field.marginals(other), dense_crf(unary[None], image[None], other)[0])


def test_reduced_field_takes_pixels_and_scales_stds():
    unary = torch.arange(2 * 30 * 40, dtype=torch.float32).reshape(2, 30, 40)
    image = torch.zeros(3, 30, 40, dtype=torch.uint8)
    field = Field(unary, image)
    assert field.reduced(30 * 40) is field
    small = field.reduced(300)
    assert small.size == (15, 20)
    assert torch.equal(small.unary, unary[:, 1::2, 1::2])
    params = small.params(CRFParams(pos_xy_std=3, bi_xy_std=50, bi_rgb_std=5))
    assert (params.pos_xy_std, params.bi_xy_std, params.bi_rgb_std) == ((1.5, 1.5), (25, 25), 5)
    assert field.reduced(1).size == (1, 1)
    unary[:, 7, 7] = torch.inf
    with pytest.raises(ValueError, match=r"\+inf for every label"):
        Field(unary, image)


@pytest.mark.slow
def test_preview_looks_like_the_whole_picture():
    """Its labels are mostly those that the whole picture has there."""
    case = Case("dl_g_500x375_c21")
    field = Field(torch.from_numpy(case.energies).float(), case.image[0])
    small = field.reduced(800_000 // 21)
    full, preview = (f.marginals(LARGEFOV).argmax(0) for f in (field, small))
    y, x = (middles(n, m) for n, m in zip(small.size, field.size, strict=True))
    assert (full[y][:, x] == preview).float().mean() > 0.97


# ---------------------------------------------------------------- over HTTP


@pytest.mark.parametrize("stage", ["preview", "full"])
def test_result(port, subject, stage):
    params, label = replace(LARGEFOV, bi_rgb_std=7.5, iterations=4), 12
    status, headers, body = get(port, result_path(params, stage, label=label, turn=2))
    assert (status, headers["Content-Type"]) == (200, "application/json")
    answer = json.loads(body)
    width, height = answer["size"]
    if stage == "full":
        assert (height, width) == subject.picture.shape[:2]
        shown, own = subject, params
    else:
        assert 0.9 < height * width * 21 / 500_000 <= 1.01
        y, x = (
            middles(n, m) for n, m in zip((height, width), subject.picture.shape[:2], strict=True)
        )
        shown = subject_of(
            np.ascontiguousarray(subject.picture[y][:, x]),
            np.ascontiguousarray(subject.unary[:, y][:, :, x]),
        )
        stretch = width / subject.picture.shape[1], height / subject.picture.shape[0]
        own = replace(
            params,
            pos_xy_std=tuple(params.pos_xy_std * s for s in stretch),
            bi_xy_std=tuple(params.bi_xy_std * s for s in stretch),
        )
    q = refined(shown, own)
    labels, before = q.argmax(0), shown.unary.argmin(0)
    classes = shown.classes
    assert np.array_equal(pixels(answer["labels"]), draw_labels(shown.picture, labels, classes))
    lines = draw_borders(shown.picture, before, (0, 140, 255))
    assert np.array_equal(pixels(answer["borders"]), draw_borders(lines, labels, (255,) * 3))
    levels = np.round(q[label] * 255).astype(np.uint8)
    assert np.array_equal(
        pixels(answer["marginals"]), cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)
    )
    assert answer["changed"] == (labels != before).mean() > 0
    shares = {entry["id"]: entry["share"] for entry in answer["classes"]}
    assert shares == {i: (labels == i).mean() for i in np.unique(labels)}
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert answer["texts"]["params"] == params_code(params)
    assert answer["ms"] > 0


def test_page_has_all_and_needs_nothing_else(port):
    status, headers, body = get(port, "/")
    text = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    tags = Tags()
    tags.feed(text)
    assert (tags.open, tags.wrong, tags.addresses) == ([], [], ["tune.js"])
    assert "url(" not in text
    assert "@import" not in text
    assert "a b.jpg" in text
    setup = json.loads(text.split('id="setup">')[1].split("</script>")[0])
    presets = {preset["name"]: CRFParams(**preset["values"]) for preset in setup["presets"]}
    assert presets == {name: CRFParams.named(name) for name in CRFParams.names()}
    assert list(presets) == list(CRFParams.names())
    assert [one["name"] for one in setup["classes"]] == list(VOC_CLASSES)
    assert setup["classes"][1]["colour"] == "#800000"
    assert (setup["start"], setup["preview"]) == ("deeplab_largefov", True)
    status, headers, script = get(port, "/tune.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    for forbidden in (b"http:", b"https:", b"innerHTML", b"eval("):
        assert forbidden not in script
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert get(port, "/favicon.ico")[0] == 204


def test_names_out_of_files_are_text(subject):
    evil = "</script><script>alert(1)</script>"
    classes = Classes((evil, *VOC_CLASSES[1:]), subject.classes.colours)
    changed = replace(subject, classes=classes, image_file=evil, scores_file=evil)
    with served(Tuner(changed, "context", torch.device("cpu"))) as port:
        text = get(port, "/")[2].decode()
    assert "<script>alert" not in text
    assert json.loads(text.split('id="setup">')[1].split("</script>")[0])["classes"][0]["name"] == (
        evil
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bi_w": "x"}, "bi_w; expected a number, got x"),
        ({"bi_w": "nan"}, "w must be finite, got nan"),
        ({"bi_w": None}, "bi_w is missing"),
        ({"pos_xy_std": 0}, "pos_xy_std must be positive, got 0.0"),
        ({"bi_rgb_std": 1e-9}, "the bilateral kernel (xy_std"),
        ({"iterations": 2.5}, "iterations; expected a whole number, got 2.5"),
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
        ({"iterations": 10**9}, "iterations; expected at most 1000, got 1000000000"),
        ({"label": 21}, "label; expected from 0 to 20, got 21"),
        ({"label": -1}, "label; expected from 0 to 20, got -1"),
        ({"stage": "both"}, "stage; expected preview or full, got both"),
        ({"turn": "now"}, "turn; expected a whole number, got now"),
        ({"file": "/etc/passwd"}, "unknown parameter 'file'"),
    ],
)
def test_bad_parameters_are_one_line(port, changes, message):
    path = result_path(LARGEFOV, **{"page": "bad", **changes})
    status, _, body = get(port, path)
    (line,) = json.loads(body).values()
    assert (status, "\n" in line) == (400, False)
    assert message in line


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../server.py",
        "/%2e%2e/server.py",
        "/page/tune.js",
        "/tune.html",
        "/a%20b.jpg",
        "/s.npy",
        "//etc/passwd",
        "/tune.js/..",
    ],
)
def test_no_other_file_is_served(port, path):
    status, _, body = get(port, path)
    assert status == 404
    assert "there is nothing at" in json.loads(body)["error"]


def test_foreign_pages_are_refused(port):
    own = f"127.0.0.1:{port}"
    for path in ("/", "/tune.js", result_path(LARGEFOV, page="foreign")):
        for refused in (
            {"Host": f"evil.example:{port}"},
            {"Host": f"127.0.0.1.evil.example:{port}"},
            {"Host": ""},
            {"Host": f"localhost:{port}@evil.example"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": f"https://{own}"},
            {"Origin": f"http://127.0.0.1:{port + 1}"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            status, _, body = get(port, path, **refused)
            assert status == 403, refused
            assert "expected" in json.loads(body)["error"]
    assert get(port, "/", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    assert get(port, "/", Host="127.0.0.1:9000", Sec_Fetch_Site="same-origin")[0] == 200
    assert get(port, "/", method="POST")[0] == 405


def test_only_the_newest_request_of_a_page_counts(subject, monkeypatch):
    """Those that wait are not computed, and one under way is given up."""
    started, go_on = threading.Event(), threading.Event()
    computed = []
    marginals = Field.marginals

    def slow(self, params, wanted):
        computed.append(params.iterations)
        if params.iterations == 1:
            started.set()
            assert go_on.wait(60)
        return marginals(self, params, wanted)

    monkeypatch.setattr(Field, "marginals", slow)
    tuner = Tuner(subject, "context", torch.device("cpu"))
    with served(tuner) as port, ThreadPoolExecutor(4) as pool:

        def ask(turn: int, page: str = "p") -> int:
            path = result_path(replace(LARGEFOV, iterations=turn), page=page, turn=turn)
            return get(port, path)[0]

        first = pool.submit(ask, 1)
        assert started.wait(60)
        waiting = []
        for turn in (2, 3):
            waiting.append(pool.submit(ask, turn))
            while tuner._newest["p"] != turn:
                time.sleep(0.01)
        other = pool.submit(ask, 4, "another page")
        go_on.set()
        assert [one.result() for one in (first, *waiting, other)] == [409, 409, 200, 200]
        assert computed == [1, 3, 4]
        assert ask(2) == 409  # overtaken on its way


def test_server_is_on_this_machine_alone(subject):
    server = listen(Tuner(subject, "context", torch.device("cpu")))
    try:
        assert server.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ValueError, match=rf"--port {server.port}: Address already in use"):
            listen(Tuner(subject, "context", torch.device("cpu")), server.port)
    finally:
        server.server_close()


# ---------------------------------------------------------------- what is copied

OTHERS = [
    LARGEFOV,
    CRFParams(3, 0.1 + 0.2, 2.5, 7.25, 33.3, 1e-1 + 4),
    replace(LARGEFOV, pos_w=0),
    replace(LARGEFOV, bi_w=0),
]


@pytest.mark.parametrize("params", OTHERS)
def test_copied_python_is_right(params, subject, monkeypatch):
    namespace: dict = {}
    exec(params_code(params), namespace)
    assert namespace["params"] == params
    monkeypatch.setitem(sys.modules, "pydensecrf", sys.modules[dcrf.__name__.rpartition(".")[0]])
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", dcrf)
    scores, picture = -subject.unary[:, :, :120], subject.picture[:, :120]
    labels = refined(subject_of(picture, -scores), params).argmax(0)
    exec(pydensecrf_code(params), namespace)
    rgb = picture[:, :, ::-1]
    assert (namespace["refine"](scores, rgb) != labels).mean() < 1e-3
    padded = np.pad(scores, ((0, 0), (0, 5), (0, 9)))
    exec(pydensecrf_code(params, crop=True), namespace)
    assert (namespace["refine"](padded, rgb) != labels).mean() < 1e-3
    probabilities = torch.from_numpy(scores).softmax(0).numpy()
    exec(pydensecrf_code(params, probabilities=True), namespace)
    assert (namespace["refine"](probabilities, rgb) != labels).mean() < 1e-3


@pytest.mark.parametrize("params", OTHERS)
def test_copied_command_is_right(run, params, tmp_path, subject, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a b.png", subject.picture[:, :120])
    scores = -subject.unary[:, :, :120]
    np.savez("$s.npz", one=np.pad(scores, ((0, 0), (0, 5), (0, 9))), two=scores)
    line = command_line(params, "a b.png", "$s.npz", ["--key", "one", "--crop"])
    program, *arguments = shlex.split(line)
    assert program == "deeplab-repro"
    assert run(*arguments)[0] == 0
    labels = refined(subject_of(subject.picture[:, :120], -scores), params).argmax(0)
    assert np.array_equal(labels_in(tmp_path / "refined" / "labels" / "a b.png"), labels)


# ---------------------------------------------------------------- the command


def test_command_serves_until_it_is_stopped(run, monkeypatch, capfd):  # noqa: F811
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def serve(server):
        """One request."""
        thread = threading.Thread(target=lambda: opened.append(get(server.port, "/")[2].decode()))
        thread.start()
        server.handle_request()
        thread.join()
        server.server_close()

    monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", serve)
    files = ("--image", PICTURE, "--scores", CAFFE, "--key", "fc8_interp")
    code, out, err = run("crf-tune", *files, "--params", "deeplab_largefov")
    assert (code, err) == (0, "")
    address, page = opened
    assert f"the page: {address} (Ctrl-C ends)" in out
    assert address.startswith("http://127.0.0.1:")
    assert "97 x 97 pixels, 21 labels" in page
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
        code, _, err = run("crf-tune", *files, "--no-browser", "--port", free)
        assert (code, err) == (2, f"deeplab-repro: --port {free}: Address already in use\n")
    opened.clear()
    code, out, _ = run("crf-tune", *files, "--no-browser", "--port", free)
    assert (code, len(opened)) == (0, 1)
    assert f"http://127.0.0.1:{free}/" in out


@pytest.mark.slow
def test_ctrl_c_ends_it_in_the_middle_of_a_result(tmp_path):
    """What is being computed is given up and answered, and nothing crashes."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "p.png"), rng.integers(0, 255, (500, 500, 3), np.uint8))
    np.save(tmp_path / "s.npy", rng.normal(size=(21, 500, 500)).astype(np.float32))
    files = ["--image", tmp_path / "p.png", "--scores", tmp_path / "s.npy", "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deeplab_repro", "crf-tune", *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().split()[2])
        with ThreadPoolExecutor(1) as pool:
            path = result_path(replace(LARGEFOV, iterations=1000), "full")
            asked = pool.submit(get, address.port, path)
            time.sleep(1)
            assert not asked.done()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (0, "", "")
            assert asked.result()[0] == 409
    finally:
        process.kill()


def test_bad_files_are_one_line(run, tmp_path):  # noqa: F811
    np.save(tmp_path / "s.npy", np.zeros((21, 5, 5), np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 97, 97), np.nan, np.float32))
    for scores, message in (
        ("s.npy", "scores and picture differ in size"),
        ("nan.npy", "NaN"),
        ("none.npy", "none.npy"),
    ):
        files = ("--image", PICTURE, "--scores", tmp_path / scores, "--no-browser")
        code, _, err = run("crf-tune", *files)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    files = ("--image", PICTURE, "--scores", CAFFE, "--key", "fc8_interp", "--no-browser")
    code, _, err = run("crf-tune", *files, "--params", "deeplab_largefow")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean deeplab_largefov" in err
