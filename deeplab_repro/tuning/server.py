"""The page and its requests, for this machine's own browser and nobody else."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from deeplab_repro.crf import CRFParams
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pages import render_page
from deeplab_repro.tuning.field import Field, Stale
from deeplab_repro.tuning.subject import Subject, View
from deeplab_repro.tuning.texts import command_line, params_code, pydensecrf_code

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Tuner", "listen"]

#: Labels times pixels of a preview: 24,000 pixels with VOC's labels.
_PREVIEW_VALUES: Final = 500_000
_MAX_ITERATIONS: Final = 1000
#: Open pages whose newest request is remembered.
_MAX_PAGES: Final = 64
_NUMBERS: Final = ("pos_w", "pos_xy_std", "bi_w", "bi_xy_std", "bi_rgb_std")
_WHOLE: Final = ("iterations", "label", "turn")
_WORDS: Final = ("stage", "page")
_OWN_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?")
#: The page has nothing but what it brings along, and no other page can hold or read it.
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline';"
    " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Tuner:
    """A WSGI application that shows what parameters do to one picture.

    It answers ``/`` with the page, ``/tune.js`` with its script, and ``/result`` with pictures and
    texts as JSON.  What cannot be answered is ``{"error": ...}``: with status 400 for a bad
    parameter, 403 for a request that another site's page has sent, and 409 for one that the same
    page has followed by a newer.
    """

    def __init__(self, subject: Subject, start: str, device: torch.device) -> None:
        """Prepare the picture at both sizes.

        Args:
            subject: picture and scores.
            start: name of the parameters that the page begins with.
            device: where the CRF is computed.

        Raises:
            ValueError: energies that have no softmax, or no parameters of this name.
            MemoryError: more than this machine has.
        """
        CRFParams.named(start)
        self._subject, self._start = subject, start
        rgb = np.ascontiguousarray(subject.picture[:, :, ::-1].transpose(2, 0, 1))
        full = Field(torch.from_numpy(subject.unary).to(device), torch.from_numpy(rgb).to(device))
        preview = full.reduced(max(1, _PREVIEW_VALUES // len(subject.unary)))
        self._fields = {"preview": preview, "full": full}
        self._views = {stage: self._view(field) for stage, field in self._fields.items()}
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self._open = True
        # One thread computes: fields are for one at a time, and OpenMP keeps a team of threads for
        # each thread that has ever called it.
        self._worker = ThreadPoolExecutor(1, "crf")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        response = self._answer(Request(environ))
        response.headers.extend(_HEADERS)
        return response(environ, start_response)

    def close(self) -> None:
        """Give up what is being computed, and refuse what comes later."""
        with self._lock:
            self._open = False
            self._newest.clear()
        self._worker.shutdown()
        # The threads of requests hold this object, perhaps as the last ones when the program ends,
        # and a thread that frees a tensor then brings the whole program down.
        self._fields.clear()

    def _answer(self, request: Request) -> Response:
        refusal = _refusal(request)
        if refusal:
            return _error(refusal, 403)
        answers: dict[str, Callable[[Request], Response]] = {
            "/": lambda _: Response(self._page(), mimetype="text/html"),
            "/tune.js": lambda _: Response(_script(), mimetype="text/javascript"),
            "/favicon.ico": lambda _: Response(status=204),
            "/result": self._result,
        }
        if request.path not in answers:
            return _error(f"there is nothing at {request.path}", 404)
        if request.method not in ("GET", "HEAD"):
            return _error(f"expected GET, got {request.method}", 405)
        return _said(lambda: answers[request.path](request))

    def _page(self) -> str:
        setup = {
            "start": self._start,
            "presets": [
                {"name": name, "values": _as_numbers(CRFParams.named(name))}
                for name in CRFParams.names()
            ],
            "classes": [
                {"name": name, "colour": f"#{bytes(colour.tolist()).hex()}"}
                for name, colour in zip(
                    self._subject.classes.names, self._subject.classes.colours, strict=True
                )
            ],
            "preview": self._fields["preview"] is not self._fields["full"],
        }
        height, width = self._subject.picture.shape[:2]
        return render_page(
            "deeplab_repro.tuning",
            "tune.html",
            {},
            image=self._subject.image_file,
            scores=self._subject.scores_file,
            size=f"{width} x {height} pixels, {len(self._subject.unary)} labels",
            setup=setup,
        )

    def _result(self, request: Request) -> Response:
        given = _parameters(request)
        params = CRFParams(given["iterations"], *(given[name] for name in _NUMBERS))
        labels = len(self._subject.unary)
        if not 0 <= given["label"] < labels:
            raise InputError("label", expected=f"from 0 to {labels - 1}", got=given["label"])
        if params.iterations > _MAX_ITERATIONS:
            raise InputError(
                "iterations", expected=f"at most {_MAX_ITERATIONS}", got=params.iterations
            )
        page, turn = given["page"], given["turn"]
        self._remember(page, turn)

        def wanted() -> bool:
            return self._newest.get(page) == turn

        def compute() -> Response:
            if not wanted():
                raise Stale
            begin = time.perf_counter()
            marginals = self._fields[given["stage"]].marginals(params, wanted).cpu().numpy()
            result = self._views[given["stage"]].result(marginals, given["label"])
            ms = (time.perf_counter() - begin) * 1000
            texts = self._texts(params)
            return _json({"stage": given["stage"], "ms": ms, "texts": texts, **result})

        # Errors are answered where they come up: with them go tensors, which a thread of the server
        # must not still hold when the program ends.
        return self._worker.submit(_said, compute).result()

    def _remember(self, page: str, turn: int) -> None:
        """Which request of a page is its newest; requests may overtake each other."""
        with self._lock:
            if not self._open:
                raise Stale
            self._newest[page] = max(turn, self._newest.pop(page, turn))
            if len(self._newest) > _MAX_PAGES:
                self._newest.popitem(last=False)

    def _texts(self, params: CRFParams) -> dict[str, str]:
        subject = self._subject
        crop = "--crop" in subject.options
        return {
            "params": params_code(params),
            "command": command_line(
                params, subject.image_file, subject.scores_file, subject.options
            ),
            "pydensecrf": pydensecrf_code(params, probabilities=subject.probabilities, crop=crop),
        }

    def _view(self, field: Field) -> View:
        picture = np.ascontiguousarray(field.image.cpu().numpy().transpose(1, 2, 0)[:, :, ::-1])
        return View(picture, field.unary.cpu().numpy(), self._subject.classes)


def listen(tuner: Tuner, port: int = 0) -> BaseWSGIServer:
    """A server on 127.0.0.1, bound and not yet running.

    Args:
        tuner: what answers.
        port: 0 for a free one; the server's ``port`` says which it is.

    Raises:
        InputError: the port cannot be used.
    """
    try:
        bound = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise InputError(f"--port {port}: {os.strerror(error.errno or 0)}") from None
    with bound:  # the server has a copy
        return make_server(
            "127.0.0.1", port, tuner, threaded=True, request_handler=_Quiet, fd=bound.fileno()
        )


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: there are many requests while one drags."""


