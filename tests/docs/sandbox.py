"""A folder with files of the names that the pages use, all of them small."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import scipy.io
import torch

from deeplab_repro.data.synthetic import draw, synthesize
from deeplab_repro.models import write_network
from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.released import read_manifest
from deeplab_repro.train.log import Log
from deeplab_repro.train.torchvision import read_torchvision
from prototxt_import import read_net, read_weights, write_weights
from tests.docs.pages import ROOT
from tests.models.narrow import narrow
from tests.testing.voc_set import make_sbd, make_voc
from tests.train.imagenet import VGG16, ResNet101, randomized

__all__ = ["RELEASED", "archive", "furnish", "manifest"]

#: The released model that the pages fetch.
RELEASED: Final = "deeplab_v2_resnet101"
#: Divides the channels of that one, and of the networks to start from.
_NARROW: Final = 32
_IMAGENET: Final = 16
_TRAINING: Final = ROOT / "tests" / "data" / "caffe" / "train_sgd_poly"


def furnish(folder: Path) -> None:
    """Put everything into an empty folder."""
    shutil.copytree(ROOT / "weights", folder / "weights")
    _models(folder)
    _pictures(folder)
    _voc(folder)
    _training(folder)


def _models(folder: Path) -> None:
    bundled, trained = folder / "weights/largefov_v1_w8", folder / "weights/synthetic_largefov"
    shutil.copy(bundled / "weights.caffemodel", folder / "model.caffemodel")
    shutil.copy(bundled / "activations.h5", folder / "caffe.h5")
    shutil.copy(bundled / "picture.png", folder / "picture.png")
    shutil.copy(trained / "weights.caffemodel", folder / "train_iter_20000.caffemodel")
    shutil.copy(trained / "deploy.prototxt", folder / "deploy.prototxt")
    file = folder / "train_iter_20000.caffemodel"
    write_weights(file.with_suffix(".safetensors"), read_weights(file), net=read_net(file))
    (folder / "test.prototxt").write_text(write_network("largefov", "TEST"))
    for path in (ROOT / "tests" / "data" / "tensorflow" / "checkpoints").iterdir():
        if path.name.startswith("network.ckpt-2."):
            shutil.copy(path, folder / path.name.replace("network", "model"))
        elif path.suffix == ".pb":
            shutil.copy(path, folder)
    content = archive(folder / "some.caffemodel")
    (folder / "prototxt_and_model.zip").write_bytes(content)


def archive(caffemodel: Path) -> bytes:
    """What the released archive holds, with a narrow network, which is also put into a file."""
    torch.manual_seed(2)
    model = narrow("resnet101-msc-aspp", num_classes=21, width=_NARROW)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(0.1)
    write_weights(caffemodel, model.caffe_weights())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as out:
        for name in ("init", "train_iter_20000", "train2_iter_20000"):
            out.write(caffemodel, f"model/{name}.caffemodel")
        out.writestr("model/test.prototxt", write_network("resnet101-msc-aspp", "TEST"))
    return content.getvalue()


def manifest(address: str) -> dict[str, Any]:
    """The package's own list of released models, but for the width of one and its addresses."""
    content: dict[str, Any] = json.loads(read_manifest().path.read_text(encoding="utf-8"))
    model = content["models"][RELEASED]
    model["width"] = _NARROW
    for download in model["downloads"].values():
        download["sources"] = [{"url": address}]
    return content


def _pictures(folder: Path) -> None:
    random = np.random.default_rng(1)
    unseen = folder / "demo_output" / "unseen"  # a part of what `make demo` draws
    synthesize(unseen, 10, seed=1, workers=1)
    for path in (unseen / "JPEGImages").iterdir():
        if path.stem not in ("drawn_000008", "drawn_000009"):
            path.unlink()
    (folder / "pictures").mkdir()
    for name in ("pictures/one.jpg", "pictures/two.jpg", "picture.jpg"):
        picture = cv2.resize(draw(random)[0], (96, 72))
        cv2.imwrite(str(folder / name), picture[:, :, ::-1])
    np.save(folder / "scores.npy", _scores(random, 72, 96))
    noise = random.integers(0, 256, (24, 1100, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "large.jpg"), noise)
    np.save(folder / "large.npy", _scores(random, 24, 1100))
    (folder / "fc8").mkdir()
    # As Caffe's MatWrite layer: width, height, channels, number.
    blob = _scores(random, 513, 513).transpose(2, 1, 0)[..., None]
    scipy.io.savemat(folder / "fc8" / "2007_000033_blob_0.mat", {"data": blob})


def _scores(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = random.normal(0, 3, (height // 8 + 1, width // 8 + 1, 21)).astype(np.float32)
    return np.ascontiguousarray(cv2.resize(coarse, (width, height)).transpose(2, 0, 1))


def _voc(folder: Path) -> None:
    """A set as VOC and as SBD, predictions and scores of it, and the same set as own data."""
    voc = make_voc(folder, pictures=5, size=(60, 80))
    (folder / "VOC2012").symlink_to("VOCdevkit/VOC2012")
    make_sbd(folder, voc, pictures=3, shared=2)
    for name in ("out/labels", "out/scores", "my/labels", "list", "my_pictures"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(2)
    names = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    for name in names:
        picture = voc / "JPEGImages" / f"{name}.jpg"
        height, width = cv2.imread(str(picture)).shape[:2]
        scores = _scores(random, height, width)
        np.save(folder / "out/scores" / f"{name}.npy", scores)
        labels = scores[:7].argmax(0).astype(np.uint8)
        write_label_png(folder / "out/labels" / f"{name}.png", labels)
        write_label_png(folder / "my/labels" / f"{name}.png", labels[::-1].copy())
        shutil.copy(picture, folder / "my_pictures")
        shutil.copy(folder / "my/labels" / f"{name}.png", folder / "my_pictures")
    (folder / "val.txt").write_text("".join(f"{name}\n" for name in names))
    lines = [f"/{name}.jpg /{name}.png\n" for name in names]
    (folder / "list/val.txt").write_text("".join(lines))
    (folder / "names.txt").write_text("".join(f"class {number}\n" for number in range(7)))


def _training(folder: Path) -> None:
    """A training of Caffe's with its snapshot, its log, and the networks that one starts from."""
    shutil.copytree(_TRAINING, folder, dirs_exist_ok=True)
    with (folder / "solver.prototxt").open("a") as solver:
        solver.write("display: 5\n")
    for name in ("train_iter_4000", "train_iter_20000"):
        shutil.copy(folder / "snap_iter_10.solverstate", folder / f"{name}.solverstate")
    run = folder / "runs" / "largefov"
    with Log(run, caffe=True) as log:
        for iteration in range(0, 100, 20):
            log.train(iteration, 0.001, 3 - iteration / 100, {})
    shutil.move(run / "caffe.log", folder / "caffe.log")
    (folder / "largefov").mkdir()
    trained = folder / "weights" / "synthetic_largefov" / "weights.caffemodel"
    shutil.copy(trained, folder / "largefov" / "train_iter_6000.caffemodel")
    state = randomized(VGG16(_IMAGENET)).state_dict()
    torch.save(state, folder / "vgg16-397923af.pth")
    vgg16 = read_torchvision(state)
    assert vgg16 is not None
    write_weights(folder / "VGG_ILSVRC_16_layers.caffemodel", vgg16.weights)
    state = randomized(ResNet101(_IMAGENET)).state_dict()
    torch.save(state, folder / "resnet101-63fe2227.pth")
