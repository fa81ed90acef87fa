"""Bringing released weights into the store: downloaded, or from a file that is already here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.released.archive import Archive, is_archive, open_archive
from deeplab_repro.released.checkpoints import (
    checkpoint_members,
    index_of,
    is_checkpoint,
    of_same_kind,
)
from deeplab_repro.released.convert import checked_weights, read_any_weights, write_converted
from deeplab_repro.released.download import Patience, Reporter, download, part_of
from deeplab_repro.released.manifest import Manifest
from deeplab_repro.released.models import ReleasedModel, TensorFlowModel, WeightsFile
from deeplab_repro.released.store import Record, Store
from deeplab_repro.released.structure import compare_structure, nearest_structures
from prototxt_import import Weights
from prototxt_import.files import FileKind, kind_of

__all__ = ["Obtained", "add", "fetch"]

#: Under which name the sum of a file is recorded, by the kind of file.
_ENDINGS: Final[dict[FileKind, str]] = {
    "protobuf": ".caffemodel",
    "hdf5": ".caffemodel.h5",
    "safetensors": ".safetensors",
}
_Candidate = tuple[ReleasedModel, WeightsFile]
#: Sets of weights in an archive, with the files of each, as `_Taker.members` has them.
_Held = list[tuple[WeightsFile, dict[str, str]]]


@dataclass(frozen=True)
class Obtained:
    """A set of weights that is in the store now.

    Attributes:
        model, file: What it is.
        path: The safetensors in the store.
        record: Of the file that it was converted from; None if it was in the store already and
            nothing is known.
        first_use: There was no sum to compare with, neither published nor of an earlier time.
        already: It was in the store before.
    """

    model: ReleasedModel
    file: WeightsFile
    path: Path
    record: Record | None
    first_use: bool = False
    already: bool = False


@dataclass(frozen=True)
class _Checked:
    """Weights that are what the manifest says, not yet in the store.

    Attributes:
        records: Of the files that they came in, by MODEL/NAME; last the one that holds them.
        first_use: As of `Obtained`.
    """

    file: WeightsFile
    weights: Weights
    records: dict[str, Record]
    first_use: bool


def fetch(
    model: ReleasedModel,
    files: Sequence[WeightsFile],
    store: Store,
    *,
    sources: Sequence[str] = (),
    accept_changed: bool = False,
    patience: Patience | None = None,
    reporter: Reporter | None = None,
) -> list[Obtained]:
    """Download weights, unless they are in the store.

    Args:
        model: The model.
        files: Sets of weights of it.
        store: Where to keep them.
        sources: Addresses to try before those of the manifest.
        accept_changed: Take a file whose sum is not the recorded one.
        patience: How long to try.
        reporter: Is told how it goes.

    Raises:
        InputError: No address gave the right file.
        CaffeImportError, OSError: The store cannot be written to; what has come stays in it.
    """
    taker = _Taker(model, store, accept_changed, reporter or Reporter())
    with taker.alone():
        return [taker.fetch(file, sources, patience) for file in files]


def add(
    path: Path,
    manifest: Manifest,
    store: Store,
    *,
    model: ReleasedModel | None = None,
    file: str | None = None,
    accept_changed: bool = False,
    reporter: Reporter | None = None,
) -> list[Obtained]:
    """Take weights into the store that somebody has already: as good as a download.

    Args:
        path: A caffemodel, .caffemodel.h5, safetensors, a checkpoint by its prefix or one of its
            files, a frozen graph, or an archive as it was published, of which everything that the
            manifest knows is taken.
        manifest: The models that it may be.
        store: Where to keep them.
        model: Which model it is, where layers and names do not tell.
        file: Which of the model's weights it is, where the file's name does not tell.
        accept_changed: Take a file whose sum is not the recorded one.
        reporter: Is told how it goes.

    Raises:
        BadInput: It is none of the models, or it may be several; or it cannot be read.
    """
    models = [model] if model is not None else list(manifest.models.values())
    takers = [_Taker(each, store, accept_changed, reporter or Reporter()) for each in models]
    if file is not None:
        file = _known_name(file, model, models)
    if not is_checkpoint(path) and is_archive(path):
        with open_archive(path) as archive:
            taker, held = _choose_in_archive(archive, takers, file)
            with taker.alone():
                return [taker.unpack(archive, members, each, str(path)) for each, members in held]
    chosen = _choose(path, models, file, store)
    taker = next(each for each in takers if each.model is chosen[0])
    with taker.alone():
        return [taker.take(path, chosen[1], str(path))]


class _Taker:
    """Brings weights of one model into the store; the only one at it while inside `alone`."""

    def __init__(
        self, model: ReleasedModel, store: Store, accept_changed: bool, reporter: Reporter
    ) -> None:
        self.model = model
        self._store = store
        self._accept_changed = accept_changed
        self._reporter = reporter
        self._folder = store.root / model.name

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out, and sweep away what one that was killed has left."""

        def waiting() -> None:
            self._reporter.note(f"another process is bringing in {self.model.name}: waiting for it")

        self._store.records()  # refuses damaged ones before anything is done
        with self._store.locked(self.model, waiting):
            for path in list(self._folder.rglob(".*")):
                whole = part_of(path.name)
                goes_on = whole is not None and not path.with_name(whole).exists()
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != ".lock" and not goes_on:
                    path.unlink(missing_ok=True)
            yield

    def fetch(
        self, file: WeightsFile, sources: Sequence[str], patience: Patience | None
    ) -> Obtained:
        """Download a set of weights, unless it or the archive that holds it is in the store."""
        path = self._store.converted(self.model, file)
        if path.is_file():
            records = map(self._store.record, map(self._key, self._names(file)))
            record = next((each for each in records if each is not None), None)
            return Obtained(self.model, file, path, record, already=True)
        wanted = file.download
        published = self._store.published(self.model, wanted)
        if published.is_file():
            record = self._store.record(self._key(wanted.name))
            origin = record.origin if record else str(published)
            return self._keep(self._check_published(published, file, origin))
        published.parent.mkdir(parents=True, exist_ok=True)
        checked: list[_Checked] = []

        def check(arrived: Path, url: str) -> None:
            self._reporter.note(f"checking {wanted.name}")
            checked[:] = [self._check_published(arrived, file, url)]

        addresses = [*sources, *(source.url for source in wanted.sources)]
        download(addresses, published, check, patience=patience, reporter=self._reporter)
        return self._keep(checked[0])

    def take(self, path: Path, file: WeightsFile, origin: str) -> Obtained:
        """Check a file with weights, record its sum, and convert it."""
        return self._keep(self._check(path, file, origin))

    def unpack(
        self, archive: Archive, members: Mapping[str, str], file: WeightsFile, origin: str
    ) -> Obtained:
        """Take a set of weights out of an archive."""
        with self.unpacked(archive, members) as path:
            checked = self._check(path, file, origin)
        return self._keep(checked)

    def _check_published(self, path: Path, file: WeightsFile, origin: str) -> _Checked:
        """Look at a file as it was published: is it the right one, and what are its weights?"""
        wanted = file.download
        length = path.stat().st_size
        if wanted.bytes not in (None, length):
            raise InputError(
                "has another length than published", file=path, expected=wanted.bytes, got=length
            )
        if file.member is None:
            return self._check(path, file, origin, wanted.sha256)
        if not is_archive(path):
            read_any_weights(path)  # says what else it is
            raise InputError("is no archive", file=path, expected=f"one that holds {file.member}")
        record = Record.of(path, origin)
        first_use = self._compare(path, wanted.name, record, wanted.sha256)
        with open_archive(path) as archive:
            members = self.members(archive, file)
            if not members:
                raise InputError("lacks a file", file=path, expected=file.member)
            with self.unpacked(archive, members) as unpacked:
                checked = self._check(unpacked, file, origin)
        records = {self._key(wanted.name): record, **checked.records}
        return replace(checked, records=records, first_use=first_use and checked.first_use)

    def _check(
        self, path: Path, file: WeightsFile, origin: str, published: str | None = None
    ) -> _Checked:
        """Look at a file with weights.

        Raises:
            BadInput: It is damaged, is not what the manifest says, or has another sum than known.
        """
        weights = checked_weights(path, self.model, file)
        name = file.name + _ending(path)
        record = Record.of(index_of(path), origin)
        first_use = self._compare(path, name, record, published)
        return _Checked(file, weights, {self._key(name): record}, first_use)

    def _keep(self, checked: _Checked) -> Obtained:
        """Record the sums, and write the safetensors."""
        for key, record in checked.records.items():
            self._store.remember(key, record)
        target = self._store.converted(self.model, checked.file)
        write_converted(target, checked.weights, self.model, checked.file)
        *_, record = checked.records.values()
        return Obtained(self.model, checked.file, target, record, checked.first_use)

    def members(self, archive: Archive, file: WeightsFile) -> dict[str, str]:
        """The files in an archive that a set of weights consists of; none if it is not there.

        Returns:
            Name in the archive -> ending under which it is unpacked, the one that stands for all of
            them first.
        """
        if isinstance(self.model, TensorFlowModel):
            return checkpoint_members(archive, file.member or file.name)
        name = archive.find(file.member or f"{file.name}.caffemodel")
        return {} if name is None else {name: ""}

    @contextmanager
    def unpacked(self, archive: Archive, members: Mapping[str, str]) -> Iterator[Path]:
        """Files of an archive beside each other in a temporary place in the store; the first."""
        with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=self._folder) as folder:
            for name, ending in members.items():
                try:
                    with Path(folder, f"weights{ending}").open("wb") as out:
                        archive.copy(name, out)
                except OSError as error:  # such as a full disk; as it comes it names no file
                    raise OSError(error.errno, error.strerror, str(self._folder)) from error
            first, *_ = members
            try:
                yield Path(folder, f"weights{members[first]}")
            except BadInput as error:
                error.file = f"{archive.path}: {first}"
                raise

    def _compare(self, path: Path, name: str, record: Record, published: str | None) -> bool:
        """Hold a file against what is known of it; whether nothing is known.

        Raises:
            InputError: Its sum is another one.
        """
        key = self._key(name)
        if published and record.sha256 != published:
            raise InputError(
                f"has another SHA-256 than {key} as published",
                file=path,
                expected=published,
                got=record.sha256,
            )
        known = self._store.record(key)
        if known and known.sha256 != record.sha256 and not self._accept_changed:
            raise InputError(
                f"has another SHA-256 than {key} at its first use",
                file=path,
                expected=f"{known.sha256} (of {known.date}, from {known.origin};"
                " --accept-changed takes the new one)",
                got=record.sha256,
            )
        return not published and known is None

    def _key(self, name: str) -> str:
        return f"{self.model.name}/{name}"

    def _names(self, file: WeightsFile) -> list[str]:
        """Under which names the sum of the file with a set of weights may be recorded."""
        return [file.name + ending for ending in (*_ENDINGS.values(), ".index", ".pb")]


