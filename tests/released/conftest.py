"""Small models of the published shape, a list of them, and a server that gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeplab_repro.models import write_network
from deeplab_repro.released.manifest import MANIFEST_VARIABLE, Manifest, read_manifest
from deeplab_repro.released.store import STORE_VARIABLE, Store
from prototxt_import import Shape, Weights, infer_net, parse_net, write_weights
from tests.released.server import Server, serving

WIDTH = 16


@cache
def twin_shapes(network: str, num_labels: int) -> dict[str, list[Shape]]:
    net = parse_net(write_network(network, width=WIDTH, num_labels=num_labels))
    return {
        item.layer.name: item.shapes.params for item in infer_net(net).layers if item.shapes.params
    }


def twin_weights(network: str, seed: int = 0, num_labels: int = 21) -> Weights:
    """Random weights for a network of the published shape with a sixteenth of its channels."""
    random = np.random.default_rng(seed)
    return {
        layer: [(random.standard_normal(shape) / 10).astype(np.float32) for shape in shapes]
        for layer, shapes in twin_shapes(network, num_labels).items()
    }


def write_caffemodel(path: Path, network: str, seed: int = 0, num_labels: int = 21) -> Path:
    write_weights(path, twin_weights(network, seed, num_labels))
    return path


@pytest.fixture(scope="session")
def caffemodel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A caffemodel of a small LargeFOV."""
    return write_caffemodel(tmp_path_factory.mktemp("twins") / "a.caffemodel", "largefov")


@pytest.fixture(scope="session")
def other_caffemodel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, of the same length."""
    return write_caffemodel(tmp_path_factory.mktemp("twins") / "b.caffemodel", "largefov", 1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


def twin(*urls: str, **fields: Any) -> dict[str, Any]:
    """A model of the list: a small LargeFOV of two sets of weights, each a download of its own."""
    names = {"val_iter": ("val", "train_aug"), "test_iter": ("test", "trainval_aug")}
    return {
        "network": "largefov",
        "width": WIDTH,
        "published": {"miou": 62.25},
        "files": [
            {"name": name, "use": use, "trained_on": data, "download": f"{name}.caffemodel"}
            for name, (use, data) in names.items()
        ],
        "downloads": {
            f"{name}.caffemodel": {"sources": [{"url": url} for url in urls]} for name in names
        },
        **fields,
    }


def zipped(*urls: str, network: str = "aspp-l") -> dict[str, Any]:
    """A model of the list: a small network whose weights lie in one archive."""
    names = {"val_iter": "val", "test_iter": "test", "init": "init"}
    return {
        "network": network,
        "width": WIDTH,
        "files": [
            {"name": name, "use": use, "download": "all.zip", "member": f"{name}.caffemodel"}
            for name, use in names.items()
        ],
        "downloads": {"all.zip": {"sources": [{"url": url} for url in urls]}},
    }


class Shelf:
    """A list of models and a store of its own, which the environment names."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "manifest.json"
        self.store = Store(folder / "store")

    def put(self, **models: dict[str, Any]) -> Manifest:
        """Make the list."""
        content = {"format": 1, "licence": "a note", "models": models}
        self.path.write_text(json.dumps(content))
        return read_manifest(self.path)

    def left_over(self) -> list[str]:
        """Temporary files."""
        return sorted(
            path.name
            for path in self.store.root.rglob(".*")
            if path.is_file() and path.name != ".lock"
        )


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf(tmp_path)
    monkeypatch.setenv(MANIFEST_VARIABLE, str(shelf.path))
    monkeypatch.setenv(STORE_VARIABLE, str(shelf.store.root))
    return shelf
