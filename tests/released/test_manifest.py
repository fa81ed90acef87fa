"""The manifest of this package, manifests with mistakes, and the structure of weights."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeplab_repro.crf import CRFParams
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.models import NETWORKS, write_network
from deeplab_repro.released import find, find_weights, names
from deeplab_repro.released.manifest import read_manifest
from deeplab_repro.released.models import CaffeModel, ReleasedModel
from deeplab_repro.released.structure import blob_shapes, compare_structure, count_values
from prototxt_import import Weights, infer_net, parse_net
from tests.released.conftest import Shelf, twin, twin_weights

#: results.md, sections 2, 3 and 7: on val, after the CRF, on test, tolerances.
STATED = {
    "deeplab": (59.80, 63.74, 66.4, None, None),
    "deeplab_msc": (61.30, 65.21, 67.1, None, None),
    "deeplab_coco": (None, None, 70.4, None, None),
    "deeplab_largefov": (62.25, 67.64, 70.3, 0.2, 0.2),
    "deeplab_msc_largefov": (64.21, 68.70, 71.6, None, None),
    "deeplab_coco_largefov": (None, None, 72.7, None, None),
    "deeplab_msc_coco_largefov": (None, None, None, None, None),
    "deeplab_v2_vgg16": (68.96, 71.57, 72.6, 0.2, 0.2),
    "deeplab_v2_resnet101": (76.35, 77.69, 79.7, 0.15, 0.3),
}


def caffemodels() -> list[CaffeModel]:
    """Those of the package's list; test_released_checkpoints.py has the others."""
    models = map(find, names())
    return [model for model in models if isinstance(model, CaffeModel)]


def test_the_models_of_this_package() -> None:
    assert {model.name for model in caffemodels()} == set(STATED)
    assert set(STATED) <= set(CRFParams.names())
    # Every network that was released, and no other.
    networks = [model.network for model in caffemodels()]
    assert sorted(networks) == sorted(name for name in NETWORKS if NETWORKS[name].released)
    for model in caffemodels():
        name, numbers = model.name, STATED[model.name]
        published = model.published
        assert (
            tuple(
                published[key]  # type: ignore[literal-required]
                for key in ("miou", "miou_crf", "test_miou_crf", "tolerance", "tolerance_crf")
            )
            == numbers
        )
        paper = model.definition.paper  # the catalogue of networks states the same
        for number in re.findall(r"\d\d\.\d\d?(?=[,; ]|$)", paper.split("; arXiv")[0]):
            assert float(number) in numbers or "test" in paper
        assert model.released_as == model.definition.released
        assert model.crf == name
        assert CRFParams.named(model.crf)
        assert (model.trained_on, model.default.use) == ("train_aug", "val")
        assert find(model.definition.full_name) is not None
        assert find(model.released_as).name == name
        for file in model.files:
            assert file.saw("val") == (file.use == "test")
            assert file.saw("train") == (file.use != "init")
            assert not file.saw("test")
            assert file.download.sources
            assert file.member is None or file.member in file.download.holds
    assert find("deeplab_v2_resnet101_msc").name == "deeplab_v2_resnet101"
    assert find_weights("deeplab_v2_vgg16")[1].name == "train_iter_20000"
    assert find_weights("deeplab_v2_vgg16/train2_iter_20000")[1].trained_on == "trainval_aug"
    with pytest.raises(InputError, match="expected deeplab_v2_resnet101 or"):
        find("deeplab_v2_resnet10")


@pytest.mark.parametrize("network", [name for name in NETWORKS if NETWORKS[name].released])
def test_shapes_are_those_of_the_prototxt(network: str) -> None:
    """Two ways from the tables to the blobs: through Caffe's text and straight from the steps."""
    model = next(model for model in caffemodels() if model.network == network)
    net = infer_net(parse_net(write_network(network, num_labels=60)))
    expected = {item.layer.name: item.shapes.params for item in net.layers if item.shapes.params}
    got = blob_shapes(model, 60)
    assert {name: list(shapes) for name, shapes in got.items()} == {
        name: list(map(tuple, shapes)) for name, shapes in expected.items()
    }
    statistics = sum(
        2 * shapes[0][0] + 1
        for name, shapes in blob_shapes(model).items()
        if len(shapes) == 3 and not name.endswith(("_res05", "_res075"))
    )
    assert count_values(model) == model.definition.parameters + statistics


def model_of(shelf: Shelf, **fields: Any) -> ReleasedModel:
    return shelf.put(m=twin(**fields)).find("m")


