"""Downloads from a server that breaks, lies, redirects, is slow and serves wrong files."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from deeplab_repro.errors import InputError
from deeplab_repro.released.download import Patience, Reporter, download
from tests.released.server import Page, Server
from tests.testing.disk import full_disk

CONTENT = os.urandom(400_000)
OTHER = os.urandom(400_000)
HURRIED = Patience(attempts=3, first_wait=0.01, connect=1.0, silence=0.25, worthwhile=1 << 16)


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.counts: list[tuple[int, int | None]] = []

    def progress(self, have: int, total: int | None) -> None:
        self.counts.append((have, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


class Shop:
    """A folder to download to, and what is expected to come."""

    def __init__(self, folder: Path) -> None:
        self.target = folder / "file.bin"
        self.notes = Notes()
        self.expected = CONTENT

    def check(self, path: Path, url: str) -> None:
        if path.read_bytes() != self.expected:
            raise InputError("is not the right file", file=path)

    def get(self, *urls: str, patience: Patience = HURRIED) -> str:
        return download(urls, self.target, self.check, patience=patience, reporter=self.notes)

    def fails(self, *urls: str) -> str:
        with pytest.raises(InputError, match=r"file.bin: cannot be downloaded .*; got ") as error:
            self.get(*urls)
        assert not self.target.exists()
        return str(error.value)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def asked(server: Server) -> list[str]:
    return [wanted for _, wanted in server.requests]


def test_as_it_should_be(server: Server, shop: Shop) -> None:
    url = server.url("/a", Page(CONTENT))
    assert shop.get(url) == url
    assert shop.target.read_bytes() == CONTENT
    assert shop.files() == ["file.bin"]
    assert shop.notes.notes == []
    assert shop.notes.counts[0] == (0, len(CONTENT))
    assert shop.notes.counts[-1] == (len(CONTENT), len(CONTENT))


BROKEN: dict[str, tuple[Page, list[str]]] = {
    # what the server does, and the ranges that it is asked for
    "breaks twice": (
        Page(CONTENT, breaks=[100_000, 50_000]),
        ["", "bytes=100000-", "bytes=150000-"],
    ),
    "breaks in chunks": (Page(CONTENT, chunked=True, breaks=[131_072]), ["", "bytes=131072-"]),
    "states a date only": (
        Page(CONTENT, etag="", modified="Mon, 01 Jun 2015 00:00:00 GMT", breaks=[100_000]),
        ["", "bytes=100000-"],
    ),
    "has a weak tag and a date": (
        Page(
            CONTENT,
            etag='W/"1"',
            modified="Mon, 01 Jun 2015 00:00:00 GMT",
            breaks=[100_000],
        ),
        ["", "bytes=100000-"],
    ),
    # Nothing tells whether it is still the same file: from the start.
    "states no state": (Page(CONTENT, etag="", breaks=[100_000]), ["", ""]),
    "has a weak tag only": (Page(CONTENT, etag='W/"1"', breaks=[100_000]), ["", ""]),
    "ignores Range": (Page(CONTENT, ranges=False, breaks=[100_000]), ["", "bytes=100000-"]),
    "is busy": (Page(CONTENT, statuses=[503, 429]), ["", "", ""]),
    "stalls": (Page(CONTENT, stalls=[131_072]), ["", "bytes=131072-"]),
    "is slow but alive": (Page(CONTENT, pause=0.05), [""]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_goes_on(name: str, server: Server, shop: Shop) -> None:
    page, ranges = BROKEN[name]
    shop.get(server.url("/a", page))
    assert shop.target.read_bytes() == CONTENT
    assert asked(server) == ranges
    assert len(shop.notes.notes) >= len(ranges) - 1
    assert shop.files() == ["file.bin"]


@pytest.mark.parametrize("if_range", [True, False])
def test_the_file_changes_between_two_parts(if_range: bool, server: Server, shop: Shop) -> None:
    """Whether or not the server knows If-Range, no file of two halves comes out."""
    shop.expected = OTHER
    page = Page(CONTENT, breaks=[100_000], then=OTHER, if_range=if_range)
    shop.get(server.url("/a", page))
    assert shop.target.read_bytes() == OTHER


def test_the_file_becomes_shorter_than_what_is_there(server: Server, shop: Shop) -> None:
    shop.expected = OTHER[:50_000]
    page = Page(CONTENT, breaks=[100_000], then=OTHER[:50_000], if_range=False)
    shop.get(server.url("/a", page))
    assert shop.target.read_bytes() == OTHER[:50_000]


WRONG: dict[str, tuple[Page, str]] = {
    "not there": (Page(statuses=[404]), "404 Not Found"),
    "forbidden": (Page(statuses=[403]), "403 Forbidden"),
    "never well": (Page(statuses=[500] * 9), "500 Internal Server Error"),
    "states more than it sends": (
        Page(CONTENT[:100_000], length=400_000),
        "without sending complete",
    ),
    "states less than it sends": (Page(CONTENT, length=100_000), "is not the right file"),
    "an empty file": (Page(b""), "is not the right file"),
    "another file": (Page(OTHER), "is not the right file"),
    "compressed": (Page(CONTENT, headers={"Content-Encoding": "gzip"}), "sends it compressed"),
    "a loop of redirects": (Page(location="/wrong"), "redirect"),
    "a redirect to a file": (Page(location="file:///etc/hostname"), "file://"),
    "no answer": (Page(CONTENT, silent=0.6), "no answer (ReadTimeout)"),
    "a range that was not asked for": (
        Page(CONTENT, breaks=[1000] * 9, headers={"Content-Range": "bytes 0-9/10"}, if_range=False),
        "another part than it was asked for",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_next_address_is_tried(name: str, server: Server, shop: Shop) -> None:
    page, message = WRONG[name]
    wrong, right = server.url("/wrong", page), server.url("/right", Page(CONTENT))
    assert shop.get(wrong, right) == right
    assert shop.target.read_bytes() == CONTENT
    assert any(message in note for note in shop.notes.notes)
    assert wrong in shop.notes.notes[-1]
    assert shop.files() == ["file.bin"]


def test_all_addresses_fail(server: Server, shop: Shop) -> None:
    gone, bad = server.url("/gone"), server.url("/bad", Page(OTHER))
    nobody = "http://127.0.0.1:9/"
    message = shop.fails(gone, bad, nobody, "http://[", "ftp://127.0.0.1/x", gone)
    assert "404 Not Found (2 addresses); is not the right file; " in message
    for line in (f"{gone}: 404 Not Found", f"{bad}: is not the right file"):
        assert line in shop.notes.notes
    assert shop.files() == []
    with pytest.raises(InputError, match="no address"):
        shop.get()


def test_a_name_that_does_not_resolve_is_asked_for_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    def resolve(host: object, *_: object, **__: object) -> list[object]:
        asked_for.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    message = shop.fails("http://one.invalid/a", "http://two.invalid/a")
    assert len(asked_for) == 2
    assert message.count("name cannot be resolved") == 1
    assert "(2 addresses)" in message


def test_attempts_end_without_progress(server: Server, shop: Shop) -> None:
    """A server that always breaks at the same place is given up, and what came is kept."""
    page = Page(CONTENT, breaks=[100_000] + [0] * 99)
    message = shop.fails(server.url("/a", page))
    assert "incomplete" in message or "without sending complete" in message
    assert len(server.requests) == 3
    (part,) = [name for name in shop.files() if name.endswith(".part")]
    assert (shop.target.parent / part).stat().st_size == 100_000
    page.breaks.clear()
    server.requests.clear()
    shop.get(server.url("/a"))
    assert asked(server) == ["bytes=100000-"]
    assert shop.target.read_bytes() == CONTENT


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used(
    proxy: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(InputError, match="the proxy of this machine cannot be used"):
        shop.get("http://127.0.0.1/")


def test_redirects_are_followed_and_keep_the_range(server: Server, shop: Shop) -> None:
    server.url("/real", Page(CONTENT, breaks=[100_000]))
    shop.get(server.url("/moved", Page(location="/real")))
    assert shop.target.read_bytes() == CONTENT
    assert server.requests[-1] == ("/real", "bytes=100000-")


def test_too_long(server: Server, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is stated or not; what came is not kept."""
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_DOWNLOAD_BYTES", "200000")
    for page in (Page(CONTENT), Page(CONTENT, chunked=True)):
        assert "too long" in shop.fails(server.url("/a", page))
        assert shop.files() == []