def _ending(path: Path) -> str:
    """Under which ending the sum of a file with weights is recorded.

    A checkpoint's index has a checksum of every variable in it, so that its sum stands for all.
    """
    if is_checkpoint(path) and path.suffix != ".safetensors":
        return ".pb" if path.suffix == ".pb" else ".index"
    return _ENDINGS[kind_of(path)]


def _known_name(file: str, model: ReleasedModel | None, models: Sequence[ReleasedModel]) -> str:
    """The name of a set of weights of one of the models, without the ending .caffemodel.

    Raises:
        InputError: None of them has weights of this name.
    """
    if model is not None:
        return model.weights(file).name
    names = list(dict.fromkeys(each.name for model in models for each in model.files))
    name = file.removesuffix(".caffemodel")
    if name not in names:
        raise InputError(
            f"no released model has weights named {file!r}", expected=f"one of {', '.join(names)}"
        )
    return name


def _choose(
    path: Path, models: Sequence[ReleasedModel], file: str | None, store: Store
) -> _Candidate:
    """Which weights of which model a file holds.

    Its layers and shapes decide, then a sum that is known, then its name.
    """
    models = of_same_kind(path, models)
    known = [(model, each) for model in models for each in model.files if file in (None, each.name)]
    if file is not None and len(known) == 1:
        return known[0]  # said by the user: a difference is then told in full
    weights = read_any_weights(path)
    fitting = _fitting(known, weights)
    if not fitting:
        _refuse(path, [model for model, _ in known], weights, file)
    sum_ = Record.of(index_of(path), "").sha256
    records = {key for key, record in store.records().items() if record.sha256 == sum_}
    name = path.name.removesuffix(".h5")
    for ending in (".caffemodel", ".safetensors", ".index"):
        name = name.removesuffix(ending)
    hints: tuple[Callable[[_Candidate], bool], ...] = (
        lambda each: any(key.startswith(f"{each[0].name}/{each[1].name}.") for key in records),
        lambda each: each[1].name == name,
    )
    for hint in hints:
        if hinted := list(filter(hint, fitting)):
            return _only(path, hinted)
    return _only(path, [each for each in fitting if each[1].use != "init"] or fitting, sure=False)


