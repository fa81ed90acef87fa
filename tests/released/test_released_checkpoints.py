"""TensorFlow's checkpoints as released models: the list, archives, the store, other structures."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeplab_repro.crf import CRFParams
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.released import find, names, resolve
from deeplab_repro.released.acquire import add, fetch
from deeplab_repro.released.checkpoints import backbone_variables
from deeplab_repro.released.download import Patience
from deeplab_repro.released.identify import identify
from deeplab_repro.released.manifest import Manifest
from deeplab_repro.released.models import TensorFlowModel
from deeplab_repro.released.store import file_sum
from deeplab_repro.released.structure import blob_shapes, compare_structure
from tensorflow_import import read_options, read_variables, write_checkpoint
from tests.released.conftest import Shelf, twin, write_caffemodel
from tests.released.server import Page, Server

HURRIED = Patience(attempts=2, first_wait=0.01, connect=1.0, silence=1.0)
OPTIONS = {"model_variant": "mobilenet_v2", "depth_multiplier": 0.35}
ARCHIVE = "small_2018.tar.gz"
Arrays = dict[str, np.ndarray[Any, Any]]

#: g3doc/model_zoo.md: every score of an archive, with its output stride.
STATED = {
    "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01": [(16, 70.19)],
    "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01": [(8, 71.83)],
    "deeplabv3_mnv2_pascal_train_aug_2018_01_29": [(16, 75.32), (8, 77.33)],
    "deeplabv3_mnv2_pascal_trainval_2018_01_29": [(8, 80.25)],
    "deeplabv3_pascal_train_aug_2018_01_04": [(16, 82.20), (8, 83.58)],
    "deeplabv3_pascal_trainval_2018_01_04": [(8, 87.80)],
    "deeplabv3_mnv2_cityscapes_train_2018_02_05": [(16, 70.71), (8, 73.57)],
    "deeplab_mnv3_large_cityscapes_trainfine_2019_11_15": [(32, 72.41)],
    "deeplab_mnv3_small_cityscapes_trainfine_2019_11_15": [(32, 68.99)],
    "deeplabv3_cityscapes_train_2018_02_06": [(16, 78.79), (8, 80.42)],
    "deeplab_cityscapes_xception71_trainfine_2018_09_08": [(16, 80.31)],
    "deeplab_cityscapes_xception71_trainvalfine_2018_09_08": [(8, 82.66)],
    "edgetpu-deeplab_2020_03_09": [(32, 70.6), (16, 74.1)],
    "edgetpu-deeplab-slim_2020_03_09": [(32, 70.0), (16, 73.2)],
    "deeplabv3_mnv2_ade20k_train_2018_12_03": [(16, 32.04)],
    "deeplabv3_xception_ade20k_train_2018_05_29": [(8, 45.65)],
    "xception_41_2018_05_09": [],
    "deeplabv3_xception_2018_01_04": [],
    "xception_65_coco_pretrained_2018_10_02": [],
    "xception_71_2018_05_09": [],
    "resnet_v1_50_2018_05_04": [],
    "resnet_v1_101_2018_05_04": [],
}


def checkpoints() -> list[TensorFlowModel]:
    """Those of the package's list."""
    models = map(find, names())
    return [model for model in models if isinstance(model, TensorFlowModel)]


