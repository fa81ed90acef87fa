"""The pictures of tour.md: a drawn picture on its way through the bundled network."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deeplab_repro import load_caffe
from deeplab_repro.caffe.analysis import analyse
from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.data import Dataset, read_label, voc
from deeplab_repro.data.synthetic import synthesize
from deeplab_repro.evaluation import Trimap
from deeplab_repro.evaluation.crf_counts import Task
from deeplab_repro.evaluation.crf_grid import Grid
from deeplab_repro.evaluation.crf_heat_map import heat_map
from deeplab_repro.evaluation.crf_search import choose, search_crf, with_scores
from deeplab_repro.inference.segmentation import Segmenter, refine
from deeplab_repro.parity.comparison import compare_recording
from deeplab_repro.parity.recordings import Recording
from deeplab_repro.parity.tolerances import AGREEMENT
from deeplab_repro.pictures.overlay import draw_labels
from deeplab_repro.pictures.palette import Classes
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.voc import IGNORE_LABEL, VOC_CLASSES
from prototxt_import import read_net

ROOT: Final = Path(__file__).resolve().parents[1]
MODEL: Final = ROOT / "weights/synthetic_largefov/weights.caffemodel"
RECORDED: Final = ROOT / "weights/largefov_v1_w8"
#: Those of `make demo`: weights/synthetic_largefov/score.json.
PARAMS: Final = CRFParams(pos_w=3, pos_xy_std=1, bi_w=7, bi_xy_std=25, bi_rgb_std=6)
#: Those that `make demo` draws, and the one that is shown.
_SEED, _PICTURES, _NAME = 1, 40, "drawn_000009"
_CLASS: Final = "horse"
_ID: Final = VOC_CLASSES.index(_CLASS)
_MEAN: Final = (104.008, 116.669, 122.675)

Pixels = NDArray[np.uint8]


class Scene(NamedTuple):
    """A picture (H, W, 3) BGR, its label, and what the network says: at 1/8 and at full size."""

    picture: Pixels
    label: Pixels
    coarse: torch.Tensor  # (C, h, w)
    scores: torch.Tensor  # (C, H, W)


@cache
def drawn() -> Dataset:
    """Forty drawn pictures, in a folder that goes when the program ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = Path(folder, "set")
    synthesize(root, _PICTURES, seed=_SEED, workers=1)
    return voc(root, "trainval")


@cache
def segmenter() -> Segmenter:
    """The bundled network."""
    return Segmenter(load_caffe(MODEL))


