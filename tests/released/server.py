"""A local HTTP server that behaves as badly as it is told to."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What an address gives, and how.

    content      the file
    etag         "auto" follows the content; "" for none
    modified     Last-Modified, "" for none
    ranges       whether Range is understood
    if_range     whether If-Range is
    statuses     instead of the file, for the first requests
    breaks       bytes after which the connection breaks, for the first requests
    length       Content-Length in place of the true one
    chunked      no Content-Length at all
    kind         Content-Type
    location     redirects there
    silent       seconds before the first byte of the answer
    stalls       bytes after which nothing more comes for 0.6 s, for the first requests
    pause        seconds before every 64 KB
    then         takes the content's place after the first request
    headers      further ones
    """

    content: bytes = b""
    etag: str = "auto"
    modified: str = ""
    ranges: bool = True
    if_range: bool = True
    statuses: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    length: int | None = None
    chunked: bool = False
    kind: str = "application/octet-stream"
    location: str = ""
    silent: float = 0.0
    stalls: list[int] = field(default_factory=list)
    pause: float = 0.0
    then: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return f'"{sha256(self.content).hexdigest()[:16]}"' if self.etag == "auto" else self.etag


@dataclass
class Server:
    """Pages by path, and the requests that came: (path, Range or "")."""

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def url(self, path: str, page: Page | None = None) -> str:
        """The address of a page, which is put there first."""
        if page is not None:
            self.pages[path] = page
        return self.address + path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server_of.requests.append((self.path, asked))
        page = self.server_of.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        if page.statuses:
            self.send_error(page.statuses.pop(0))
            return
        if page.location:
            self.send_response(302)
            self.send_header("Location", page.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if page.silent:
            time.sleep(page.silent)
        content, tag = page.content, page.tag
        if page.then is not None:
            page.content, page.then = page.then, None
        start = self._start(page, asked, tag)
        if start > len(content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if page.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            length = len(body) if page.length is None else page.length
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", page.kind)
        for name, value in {"ETag": tag, "Last-Modified": page.modified, **page.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self._send(page, body)

    def _start(self, page: Page, asked: str, tag: str) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        if not page.ranges or found is None:
            return 0
        state = self.headers.get("If-Range")
        if page.if_range and state is not None and state not in (tag, page.modified):
            return 0
        return int(found[1])

    def _send(self, page: Page, body: bytes) -> None:
        most = page.breaks.pop(0) if page.breaks else len(body)
        stall = page.stalls.pop(0) if page.stalls else None
        for i in range(0, min(most, len(body)), 1 << 16):
            piece = body[i : min(i + (1 << 16), most)]
            if stall is not None and i + len(piece) > stall:
                time.sleep(0.6)
            time.sleep(page.pause)
            try:
                if page.chunked:
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                else:
                    self.wfile.write(piece)
            except OSError:  # the other side has had enough
                self.close_connection = True
                return
        if page.chunked and most >= len(body):
            self.wfile.write(b"0\r\n\r\n")
        if most < len(body) or (page.length or 0) > len(body):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing: connections are meant to break."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine."""
    httpd = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    server = Server(f"http://127.0.0.1:{httpd.server_port}")
    httpd.RequestHandlerClass.server_of = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
