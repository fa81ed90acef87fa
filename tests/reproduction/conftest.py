"""A made-up data set in VOC's layout, and a made-up released model whose weights are in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from deeplab_repro.models import write_network
from prototxt_import import infer_net, read_model, write_weights
from tests.testing.voc_set import make_voc

#: Divides the published channel counts: a picture takes a tenth of a second.
WIDTH = 32


class World(NamedTuple):
    """Where things are.

    voc        the folder VOC2012
    variables  of the environment: manifest and store
    """

    voc: Path
    variables: dict[str, str]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """30 pictures in val, and the model "toy" with the weights "train_iter_10"."""
    root = tmp_path_factory.mktemp("world")
    voc = make_voc(root, pictures=45, size=(48, 64))
    manifest = root / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "models": {"toy": _toy()}}))
    store = root / "store"
    _write_weights(root, store / "toy" / "train_iter_10.safetensors")
    _write_weights(root, store / "toy" / "train2_iter_10.safetensors")
    variables = {"DEEPLAB_REPRO_MANIFEST": str(manifest), "DEEPLAB_REPRO_WEIGHTS": str(store)}
    return World(voc, variables)


@pytest.fixture
def toy(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, for programs that run in this process."""
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    return world


def _toy() -> dict[str, Any]:
    def file(name: str, use: str, trained_on: str) -> dict[str, str]:
        return {
            "name": name,
            "use": use,
            "trained_on": trained_on,
            "download": f"{name}.caffemodel",
        }

    files = [
        file("train_iter_10", "val", "train_aug"),
        file("train2_iter_10", "test", "trainval_aug"),
    ]
    source = {"url": "http://localhost:9/none"}
    return {
        "title": "Toy",
        "network": "largefov",
        "width": WIDTH,
        "crf": "deeplab_largefov",
        "published": {
            "source": "nowhere",
            "miou": 60.0,
            "miou_crf": 65.0,
            "tolerance": 0.2,
            "tolerance_crf": 0.2,
        },
        "files": files,
        "downloads": {each["download"]: {"sources": [source]} for each in files},
    }


def _write_weights(root: Path, path: Path) -> None:
    """Random weights under which many classes turn up."""
    prototxt = root / "toy.prototxt"
    prototxt.write_text(write_network("largefov", width=WIDTH))
    source = read_model(prototxt)
    random = np.random.default_rng(3)
    weights = {}
    for item in infer_net(source.net("TEST")).layers:
        shapes = item.shapes.params
        if shapes:
            fan_in = np.prod(shapes[0][1:])
            kernel = random.normal(0, np.sqrt(2 / fan_in), shapes[0])
            weights[item.layer.name] = [
                kernel.astype(np.float32),
                *(np.zeros(shape, np.float32) for shape in shapes[1:]),
            ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, weights, source.raw)