@cache
def horse() -> Scene:
    """A horse on a meadow: its legs and its tail are thin."""
    (sample,) = (sample for sample in drawn() if sample.name == _NAME)
    assert sample.label is not None
    picture = read_picture(sample.picture)
    height, width = picture.shape[:2]
    data = torch.zeros(1, 3, -(-(height - 1) // 8) * 8 + 1, -(-(width - 1) // 8) * 8 + 1)
    values = picture.astype(np.float32) - np.float32(_MEAN)
    data[0, :, :height, :width] = torch.from_numpy(values).permute(2, 0, 1)
    with torch.inference_mode():
        blobs = load_caffe(MODEL).blobs(data=data)
    scores = blobs["fc8_interp"][0, :, :height, :width]
    return Scene(picture, read_label(sample.label), blobs["fc8_synthetic"][0], scores.clone())


def network() -> Figure:
    """Coarse scores, the same upsampled, probabilities, labels."""
    scene = horse()
    coarse, scores = scene.coarse, scene.scores
    small, large = (each.softmax(0)[_ID].numpy() for each in (coarse, scores))
    rows, columns = scene.picture.shape[:2]
    figure = Figure(figsize=(9, 4.9), layout="constrained")
    axes = figure.subplots(2, 3)
    _show(axes[0, 0], scene.picture[..., ::-1], f"picture, {columns} x {rows}")
    size = " x ".join(map(str, coarse.shape[:0:-1]))
    low, high = float(coarse[_ID].min()), float(coarse[_ID].max())
    shown = {"cmap": "magma", "vmin": low, "vmax": high}
    # A coarse score stands for 8 pixels; the map reaches over the padding.
    seen = coarse[_ID].numpy()[: -(-rows // 8), : -(-columns // 8)]
    _show(axes[0, 1], seen, f"scores of '{_CLASS}', {size}", **shown)
    _show(axes[0, 2], scores[_ID].numpy(), "upsampled", **shown)
    probable = {"cmap": "magma", "vmin": 0, "vmax": 1}
    _show(axes[1, 0], small[: -(-rows // 8), : -(-columns // 8)], "probability, coarse", **probable)
    _show(axes[1, 1], large, "probability, upsampled", **probable)
    _show(axes[1, 2], _labelled(scene, scores), "the likeliest label")
    for place in axes.flat:
        place.set_anchor("N")  # the titles of a row at one height
    return figure


def field() -> Figure:
    """What one value of some layers sees of the picture."""
    scene = horse()
    rows, columns = scene.picture.shape[:2]
    fields = {row.name: row for row in analyse(read_net(MODEL), {"data": (1, 3, 217, 217)})}
    figure = Figure(figsize=(6, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#eeeeee")
    _show(axes, scene.picture[..., ::-1], "what one value of a layer sees of the picture")
    middle = 8 * (columns // 16), 8 * (rows // 16)
    for name, colour in (
        ("conv2_2", "#e69f00"),
        ("conv3_3", "#56b4e9"),
        ("conv4_3", "#cc79a7"),
        ("conv5_3", "#009e73"),
        ("fc6", "#d55e00"),
    ):
        found = fields[name].field
        assert found is not None
        side = float(found.size[0])
        corner = middle[0] - side / 2, middle[1] - side / 2
        text = f"{name}: {side:.0f} pixels, rate {(fields[name].rate or (1,))[0]}"
        axes.add_patch(
            Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=2, label=text)
        )
    taps = [(middle[0] + 96 * j, middle[1] + 96 * i) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    axes.plot(*zip(*taps, strict=True), "o", color="#d55e00", ms=6, label="the nine taps of fc6")
    reach = float(fields["fc6"].field.size[0]) / 2 + 6  # type: ignore[union-attr]
    axes.set_xlim(middle[0] - reach, middle[0] + reach)
    axes.set_ylim(middle[1] + reach, middle[1] - reach)
    axes.legend(fontsize=8, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0.03))
    return figure


def crf_steps() -> Figure:
    """Labels and the probability of one of them after 0, 1, 2, 5 and 10 steps of mean field."""
    scene = horse()
    image = torch.from_numpy(scene.picture[..., ::-1].copy()).permute(2, 0, 1)[None]
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    axes = figure.subplots(2, 5)
    for column, steps in enumerate((0, 1, 2, 5, 10)):
        q = dense_crf(-scene.scores[None], image, replace(PARAMS, iterations=steps))[0]
        title = "0 steps: the network" if steps == 0 else f"{steps} step{'s' * (steps > 1)}"
        _show(axes[0, column], _labelled(scene, q), title)
        _show(axes[1, column], q[_ID].numpy(), "", cmap="magma", vmin=0, vmax=1)
    axes[0, 0].set_ylabel("labels", fontsize=9)
    axes[1, 0].set_ylabel(f"probability of '{_CLASS}'", fontsize=9)
    return figure


def trimap() -> Figure:
    """The band around the borders, and mean IoU in it over its width."""
    curves = {"network": Trimap(21), "after the CRF": Trimap(21)}
    for sample in drawn():
        assert sample.label is not None
        picture, label = read_picture(sample.picture), read_label(sample.label)
        before = segmenter().scores([picture])[0]
        curves["network"].add(before.argmax(0).numpy(), label)
        curves["after the CRF"].add(refine(before, picture, PARAMS).argmax(0).numpy(), label)
    scene = horse()
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    band, plot = figure.subplots(1, 2)
    shown = scene.picture[..., ::-1].copy()
    _show(
        band, _with_band(shown, scene.label, 5), "the band of width 5 pixels around the void line"
    )
    for (name, one), colour in zip(curves.items(), ("#0072b2", "#d55e00"), strict=True):
        plot.plot(one.widths, 100 * one.mean_iou, "o-", ms=3, color=colour, label=name)
    plot.set_xlabel("width of the band in pixels", fontsize=9)
    plot.set_ylabel("mean IoU in the band, percent", fontsize=9)
    plot.grid(color="#dddddd")
    plot.legend(fontsize=9)
    return figure


def compare() -> Figure:
    """Errors of every blob against Caffe's: the network as it is, and with a mistake."""
    recording = Recording(
        "bundled", RECORDED / "activations.h5", RECORDED / "weights.caffemodel", None
    )
    tolerance = AGREEMENT["caffe"]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    for mistake, colour in ((False, "#0072b2"), (True, "#d55e00")):
        net = load_caffe(RECORDED / "weights.caffemodel")
        if mistake:
            with torch.no_grad():
                net.params["conv4_2"][0].mul_(1.001)
        reports = [r for r in compare_recording(net, recording, tolerance) if r.agreement]
        errors = [max(r.agreement.rel, 1e-9) for r in reports]  # type: ignore[union-attr]
        name = "conv4_2 larger by a thousandth" if mistake else "as converted"
        axes.semilogy(errors, "o-", color=colour, ms=4, linewidth=1, label=name)
    axes.axhline(tolerance.rel, color="black", linestyle="--", linewidth=1, label="tolerance")
    axes.set_xticks(range(len(reports)), [r.blob for r in reports], rotation=60, ha="right")
    axes.tick_params(labelsize=8)
    axes.set_ylabel("||ours - Caffe's|| / ||Caffe's||", fontsize=9)
    axes.grid(axis="y", color="#dddddd")
    axes.legend(fontsize=9)
    return figure


def search() -> Figure:
    """The heat map of a search over ten drawn pictures, those that `crf-search` chooses."""
    samples = choose(drawn(), 10)
    with tempfile.TemporaryDirectory() as folder:
        for sample in samples:
            scores = segmenter().scores([read_picture(sample.picture)])[0]
            np.save(Path(folder, f"{sample.name}.npy"), scores.numpy())
        grid = Grid((7,), (9, 17, 25, 33, 49), (3, 6, 9, 12))
        task = Task(CRFParams(pos_w=3, pos_xy_std=1))
        found = search_crf(with_scores(samples, folder), folder, grid, task, rounds=1, workers=1)
    return heat_map(found)


def _labelled(scene: Scene, scores: torch.Tensor) -> Pixels:
    labels = scores.argmax(0).numpy().astype(np.uint8)
    drawn_labels: Pixels = draw_labels(scene.picture, labels, Classes.default(21))[..., ::-1]
    return drawn_labels


def _with_band(picture: Pixels, label: Pixels, width: int) -> Pixels:
    """The pixels that the trimap counts, coloured."""
    trimap = Trimap(21, [width])
    shown = (picture * 0.45).astype(np.uint8)
    void = label == IGNORE_LABEL
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    near = cv2.dilate(void.astype(np.uint8), square).astype(bool) & ~void
    trimap.add(np.zeros_like(label), label)
    assert trimap.matrices[0].sum() == near.sum()
    shown[near] = picture[near]
    shown[void] = (255, 255, 255)
    return shown


def _show(axes: Axes, values: NDArray[Any], title: str, **style: Any) -> None:
    axes.imshow(values, **style)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
