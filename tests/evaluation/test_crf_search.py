"""The search of the CRF's parameters: what is tried, what is counted, and that it can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.crf.kernels import Kernel
from deeplab_repro.data import read_label, voc
from deeplab_repro.errors import InputError
from deeplab_repro.evaluation import Confusion, crf_counts
from deeplab_repro.evaluation.crf_search import (
    Grid,
    Setting,
    Task,
    choose,
    search_crf,
    with_scores,
)
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.processes import Processes
from tests.testing.voc_set import make_voc

ROOT = Path(__file__).parents[2]
GRID = Grid((2, 4), (10, 20), (5, 9))
ONE_STEP = Task(CRFParams(iterations=1))
RANGES = ("--bi-w", "2:2:4", "--bi-xy-std", "10,20", "--bi-rgb-std", "5:4:9", "--rounds", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """VOCdevkit, and scores for val as of a network that sees every eighth pixel."""
    root = tmp_path_factory.mktemp("search")
    make_voc(root, pictures=12, size=(40, 50))
    (root / "scores").mkdir()
    random = np.random.default_rng(0)
    for sample in voc(root):
        label = read_label(sample.label)
        coarse = np.stack([cv2.resize((label == c) * 6.0, (7, 5)) for c in range(21)], 2)
        coarse += random.normal(0, 1, coarse.shape)
        full = cv2.resize(coarse, label.shape[::-1])
        np.save(root / "scores" / f"{sample.name}.npy", full.transpose(2, 0, 1).astype(np.float32))
    return root


@pytest.mark.slow
def test_every_setting_is_counted_as_if_it_were_alone(folder, tmp_path, monkeypatch):
    pictures = with_scores(choose(voc(folder), 5), folder / "scores")
    built, read = [], []
    lattice, scores = Kernel.lattice, crf_counts.read_scores
    monkeypatch.setattr(
        Kernel, "lattice", lambda self, *rest: (built.append(self.stds), lattice(self, *rest))[1]
    )
    monkeypatch.setattr(
        crf_counts, "read_scores", lambda *rest: (read.append(rest), scores(*rest))[1]
    )
    task = Task(CRFParams(iterations=4), normalization="symmetric")
    found = search_crf(pictures, tmp_path, GRID, task, rounds=2, workers=2)
    first, second = found.rounds
    tried = [setting for setting in second.settings() if setting not in first.settings()]
    assert first == GRID
    assert list(found.found) == [*first.settings(), *tried]
    # Scores are read once a round; weights cost no lattice, and the spatial one is shared by all.
    assert len(read) == 2 * len(pictures)
    pairs = len({setting[1:] for setting in tried})
    assert len(built) == len(pictures) * ((1 + 4) + (1 + pairs))
    expected = {setting: Confusion() for setting in found.found}
    before = Confusion()
    for item in pictures:
        label, values = read_label(item.label), np.load(item.scores)
        rgb = read_picture(item.picture)[:, :, ::-1].transpose(2, 0, 1).copy()
        before.add(values.argmax(0), label)
        for setting, confusion in expected.items():
            params = CRFParams(4, 3, 3, *setting)
            q = dense_crf(
                torch.from_numpy(-values)[None],
                torch.from_numpy(rgb)[None],
                params,
                normalization="symmetric",
            )
            confusion.add(q[0].numpy().argmax(0), label)
    np.testing.assert_array_equal(found.before.matrix, before.matrix)
    for setting, confusion in expected.items():
        np.testing.assert_array_equal(found.found[setting].matrix, confusion.matrix)
    best = max(expected.values(), key=lambda confusion: confusion.mean_iou)
    assert found.found[found.best].mean_iou == best.mean_iou
    assert found.params == CRFParams(4, 3, 3, *found.best)
    after_one = max(first.settings(), key=lambda setting: expected[setting].mean_iou)
    assert second == GRID.finer(after_one)


def test_what_is_there_is_not_counted_again(folder, tmp_path, monkeypatch):
    pictures = with_scores(choose(voc(folder), 3), folder / "scores")
    save, saves = crf_counts.Record.save, []

    def stopped(record: crf_counts.Record) -> None:
        saves.append(record)
        if len(saves) > 5:
            raise KeyboardInterrupt
        save(record)

    monkeypatch.setattr(crf_counts.Record, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        search_crf(pictures, tmp_path, GRID, ONE_STEP, rounds=1, workers=1)
    monkeypatch.setattr(crf_counts.Record, "save", lambda r: (saves.append(r), save(r))[1])
    saves.clear()
    found = search_crf(pictures, tmp_path, GRID, ONE_STEP, rounds=1)
    assert len(saves) == 3 * 4 - 5  # pictures, pairs of stds, and what was there
    alone = search_crf(pictures, tmp_path / "alone", GRID, ONE_STEP, rounds=1)
    assert [found.found[s].matrix.tolist() for s in found.ranking] == [
        alone.found[s].matrix.tolist() for s in alone.ranking
    ]
    loads = []
    read = crf_counts.read_picture
    monkeypatch.setattr(
        crf_counts, "read_picture", lambda file: (loads.append(Path(file).stem), read(file))[1]
    )
    again = search_crf(pictures, tmp_path, GRID, ONE_STEP, rounds=1)
    assert loads == []
    assert again.ranking == found.ranking
    # A part of a record, a damaged one, other scores and other options: counted, and no more.
    wider = Grid((2, 4), (10, 20, 30), (5, 9))
    assert len(search_crf(pictures, tmp_path, wider, ONE_STEP, rounds=1).found) == 12
    assert sorted(loads) == [item.name for item in pictures]
    (tmp_path / "counts" / f"{pictures[0].name}.npz").write_bytes(b"PK")
    loads.clear()
    same = search_crf(pictures, tmp_path, GRID, ONE_STEP, rounds=1)
    assert loads == [pictures[0].name]
    assert [same.found[s].matrix.tolist() for s in same.ranking] == [
        found.found[s].matrix.tolist() for s in found.ranking
    ]
    os.utime(pictures[1].scores, ns=(1, 1))
    loads.clear()
    search_crf(pictures, tmp_path, GRID, ONE_STEP, rounds=1)
    assert loads == [pictures[1].name]
    loads.clear()
    search_crf(pictures, tmp_path, GRID, Task(CRFParams(iterations=2)), rounds=1)
    assert len(loads) == 3


def test_grids():
    grid = Grid((4,), (70, 30, 50), (3, 4, 6))
    assert grid.bi_xy_std == (30, 50, 70)
    finer = grid.finer(Setting(4, 70, 4))
    assert finer == Grid((4,), (60, 70, 80), (3.5, 4, 5))  # beyond the end; halfway to neighbours
    assert finer.finer(Setting(4, 80, 3.5)) == Grid((4,), (75, 80, 85), (3.25, 3.5, 3.75))
    assert Grid((1,), (2, 9), (1,)).finer(Setting(1, 2, 1)).bi_xy_std == (2, 5.5)  # 2 - 3.5 < 0
    with pytest.raises(InputError, match="bi_w; expected positive numbers, got"):
        Grid((), (3,), (3,))


def test_choice_of_pictures(folder):
    samples = voc(folder)
    chosen = choose(samples, 4, seed=3)
    assert len(chosen) == 4
    assert chosen == [sample for sample in samples if sample in chosen]
    assert chosen == choose(samples, 4, seed=3) != choose(samples, 4, seed=4)
    assert choose(samples, 99) == list(samples)


def test_an_error_in_one_share_is_that_of_all(folder, tmp_path):
    """As seen by the second of two processes, whose share is in order."""
    pictures = with_scores(choose(voc(folder), 2), folder / "scores")
    bad = tmp_path / "bad.npy"
    np.save(bad, np.zeros((20, 3, 3), np.float32))
    broken = [pictures[0]._replace(scores=bad), pictures[1]]
    with pytest.raises(InputError, match=r"bad.npy: holds scores of another number of classes"):
        search_crf(broken, tmp_path / "o", Grid((4,), (9,), (5,)))

    class Second(Processes):
        def gather(self, value):
            return [["first.npy: damaged"], value] if isinstance(value, list) else [value]

    with pytest.raises(InputError, match=r"^first.npy: damaged$"):
        search_crf(pictures, tmp_path / "o", Grid((4,), (9,), (5,)), team=Second(1, 2))


def command(folder: Path, out: Path) -> tuple[object, ...]:
    given = ("crf-search", "--voc", folder, "--scores", folder / "scores", "--subset", "6")
    return (*given, "-o", out, *RANGES, "--json", f"{out}.json")


@pytest.mark.slow
def test_killed_at_any_point_and_shared_it_ends_in_the_same_table(folder, tmp_path, warm):
    def printed(name, processes=1):
        team = warm.team(processes, *command(folder, tmp_path / name), stdout=subprocess.PIPE)
        said = b"".join([process.communicate()[0] for process in team]).decode()
        assert [process.returncode for process in team] == [0] * processes
        return said.replace(str(tmp_path / name), "OUT")

    whole = printed("whole")
    records = tmp_path / "killed" / "counts"
    running = warm.start(*command(folder, tmp_path / "killed"), stdout=subprocess.DEVNULL)
    while running.poll() is None and len(list(records.glob("*.npz"))) < 2:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert whole == printed("killed") == printed("shared", processes=2)
    assert "without CRF" in whole
    reports = [
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("whole", "killed", "shared")
    ]
    assert reports[0] == reports[1] == reports[2]
    assert len(reports[0]["settings"]) > 8
    assert not list(records.glob(".*"))