def test_complete_but_killed_before_the_check(server: Server, shop: Shop) -> None:
    class Killed(BaseException):
        pass

    def die(path: Path, url: str) -> None:
        raise Killed

    url = server.url("/a", Page(CONTENT))
    with pytest.raises(Killed):
        download([url], shop.target, die, patience=HURRIED)
    shop.get(url)
    assert asked(server) == [""]


@pytest.mark.parametrize("damage", ["{", '{"validator": 1}', "[]", "null", '"x"'])
def test_a_damaged_note(damage: str, server: Server, shop: Shop) -> None:
    """What has come is of no use without its note."""
    url = server.url("/a", Page(CONTENT, breaks=[100_000] + [0] * 9))
    shop.fails(url)
    (note,) = [name for name in shop.files() if name.endswith(".json")]
    (shop.target.parent / note).write_text(damage)
    server.url("/a", Page(CONTENT))
    server.requests.clear()
    shop.get(url)
    assert asked(server) == [""]


def test_full_disk(server: Server, shop: Shop) -> None:
    """The message names the file; what came is kept, so that another run goes on."""
    url = server.url("/a", Page(CONTENT))
    with full_disk(200_000), pytest.raises(InputError, match=r"\.part: File too large"):
        shop.get(url)
    shop.get(url)
    assert shop.target.read_bytes() == CONTENT
    assert asked(server)[1] == "bytes=200000-"


def test_an_address_that_does_not_answer_costs_its_timeouts_only(
    server: Server, shop: Shop
) -> None:
    started = time.perf_counter()
    patience = Patience(attempts=2, first_wait=0.01, silence=0.2)
    with pytest.raises(InputError, match="no answer"):
        shop.get(server.url("/a", Page(CONTENT, silent=1.0)), patience=patience)
    assert time.perf_counter() - started < 0.9