def test_the_list_has_every_archive_and_score() -> None:
    found = {
        model.released_as: [(score.output_stride, score.miou) for score in model.scores]
        for model in checkpoints()
    }
    assert found == STATED
    for model in checkpoints():
        (file,) = model.files
        (source,) = file.download.sources
        assert source.url == f"http://download.tensorflow.org/models/{model.released_as}.tar.gz"
        assert source.confirmed
        assert model.licence.startswith("Apache License 2.0")
        assert file.saw("val") == (model.data == "voc2012" and file.use == "test")
        assert (file.use == "init") == (not model.scores)
        assert {score.split for score in model.scores} <= {file.use}
        assert all(score.flip == (score.scales != (1.0,)) for score in model.scores)
        if model.crf is not None:
            assert CRFParams.named(model.crf)
    sevenths = find("xception71_dpc_cityscapes_trainval")
    assert isinstance(sevenths, TensorFlowModel)
    assert sevenths.scores[0].scales == (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert sevenths.crop_size == (1025, 2049)


@pytest.mark.slow
def test_the_sizes_are_those_of_the_networks() -> None:
    for model in checkpoints():
        if model.options is None:
            assert model.values is None
            continue
        shapes = blob_shapes(model)
        if model.default.use == "init":
            shapes = {name: shapes[name] for name in backbone_variables(model)}
        assert model.values == sum(math.prod(shape) for (shape,) in shapes.values()), model.name


def test_options_at_another_output_stride() -> None:
    model = find("xception65_coco_voc_trainaug")
    assert isinstance(model, TensorFlowModel)
    assert ModelOptions.from_case(model.options_for()).atrous_rates == (6, 12, 18)
    finer = ModelOptions.from_case(model.options_for(output_stride=8))
    assert (finer.output_stride, finer.atrous_rates) == (8, (12, 24, 36))
    light = find("mobilenetv3_small_cityscapes_trainfine")
    assert isinstance(light, TensorFlowModel)
    assert light.options_for(num_classes=7)["decoder_filters"] == 7
    unknown = find("edgetpu_deeplab")
    assert isinstance(unknown, TensorFlowModel)
    with pytest.raises(InputError, match="what the network of edgetpu_deeplab is"):
        unknown.options_for()


# ------------------------------------------------------------------ a small one in an archive


def model_row(*urls: str, **fields: Any) -> dict[str, Any]:
    """A checkpoint of the list: MobileNet-v2 with a third of its channels."""
    return {
        "options": OPTIONS,
        "num_classes": 5,
        "data": "voc2012",
        "crop_size": [65, 65],
        "scores": [{"miou": 50.0}],
        "files": [
            {
                "name": "model.ckpt",
                "use": "val",
                "trained_on": "train_aug",
                "download": ARCHIVE,
                "member": "model.ckpt",
            }
        ],
        "downloads": {ARCHIVE: {"sources": [{"url": url} for url in urls]}},
        **fields,
    }


def variables(num_classes: int = 5, seed: int = 0) -> Arrays:
    """Random values for the small network, and what a training keeps beside them."""
    model = TensorFlowModel(
        *("small", "small", num_classes, None, "", "", (), ""),
        *(OPTIONS, "", None, None, "", (), None, None),
    )
    random = np.random.default_rng(seed)
    found: Arrays = {
        name: random.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, (shape,) in blob_shapes(model).items()
    }
    slot = "MobilenetV2/Conv/weights"
    return {**found, f"{slot}/Momentum": found[slot], "global_step": np.array(30000, np.int64)}


def make_archive(path: Path, prefix: str = "model.ckpt", **options: Any) -> Path:
    """As the released ones: a folder with a checkpoint, and its frozen graph beside."""
    write_checkpoint(path.parent / prefix, variables(**options))
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(path.parent.glob(f"{prefix}.*")):
            archive.add(file, f"released/{file.name}")
            file.unlink()
        graph = tarfile.TarInfo("released/frozen_inference_graph.pb")
        archive.addfile(graph, io.BytesIO())
    return path


def is_small(path: Path) -> bool:
    """Whether the converted file has the variables of the network, and no others."""
    expected = {
        name: array for name, array in variables().items() if name[0] != "g" and "Mom" not in name
    }
    found = read_variables(path)
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("prefix", ["model.ckpt", "model.ckpt-30000"])
def test_fetch_and_add(shelf: Shelf, server: Server, tmp_path: Path, prefix: str) -> None:
    archive = make_archive(tmp_path / ARCHIVE, prefix)
    url = server.url("/a", Page(archive.read_bytes()))
    manifest = shelf.put(small=model_row(url), caffe=twin())
    small = manifest.models["small"]
    (got,) = fetch(small, small.files, shelf.store, patience=HURRIED)
    assert got.first_use
    assert got.record is not None
    assert (got.record.origin, got.path) == (url, resolve("small"))
    assert is_small(got.path)
    options = read_options(got.path)
    assert options == {**OPTIONS, "num_classes": 5}
    sums = shelf.store.records()
    assert sums[f"small/{ARCHIVE}"].sha256 == file_sum(archive)
    assert set(sums) == {f"small/{ARCHIVE}", "small/model.ckpt.index"}
    (again,) = fetch(small, small.files, shelf.store)
    assert (again.already, again.record) == (True, sums["small/model.ckpt.index"])
    got.path.unlink()
    (added,) = add(archive, manifest, shelf.store)
    assert is_small(added.path)
    assert not added.first_use
    assert shelf.left_over() == []


def test_loose_checkpoints(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.put(small=model_row(), caffe=twin())
    prefix = tmp_path / "mine.ckpt"
    write_checkpoint(prefix, variables())
    for name in ("mine.ckpt", "mine.ckpt.index", "mine.ckpt.data-00000-of-00001"):
        (identity,) = identify(tmp_path / name, manifest, shelf.store)
        assert [structure.model.name for structure in identity.fitting] == ["small"]
        assert identity.kind == "checkpoint"
        assert identity.sha256 == file_sum(tmp_path / "mine.ckpt.index")
        assert identity.bytes > 1_800_000
        (added,) = add(tmp_path / name, manifest, shelf.store)
        assert added.record is not None
        assert added.record.sha256 == identity.sha256
        assert is_small(added.path)
    (converted,) = identify(added.path, manifest, shelf.store)
    assert converted.kind == "safetensors"
    assert converted.fitting
    # Another training of the same network: its name is the same, its sum is not.
    write_checkpoint(prefix, variables(seed=1))
    with pytest.raises(
        InputError, match="another SHA-256 than small/model.ckpt.index at its first"
    ):
        add(prefix, manifest, shelf.store)


def test_what_does_not_fit_is_said(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.put(small=model_row(), caffe=twin())

    def refused(arrays: Arrays) -> str:
        write_checkpoint(tmp_path / "x.ckpt", arrays)
        with pytest.raises(BadInput) as error:
            add(tmp_path / "x.ckpt", manifest, shelf.store, model=manifest.models["small"])
        return str(error.value)

    whole = variables()
    assert "it has 7 labels in place of 5" in refused(variables(7))
    weights = "MobilenetV2/Conv/weights"
    missing = {name: array for name, array in whole.items() if name != weights}
    assert f"layer '{weights}' is missing" in refused(missing)
    wide = {**whole, weights: np.zeros((3, 3, 3, 32), np.float32)}
    assert f"layer '{weights}', blob 0 is 3x3x3x32 in place of 3x3x3x11" in refused(wide)
    broken = {**whole, weights: np.full_like(whole[weights], np.nan)}
    assert "holds values that are not finite" in refused(broken)
    # A checkpoint that somebody fine-tuned starts a training, and so may a classifier's.
    structure = compare_structure(
        manifest.models["small"], {name: [array] for name, array in variables(7).items()}
    )
    assert (structure.classes, structure.fits, structure.fits_as_init) == (7, False, True)
    caffemodel = write_caffemodel(tmp_path / "a.caffemodel", "largefov")
    (identity,) = identify(caffemodel, manifest, shelf.store)
    assert [each.model.name for each in identity.structures] == ["caffe"]


def test_archives_without_a_checkpoint(shelf: Shelf, tmp_path: Path) -> None:
    manifest = shelf.put(small=model_row())
    path = tmp_path / ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("released/README"), io.BytesIO())
    with pytest.raises(InputError, match="holds the weights of no released model"):
        add(path, manifest, shelf.store)
    write_checkpoint(tmp_path / "model.ckpt", variables())
    with tarfile.open(path, "w:gz") as archive:  # the values are not there
        archive.add(tmp_path / "model.ckpt.index", "model.ckpt.index")
    with pytest.raises(BadInput, match=r"small_2018.tar.gz: model.ckpt.index: "):
        add(path, manifest, shelf.store)
    assert shelf.left_over() == []


def test_two_models_alike_are_told_by_the_name_of_the_archive(shelf: Shelf, tmp_path: Path) -> None:
    other = json.loads(json.dumps(model_row()).replace(ARCHIVE, "other.tar.gz"))
    manifest: Manifest = shelf.put(small=model_row(), other=other)
    (added,) = add(make_archive(tmp_path / "other.tar.gz"), manifest, shelf.store)
    assert added.model.name == "other"
    with pytest.raises(InputError, match="may be several models; expected --model NAME"):
        add(make_archive(tmp_path / "third.tar.gz", seed=1), manifest, shelf.store)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"options": 5}, "options; expected an object or null, got 5"),
        ({"options": {"model_variant": "vgg"}}, "options: option model_variant; expected one of"),
        ({"options": {"rates": 1}}, "options: option rates; expected one of"),
        ({"crop_size": [1]}, "crop_size; expected height and width, got [1]"),
        ({"crop_size": [0, 1]}, "crop_size; expected a list of whole numbers of at least 1"),
        ({"scores": [{}]}, "scores[0].miou is missing"),
        ({"scores": [{"miou": 1, "scales": [0]}]}, "scores[0].scales; expected positive numbers"),
        ({"scores": [{"miou": 1, "scales": ["1"]}]}, "scales; expected a list of numbers, got 1"),
    ],
)
def test_mistakes_in_a_list(fields: dict[str, Any], message: str, shelf: Shelf) -> None:
    with pytest.raises(InputError) as error:
        shelf.put(small=model_row(**fields))
    assert message in str(error.value)
    assert "models.small." in str(error.value)