def test_structure(shelf: Shelf) -> None:
    model = model_of(shelf)
    weights = twin_weights("largefov")
    same = compare_structure(model, weights)
    assert (same.fits, same.fits_as_init, same.difference(), same.extra) == (True, True, "", ())
    assert set(same.shared) == set(weights)

    old = {  # programs before 2015 wrote four axes for everything
        layer: [blob.reshape((1,) * (4 - blob.ndim) + blob.shape) for blob in blobs]
        for layer, blobs in weights.items()
    }
    assert compare_structure(model, old).fits
    without_blobs: Weights = {**weights, "relu": []}
    assert compare_structure(model, without_blobs).extra == ()

    fine_tuned = compare_structure(model, twin_weights("largefov", num_labels=60))
    assert (fine_tuned.classes, fine_tuned.same_network, fine_tuned.fits) == (60, True, False)
    assert fine_tuned.difference() == "it has 60 labels in place of 21"
    assert fine_tuned.fits_as_init

    headless = {layer: blobs for layer, blobs in weights.items() if "fc" not in layer}
    start = compare_structure(model, headless)
    assert (start.fits, start.fits_as_init, start.classes) == (False, True, None)
    assert start.difference() == "layer 'fc6' is missing (and 2 more)"
    del headless["conv5_3"]
    assert compare_structure(model, headless).difference("init") == "layer 'conv5_3' is missing"

    other = {**weights, "fc6": weights["fc6"][:1], "fc7": [np.zeros((2, 2)), weights["fc7"][1]]}
    different = compare_structure(model, other)
    assert list(different.differing) == ["fc6", "fc7"]
    assert different.difference() == "layer 'fc6' has 1 blobs in place of 2 (and 1 more)"
    assert not different.fits_as_init


def test_copies_of_shared_layers_may_be_left_out(shelf: Shelf) -> None:
    """The three scales of ResNet-101 share their parameters; a file may hold them once."""
    model = model_of(shelf, network="resnet101-msc-aspp")
    weights = {
        name: [np.broadcast_to(np.float32(0), shape) for shape in shapes]
        for name, shapes in blob_shapes(model).items()
    }
    once = {name: blobs for name, blobs in weights.items() if "_res05" not in name}
    assert 0 < len(once) < len(weights)
    assert compare_structure(model, weights).fits
    assert compare_structure(model, once).fits
    del once["bn2a_branch1"]
    assert compare_structure(model, once).difference() == "layer 'bn2a_branch1' is missing"


GOOD = {"format": 1, "models": {"m": twin("http://a/b")}}
DELETED = object()
MODEL = ("models", "m")
FILE = (*MODEL, "files", 0)
#: Where, what stands there instead, and the message behind the file's name.
MISTAKES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("format",), 2, "has a format that this version does not know; expected format: 1"),
    (("format",), DELETED, "format is missing"),
    (("models",), {}, "names no models"),
    (("models",), [], "models; expected an object, got []"),
    (MODEL, 1, "models.m; expected an object, got 1"),
    (("models", "a/b"), twin(), "models.a/b: is no name for a file"),
    (("models", ".."), twin(), "models...: is no name for a file"),
    ((*MODEL, "network"), "vgg", "models.m.network; expected one of plain, msc,"),
    ((*MODEL, "network"), DELETED, "models.m.network is missing; expected a text"),
    ((*MODEL, "width"), 0, "models.m.width; expected at least 1, got 0"),
    ((*MODEL, "width"), True, "models.m.width; expected a whole number, got true"),
    ((*MODEL, "published", "miou"), "76", "models.m.published.miou; expected a number, got 76"),
    ((*MODEL, "files"), [], "models.m.files; expected at least one, each of another name"),
    ((*FILE, "name"), "../x", "models.m.files[0]: is no name for a file"),
    ((*FILE, "name"), "test_iter", "models.m.files; expected at least one, each of another name"),
    ((*FILE, "use"), "train", "models.m.files[0].use; expected val, test or init, got train"),
    ((*FILE, "download"), "x", "models.m.files[0].download; expected one of the downloads val_"),
    ((*FILE, "member"), "a/b", "models.m.files[0].member; expected the name of a file without"),
    (
        (*MODEL, "downloads", "val_iter.caffemodel"),
        DELETED,
        "models.m.files[0].download; expected one of the downloads test_iter.caffemodel, got val",
    ),
]


@pytest.mark.parametrize(("place", "value", "message"), MISTAKES)
def test_mistakes(place: tuple[str | int, ...], value: Any, message: str, tmp_path: Path) -> None:
    content: Any = copy.deepcopy(GOOD)
    *above, last = place
    part = content
    for key in above:
        part = part[key]
    if value is DELETED:
        del part[last]
    else:
        part[last] = value
    file = tmp_path / "m.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_manifest(file)
    assert str(error.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00", '{"format": NaN}'])
def test_no_manifest(text: str, tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text(text)
    with pytest.raises(BadInput, match="m.json: "):
        read_manifest(file)


def test_addresses_and_sums(tmp_path: Path) -> None:
    for fields, message in [
        ({"sources": [{"url": "file:///etc/passwd"}]}, "start with http:// or https://"),
        ({"sources": [{"url": 5}]}, "sources[0].url; expected a text, got 5"),
        ({"sources": [], "sha256": "ABC"}, "expected 64 hexadecimal digits"),
        ({"sources": [], "holds": [1]}, "holds; expected a list of texts, got 1"),
        ({"sources": [], "bytes": -1}, "bytes; expected at least 1, got -1"),
    ]:
        content: Any = copy.deepcopy(GOOD)
        content["models"]["m"]["downloads"]["val_iter.caffemodel"] = fields
        file = tmp_path / "m.json"
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=re.escape(message)):
            read_manifest(file)
