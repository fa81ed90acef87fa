"""Downloading one file from the first of several addresses that gives it, whatever happens.

What has arrived stays in `.NAME.ADDRESS.part` in the target's folder, with a `.json` beside it that
says which state of the file it is a part of.  A broken connection, or a second call after the
process was killed, goes on from there if the server still has the same file.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplab_repro.errors import BadInput, InputError
from prototxt_import.files import replacing
from prototxt_import.limits import Limit
from prototxt_import.words import megabytes

if TYPE_CHECKING:
    import httpx

__all__ = ["Patience", "Reporter", "download", "part_of"]

#: The largest released archive has about a gigabyte and a half.
MAX_DOWNLOAD_BYTES: Final = Limit("MAX_DOWNLOAD_BYTES", 8 << 30)
_MAX_REDIRECTS: Final = 10
#: What a server says when it may work a little later.
_LATER: Final = (408, 425, 429)


@dataclass(frozen=True)
class Patience:
    """How long to wait, and for how often.

    Attributes:
        attempts: At one address in a row without `worthwhile` more bytes.
        first_wait: Seconds before the second attempt; doubles each time.
        longest_wait: Seconds.
        connect: Seconds for a connection to be made.
        silence: Seconds without a single byte after which a connection is given up.
        worthwhile: Bytes after which the attempts are counted anew.
    """

    attempts: int = 4
    first_wait: float = 1.0
    longest_wait: float = 30.0
    connect: float = 15.0
    silence: float = 30.0
    worthwhile: int = 1 << 20


class Reporter:
    """What is told of a download; by default nobody listens."""

    def progress(self, have: int, total: int | None) -> None:
        """So many bytes are there, of so many if the server said how many."""

    def note(self, text: str) -> None:
        """Something that a person would like to know, in one line."""


def download(
    urls: Sequence[str],
    target: Path,
    check: Callable[[Path, str], None],
    *,
    patience: Patience | None = None,
    reporter: Reporter | None = None,
) -> str:
    """Download a file that is the right one.

    Args:
        urls: Addresses, in the order in which to try them.
        target: What is written, in one step when it is complete and right.  Two processes must not
            have the same one at the same time.
        check: Is given the path of what has come and the address. It raises a `BadInput` if this is
            not the right file; then the next address is tried.
        patience: How long to try.
        reporter: Is told how it goes.

    Returns:
        The address that gave the file.

    Raises:
        InputError: No address gave it, with what was wrong, each reason once (the reporter has been
            told of each address); or it cannot be written.
    """
    patience, reporter = patience or Patience(), reporter or Reporter()
    failures: list[str] = []
    with _client(patience) as client:
        for url in urls:
            part = _Part(target, url)
            try:
                _fetch(client, part, patience, reporter)
            except _Failure as failure:
                failures.append(str(failure))
            else:
                try:
                    check(part.path, url)
                except BadInput as error:
                    part.discard()
                    error.file = None  # it was a temporary one
                    failures.append(str(error))
                else:
                    part.become(target)
                    return url
            reporter.note(f"{url}: {failures[-1]}")
    raise InputError(
        "cannot be downloaded (a file that you have is as good: `deeplab-repro weights add FILE`)",
        file=target.name,
        got="; ".join(
            reason if count == 1 else f"{reason} ({count} addresses)"
            for reason, count in Counter(failures).items()
        )
        or "no address",
    )


def part_of(name: str) -> str | None:
    """Of which download a file is what has arrived, or the note beside it; None for others."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{12}\.(part|json)", name)
    return found[1] if found else None