def _only(path: Path, fitting: list[_Candidate], *, sure: bool = True) -> _Candidate:
    """The one candidate that is left.

    Args:
        path: For the message.
        fitting: The candidates.
        sure: Something else than layers and shapes speaks for them.  Any weights with the right
            backbone fit as weights to start from.
    """
    if len(fitting) == 1 and (sure or fitting[0][1].use != "init"):
        return fitting[0]
    raise InputError(
        "does not tell which weights it holds",
        file=path,
        expected="--model NAME and --file FILE that say which",
        got=", ".join(f"{model.name}/{each.name}" for model, each in fitting),
    )


def _choose_in_archive(
    archive: Archive, takers: Sequence[_Taker], file: str | None
) -> tuple[_Taker, _Held]:
    """Whose weights an archive holds, and the files in it of each."""
    found: list[tuple[_Taker, _Held]] = []
    for taker in takers:
        files = [each for each in taker.model.files if file in (None, each.name)]
        held = [(each, taker.members(archive, each)) for each in files]
        if held := [(each, members) for each, members in held if members]:
            found.append((taker, held))
    if len(found) > 1:  # checkpoints have one name all of them, but their archives have not
        name = archive.path.name
        named = [each for each in found if any(file.download.name == name for file, _ in each[1])]
        found = _holding(archive, named or found)
    if len(found) == 1:
        return found[0]
    raise InputError(
        "holds the weights of no released model" if not found else "may be several models",
        file=archive.path,
        expected="--model NAME that says which" if found else None,
        got=", ".join([taker.model.name for taker, _ in found] or archive.names) or "no files",
    )


