"""Where released weights are kept on this machine, and what their files were when they came.

    ROOT/sums.json                                    length and SHA-256 of every file that came
    ROOT/MODEL/downloads/train_iter_20000.caffemodel  as published, or the archive that holds it
    ROOT/MODEL/train_iter_20000.safetensors           converted, with the network inside

ROOT is what DEEPLAB_REPRO_WEIGHTS names, or else `deeplab-repro/weights` in the user's cache
(XDG_CACHE_HOME, ~/.cache).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

import filelock

from deeplab_repro.errors import InputError
from deeplab_repro.native.build import user_cache
from prototxt_import.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeplab_repro.released.models import Download, ReleasedModel, WeightsFile

__all__ = ["STORE_VARIABLE", "Record", "Store", "file_sum"]

STORE_VARIABLE: Final = "DEEPLAB_REPRO_WEIGHTS"
_CHUNK: Final = 1 << 22


@dataclass(frozen=True)
class Record:
    """What a file was when it came.

    Attributes:
        sha256: Its sum in hexadecimal.
        bytes: Its length.
        origin: The address, or the path that it was added from.
        date: UTC, ISO 8601.
    """

    sha256: str
    bytes: int
    origin: str
    date: str

    @classmethod
    def of(cls, path: Path, origin: str) -> Record:
        """The record of a file that has just come."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(file_sum(path), path.stat().st_size, origin, now)


class Store:
    """The store of one user.

    Attributes:
        root: its folder, which need not exist yet.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        chosen = root or os.environ.get(STORE_VARIABLE)
        self.root = Path(chosen) if chosen else user_cache() / "weights"

    def converted(self, model: ReleasedModel, file: WeightsFile) -> Path:
        """Where the safetensors of a set of weights lie, or would."""
        return self.root / model.name / f"{file.name}.safetensors"

    def published(self, model: ReleasedModel, download: Download) -> Path:
        """Where a file lies as it was published, or would."""
        return self.root / model.name / "downloads" / download.name

    def need(self, model: ReleasedModel, file: WeightsFile) -> Path:
        """The safetensors of a set of weights.

        Raises:
            InputError: They are not here; the message names the command that fetches them.
        """
        path = self.converted(model, file)
        if not path.is_file():
            which = "" if file == model.default else f"/{file.name}"
            raise InputError(
                f"the weights {model.name}/{file.name} are not in the store {self.root}",
                expected=f"`deeplab-repro weights fetch {model.name}{which}` before, or"
                " `deeplab-repro weights add FILE` for a file that is already here",
            )
        return path

    @contextmanager
    def locked(self, model: ReleasedModel, waiting: Callable[[], None]) -> Iterator[None]:
        """Only one process at a time is in here for a model; a process that is killed leaves.

        Where nothing has come, no empty folder stays behind.

        Args:
            model: The model.
            waiting: Called once if another process is in here.

        Raises:
            OSError: The folder cannot be made or written to.
        """
        folder = self.root / model.name
        with self._lock(folder / ".lock", waiting):
            try:
                yield
            finally:
                _remove_if_empty(folder)

    def record(self, key: str) -> Record | None:
        """What is known of a file that came before.

        Args:
            key: MODEL/NAME.

        Raises:
            InputError: sums.json is damaged.
        """
        return self._records().get(key)

    def records(self) -> dict[str, Record]:
        """Everything that is known, by MODEL/NAME."""
        return self._records()

    def remember(self, key: str, record: Record) -> None:
        """Record what a file was, in place of another one that was recorded before.

        Of the same bytes the first record stays, with where they came from at their first use.
        """
        with self._lock(self.root / ".lock", lambda: None):
            for path in self.root.glob(f".{self._sums.name}.*"):  # of a process that was killed
                path.unlink(missing_ok=True)
            records = self._records()
            known = records.get(key)
            if known is not None and known.sha256 == record.sha256:
                return
            records[key] = record
            content = {name: asdict(each) for name, each in sorted(records.items())}
            with replacing(self._sums) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @property
    def _sums(self) -> Path:
        return self.root / "sums.json"

    def _records(self) -> dict[str, Record]:
        try:
            content = json.loads(self._sums.read_text(encoding="utf-8"))
            return {key: Record(**fields) for key, fields in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            raise InputError(
                "is damaged", file=self._sums, expected="what this program writes; delete it"
            ) from None

    @contextmanager
    def _lock(self, path: Path, waiting: Callable[[], None]) -> Iterator[None]:
        lock = filelock.FileLock(path)
        timeout = 0
        while not lock.is_locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=timeout)
            except filelock.Timeout:
                waiting()
                timeout = -1  # as long as it takes
            except FileNotFoundError:  # another process has just removed the empty folder
                continue
        try:
            yield
        finally:
            lock.release()


def _remove_if_empty(folder: Path) -> None:
    """Remove a model's folder and the store around it where they hold nothing but the lock.

    The caller holds the lock.  A process that waits for it sees that the file is gone, and makes
    another one.
    """
    with suppress(OSError):  # not empty
        (folder / "downloads").rmdir()
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()
            folder.parent.rmdir()


def file_sum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