def _client(patience: Patience) -> httpx.Client:
    import httpx

    try:
        return httpx.Client(
            verify=_certificates(),
            follow_redirects=True,
            max_redirects=_MAX_REDIRECTS,
            timeout=httpx.Timeout(patience.silence, connect=patience.connect),
            # The bytes as they lie on the server: ranges count these.
            headers={"Accept-Encoding": "identity", "User-Agent": "deeplab-repro"},
        )
    except (ImportError, ValueError) as error:  # what the environment says of a proxy
        raise InputError(f"the proxy of this machine cannot be used ({error})") from None


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust; to read them takes a tenth of a second."""
    import httpx

    return httpx.create_ssl_context()


class _Failure(Exception):
    """An address does not give the file."""


class _Interruption(_Failure):
    """An address does not give the file now; it may if asked again after `wait` seconds."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class _Part:
    """What has arrived of a file from one address, and which state of the file that was.

    Attributes:
        path: of the bytes.
        url: the address.
        validator: an ETag or a date by which the server knows the state, "" if it gave none; then
            what has arrived cannot be gone on with.
        total: length of the whole, None if the server did not say.
    """

    def __init__(self, target: Path, url: str) -> None:
        key = hashlib.sha256(url.encode()).hexdigest()[:12]
        self.path = target.with_name(f".{target.name}.{key}.part")
        self._note = self.path.with_suffix(".json")
        self.url = url
        self.validator = ""
        self.total: int | None = None
        try:
            content = json.loads(self._note.read_text(encoding="utf-8"))
            self.validator, self.total = str(content["validator"]), content["total"]
        except (OSError, ValueError, TypeError, KeyError):
            self.discard()

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def start(self, validator: str, total: int | None) -> None:
        """Begin anew with this state of the file."""
        # In this order a kill in between leaves no bytes of one state with the note of another.
        self.path.unlink(missing_ok=True)
        self.validator, self.total = validator, total
        with replacing(self._note) as temporary:
            temporary.write_text(
                json.dumps({"validator": validator, "total": total, "url": self.url})
            )

    def discard(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.validator, self.total = "", None

    def become(self, target: Path) -> None:
        """Take the target's place, and remove what came from other addresses."""
        self.path.replace(target)
        for path in target.parent.iterdir():
            if part_of(path.name) == target.name:
                path.unlink(missing_ok=True)


def _fetch(client: httpx.Client, part: _Part, patience: Patience, reporter: Reporter) -> None:
    """Get the whole file from one address, going on as often as it is worth while."""
    failed, most = 0, part.size
    while True:
        try:
            _receive(client, part, reporter)
            return
        except _Interruption as error:
            # More than there ever was: a server that makes us start over brings nothing new.
            failed = 1 if part.size >= most + patience.worthwhile else failed + 1
            most = max(most, part.size)
            if failed >= patience.attempts:
                raise
            wait = max(patience.first_wait * 2 ** (failed - 1), error.wait)
            wait = min(wait, patience.longest_wait)
            reporter.note(
                f"{part.url}: {error}; trying again in {wait:g} s, {megabytes(part.size)} are there"
            )
            time.sleep(wait)


def _receive(client: httpx.Client, part: _Part, reporter: Reporter) -> None:
    """Ask once for what is missing, and write what comes."""
    offset = part.size
    if offset and part.total == offset:
        return  # complete; the process was killed before it could be checked
    if not part.validator:
        offset = 0
    headers = {"Range": f"bytes={offset}-", "If-Range": part.validator} if offset else {}
    with _interruptions(), client.stream("GET", part.url, headers=headers) as response:
        _check_status(response, part)
        validator = _validator(response)
        if response.status_code == 206 and offset:
            _check_part(response, part, offset, validator)
        else:
            if offset:
                reporter.note(f"{part.url}: the server gives the file as a whole: starting over")
            part.start(validator, _whole_number(response.headers.get("Content-Length")))
        _check_length(part, part.total or 0)
        _write(response.iter_raw(), part, reporter)
    if part.total is not None and part.size != part.total:
        raise _Interruption(f"ended after {part.size:,} of {part.total:,} bytes")


def _write(chunks: Iterator[bytes], part: _Part, reporter: Reporter) -> None:
    size = part.size
    reporter.progress(size, part.total)
    try:
        with part.path.open("ab") as out:
            for chunk in chunks:
                out.write(chunk)
                size += len(chunk)
                _check_length(part, size)
                reporter.progress(size, part.total)
    except OSError as error:
        raise InputError(error.strerror or "cannot be written", file=part.path) from error


def _check_length(part: _Part, size: int) -> None:
    try:
        MAX_DOWNLOAD_BYTES.check(size, "the file is too long, in bytes")
    except BadInput as error:
        part.discard()
        raise _Failure(str(error)) from None


def _check_status(response: httpx.Response, part: _Part) -> None:
    status = response.status_code
    said = f"{status} {response.reason_phrase}".strip()
    if status == 416:  # Range Not Satisfiable: the file has become shorter
        part.discard()
        raise _Interruption(said)
    if status in _LATER or status >= 500:
        raise _Interruption(said, _whole_number(response.headers.get("Retry-After")) or 0)
    if status not in (200, 206):
        raise _Failure(said)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _Failure("the server sends it compressed, though it was asked not to")


def _check_part(response: httpx.Response, part: _Part, offset: int, validator: str) -> None:
    """The server must go on where it was asked to, in the same state of the file."""
    found = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    total = None if found is None or found[2] == "*" else int(found[2])
    if found is None or int(found[1]) != offset or (part.total or total) != total:
        part.discard()
        raise _Interruption("the server sends another part than it was asked for")
    if validator and validator != part.validator:
        part.discard()
        raise _Interruption("the file has changed while it was downloaded")


def _validator(response: httpx.Response) -> str:
    """What If-Range takes: a strong ETag, or else the date of the last change."""
    tag: str = response.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    return str(response.headers.get("Last-Modified", ""))


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None


@contextmanager
def _interruptions() -> Iterator[None]:
    """httpx's errors as ours."""
    import httpx

    try:
        yield
    except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise _Failure(_words(error)) from None
    except httpx.TimeoutException as error:
        raise _Interruption(f"no answer ({type(error).__name__})") from None
    except httpx.HTTPError as error:
        if _is_unknown_host(error):  # asking again soon is of no use
            raise _Failure(f"the server's name cannot be resolved ({_words(error)})") from None
        raise _Interruption(_words(error)) from None


def _is_unknown_host(error: BaseException) -> bool:
    """Whether an error came of a name without an address; httpx hides it behind its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _words(error: Any) -> str:
    return str(error) or type(error).__name__