def _holding(
    archive: Archive, candidates: Sequence[tuple[_Taker, _Held]]
) -> list[tuple[_Taker, _Held]]:
    """Those whose weights an archive holds: the first ones that are to be scored decide."""
    read: dict[tuple[str, ...], Weights] = {}
    found = []
    for taker, held in candidates:
        file, members = min(held, key=lambda each: each[0].use == "init")
        if tuple(members) not in read:
            with taker.alone(), taker.unpacked(archive, members) as path:
                read[tuple(members)] = read_any_weights(path)
        if compare_structure(taker.model, read[tuple(members)]).fits_for(file.use):
            found.append((taker, held))
    return found


def _fitting(candidates: Sequence[_Candidate], weights: Weights) -> list[_Candidate]:
    structures = {model.name: compare_structure(model, weights) for model, _ in candidates}
    return [
        (model, file) for model, file in candidates if structures[model.name].fits_for(file.use)
    ]


def _refuse(
    path: Path, models: Sequence[ReleasedModel], weights: Weights, file: str | None
) -> NoReturn:
    """Say how the file differs from the model that is most like it.

    Args:
        path: The file.
        models: Those that it may have been, at least one.
        weights: What it holds.
        file: The name of the weights that these models were chosen by, if any.
    """
    what = "the weights of no released model" if file is None else f"no weights named {file}"
    nearest = next(iter(nearest_structures(models, weights)), None)
    if nearest is None or not nearest.shared:
        raise InputError(f"holds {what}, and not one layer of any", file=path)
    raise InputError(
        f"holds {what}; {nearest.model.name} is most like it, but {nearest.difference()}",
        file=path,
    )