def _said(answer: Callable[[], Response]) -> Response:
    """An answer, or in its place what is wrong with the request."""
    try:
        return answer()
    except Stale:
        return _error("a newer request has come", 409)
    except MemoryError as error:
        return _error(str(error) or "there is not enough memory", 507)
    except (BadInput, ValueError, TypeError) as error:
        return _error(str(error), 400)


def _refusal(request: Request) -> str:
    """Why a request is not the own page's; empty where it may be.

    A name that another site has pointed here (DNS rebinding) is in the Host header, the page that
    sends a request in Origin and Sec-Fetch-Site.  Any port will do: a tunnel may have another.
    """
    host = request.headers.get("Host", "")
    if not _OWN_HOST.fullmatch(host):
        return f"Host: expected 127.0.0.1 or localhost, got {host!r}"
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{host}":
        return f"Origin: expected http://{host}, got {origin!r}"
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("same-origin", "none"):
        return f"Sec-Fetch-Site: expected same-origin, got {site!r}"
    return ""


def _parameters(request: Request) -> dict[str, Any]:
    """The query's values, all of which must be there."""
    known = (*_WORDS, *_WHOLE, *_NUMBERS)
    for name in request.args:
        if name not in known:
            raise InputError(f"unknown parameter {name!r}", expected=", ".join(known))
    given: dict[str, Any] = {}
    for name in known:
        text = request.args.get(name)
        if text is None:
            raise InputError(f"{name} is missing")
        kind = str if name in _WORDS else int if name in _WHOLE else float
        try:
            given[name] = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise InputError(name, expected=what, got=text) from None
    if given["stage"] not in ("preview", "full"):
        raise InputError("stage", expected="preview or full", got=given["stage"])
    return given


def _as_numbers(params: CRFParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in ("iterations", *_NUMBERS)}


def _script() -> bytes:
    return (files("deeplab_repro.tuning") / "page" / "tune.js").read_bytes()


def _error(message: str, status: int) -> Response:
    return _json({"error": message}, status)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content), status, mimetype="application/json")
