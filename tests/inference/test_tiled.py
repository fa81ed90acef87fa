"""Tiles give what the whole picture gives: positions, seams, files in parts, commands."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.crf import Bilateral, CRFParams, dense_crf
from deeplab_repro.crf.part import dense_crf_part, reach
from deeplab_repro.errors import InputError
from deeplab_repro.inference.segmentation import Segmenter
from deeplab_repro.inference.tiled import Tiling, network_overlap, refine_tiles, score_tiles
from deeplab_repro.pictures.palette import Classes
from deeplab_repro.pictures.score_parts import open_scores, scratch_scores
from deeplab_repro.pictures.scores import read_scores, write_scores
from deeplab_repro.pictures.tiles import tiles
from prototxt_import import write_weights
from tests.cli.conftest import run  # noqa: F401

PARAMS = CRFParams(10, 3, 3, 4, 12, 8)
#: Scores at every eighth pixel, zoomed: it sees 1 + 2 + 4 pixels on either side, and the zoom 8.
NET = (
    'input: "data" input_dim: 1 input_dim: 3 input_dim: 65 input_dim: 65 '
    + "".join(
        f'layer {{ name: "{top}" type: "Convolution" bottom: "{bottom}" top: "{top}" '
        f"convolution_param {{ num_output: {channels} kernel_size: 3 stride: 2 pad: 1 }} }} "
        for bottom, top, channels in (("data", "a", 8), ("a", "b", 8), ("b", "c", 4))
    )
    + 'layer { name: "z" type: "Interp" bottom: "c" top: "z" interp_param { zoom_factor: 8 } }'
)


def make_problem(height: int, width: int, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A picture of patches with noise, (H, W, 3) BGR, and scores that are a bit off."""
    random = np.random.default_rng(7)
    patches = random.integers(0, labels, (height // 30 + 1, width // 30 + 1)).astype(np.uint8)
    label = cv2.resize(patches, (width, height), interpolation=cv2.INTER_NEAREST)
    shades = random.integers(30, 226, (labels, 3))
    picture = shades[label] + random.normal(0, 8, (height, width, 3))
    coarse = random.normal(0, 1.5, (height // 8 + 1, width // 8 + 1, labels))
    scores = cv2.resize(coarse, (width, height)) + 2.0 * (label[..., None] == np.arange(labels))
    scores = scores.transpose(2, 0, 1).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8), np.ascontiguousarray(scores)


def whole_crf(picture: np.ndarray, scores: np.ndarray, params: CRFParams = PARAMS) -> np.ndarray:
    rgb = torch.from_numpy(picture[:, :, ::-1].transpose(2, 0, 1).copy())[None]
    return dense_crf(torch.from_numpy(-scores)[None], rgb, params)[0].numpy()


def stitched(picture: np.ndarray, scores: np.ndarray, tiling: Tiling, tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "s.npy", scores)
    q = np.full_like(scores, np.nan)
    with open_scores(tmp_path / "s.npy") as parts:
        for tile, unary, part in refine_tiles(parts, picture, PARAMS, tiling):
            q[(slice(None), *tile.kept)] = part
            np.testing.assert_array_equal(-unary, scores[(slice(None), *tile.kept)])
    return q


@pytest.mark.parametrize(
    ("size", "sides", "overlap", "step"),
    [((100, 70), (40, 40), 7, 1), ((97, 33), (49, 41), 12, 8), ((5, 41), (40, 40), 39, 1)],
)
def test_tiles_have_every_pixel_once(size, sides, overlap, step):
    seen = np.zeros(size, int)
    for tile in tiles(size, sides, overlap, step):
        seen[tile.kept] += 1
        part = seen[tile.computed]
        assert part.shape == tuple(map(min, size, sides))
        assert part[tile.inner].shape == seen[tile.kept].shape
        for span, length in zip(tile, size, strict=True):
            assert span.start % step == 0
            # At least half of the overlap lies between a cut and what is kept.
            assert span.start == 0 or span.keep_start - span.start >= overlap // 2
            assert span.stop == length or span.stop - span.keep_stop >= overlap // 2
    assert (seen == 1).all()


def test_tiles_that_cannot_be():
    with pytest.raises(InputError, match="expected a tile of at least 41, or less overlap, got 40"):
        tiles((99, 99), (40, 40), 40)
    for side, overlap in ((0, None), (9, 9), (9, -1)):
        with pytest.raises(InputError, match="a side larger than the overlap"):
            Tiling(side, overlap)


def test_a_part_keeps_its_places_in_the_lattice():
    """Away from the cuts it is the whole picture's CRF; where the part is the whole, exactly."""
    picture, scores = make_problem(60, 150)
    params = CRFParams(5, 3, (3, 2), 4, 6, (8, 9, 10), (Bilateral(1, 3, 20),))
    rgb = torch.from_numpy(picture[:, :, ::-1].transpose(2, 0, 1).copy())[None]
    unary = torch.from_numpy(-scores)[None]
    options = {"normalization": "symmetric", "relaxation": 0.7}
    whole = dense_crf(unary, rgb, params, **options)
    assert torch.equal(dense_crf_part(unary, rgb, params, (0, 0), **options), whole)
    cut = unary[..., 20:, 50:], rgb[..., 20:, 50:], params
    off, elsewhere = (
        (dense_crf_part(*cut, origin, **options) - whole[..., 20:, 50:]).abs()
        for origin in ((20, 50), (0, 0))
    )
    assert off[..., 25:, 25:].max() < 2e-3
    assert off.max() > 2e-2
    assert elsewhere[..., 25:, 25:].max() > 2e-2  # another lattice is another approximation
    assert reach(params) == 12
    assert reach(CRFParams(bi_w=0, pos_xy_std=(2, 10))) == 20
    spatial = CRFParams(3, 3, 3, bi_w=0)
    whole = dense_crf(unary, None, spatial)
    assert torch.equal(dense_crf_part(unary, rgb, spatial, (0, 0)), whole)


def test_seams_of_the_crf(tmp_path):
    picture, scores = make_problem(150, 230)
    whole = whole_crf(picture, scores)
    np.testing.assert_array_equal(stitched(picture, scores, Tiling(230), tmp_path), whole)
    tiled = stitched(picture, scores, Tiling(90), tmp_path)
    assert (whole.argmax(0) != scores.argmax(0)).mean() > 0.02  # the CRF does something
    assert (tiled.argmax(0) != whole.argmax(0)).mean() < 1e-4
    assert np.abs(tiled - whole).max() < 0.1
    without = stitched(picture, scores, Tiling(90, 0), tmp_path)
    assert (without.argmax(0) != whole.argmax(0)).mean() > 1e-4


@pytest.fixture
def small_net(tmp_path):
    """Prototxt and caffemodel of NET with random weights."""
    (tmp_path / "n.prototxt").write_text(NET)
    random = np.random.default_rng(0)
    sizes = {"a": (8, 3, 3, 3), "b": (8, 8, 3, 3), "c": (4, 8, 3, 3)}
    weights = {
        name: [random.normal(0, 0.15, shape).astype(np.float32), np.zeros(shape[0], np.float32)]
        for name, shape in sizes.items()
    }
    write_weights(tmp_path / "n.caffemodel", weights)
    return tmp_path / "n.prototxt", tmp_path / "n.caffemodel"


def test_scores_are_those_of_the_whole_picture(small_net):
    """By default tiles overlap as far as the network sees; a mean picture is cut with them."""
    picture, _ = make_problem(150, 230)
    random = np.random.default_rng(0)
    segmenter = Segmenter(load_caffe(*small_net), mean=random.normal(100, 30, (3, 150, 230)))
    overlap, exact = network_overlap(segmenter, 65)
    assert exact
    assert 15 <= overlap <= 32
    (whole,) = segmenter.scores([picture])
    for tiling, equal in ((Tiling(65), True), (Tiling(71), True), (Tiling(65, 0), False)):
        found = torch.full_like(whole, torch.nan)
        segmenter.rule = segmenter.rule.__class__((65, 65), 8, None, classes=4)
        for tile, part in score_tiles(segmenter, picture, tiling):
            found[(slice(None), *tile.kept)] = part
        near = torch.allclose(found, whole, rtol=1e-5, atol=1e-4)
        assert near == equal, tiling
        assert not found.isnan().any()
    assert network_overlap(Segmenter(torch.nn.Conv2d(3, 4, 1).eval()), 65) == (32, False)
    with pytest.raises(InputError, match="expected one scale"):
        list(score_tiles(Segmenter(segmenter.net, scales=[0.5, 1]), picture, Tiling(65)))


def test_files_in_parts(tmp_path):
    scores = np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32)
    rows, columns = slice(4, 15), slice(7, 30)
    np.save(tmp_path / "4.npy", scores[None])
    np.save(tmp_path / "double.npy", scores.astype(np.float64))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(scores))
    write_scores(tmp_path / "s.mat", scores)
    for name in ("4.npy", "double.npy", "fortran.npy", "s.mat"):
        with open_scores(tmp_path / name) as parts:
            assert parts.shape == (3, 20, 30), name
            np.testing.assert_array_equal(parts.part(rows, columns), scores[:, rows, columns])
    before = set(tmp_path.iterdir())
    with scratch_scores(tmp_path, (3, 20, 30)) as file:
        file.put(rows, columns, scores[:, rows, columns])
        file.put(slice(0, 20), slice(0, 7), scores[:, :, :7])
        np.testing.assert_array_equal(file.part(rows, columns), scores[:, rows, columns])
        for ending in (".npy", ".npz"):
            file.save(tmp_path / f"out{ending}", "marginals")
            found = read_scores(tmp_path / f"out{ending}", None)
            np.testing.assert_array_equal(found[:, 4:15], scores[:, 4:15])
            assert not found[:, 15:, 7:].any()
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out.npy", tmp_path / "out.npz"}
    (tmp_path / "short.npy").write_bytes((tmp_path / "4.npy").read_bytes()[:-9])
    with (
        pytest.raises(InputError, match=r"short.npy: is no .npy"),
        open_scores(tmp_path / "short.npy"),
    ):
        pass


def test_the_commands(run, tmp_path, small_net):  # noqa: F811
    """`segment --tile --crf` is `segment --crf`; so is `crf --tile` on the scores that it saves."""
    picture, _ = make_problem(150, 230)
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    (tmp_path / "crf.json").write_text('{"bi_xy_std": 10, "bi_rgb_std": 8}')
    model = ("--model", small_net[1], "--prototxt", small_net[0], "--pad-to", 233)
    given = ("segment", tmp_path / "p.png", *model, "--crf", tmp_path / "crf.json")
    assert run(*given, "-o", tmp_path / "whole")[0] == 0
    code, _, err = run(
        *(*given, "--tile", 97, "--save-scores", ".npy", "-o", tmp_path / "tiled"),
    )
    assert (code, err) == (0, "")
    refine = ("crf", "--image", tmp_path / "p.png", "--scores", tmp_path / "tiled/scores/p.npy")
    options = ("--params", tmp_path / "crf.json", "--json", tmp_path / "r.json")
    code, _, err = run(*refine, *options, "--tile", 97, "-o", tmp_path / "crf")
    assert (code, err) == (0, "")
    assert run(*refine, *options, "-o", tmp_path / "untiled")[0] == 0
    labels = {
        name: cv2.imread(str(tmp_path / name / "labels" / "p.png"))
        for name in ("whole", "tiled", "crf", "untiled")
    }
    for name, found in labels.items():
        assert (found != labels["whole"]).any(2).mean() < 1e-4, name
    with (
        np.load(tmp_path / "crf/marginals/p.npz") as tiled,
        np.load(tmp_path / "untiled/marginals/p.npz") as untiled,
    ):
        assert np.abs(tiled["marginals"] - untiled["marginals"]).max() < 0.1
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]
    for arguments, message in (
        ((*given, "--overlap", 3), "--overlap; expected --tile beside it"),
        ((*given, "--tile", 9, "--overlap", 9), "a side larger than the overlap"),
        ((*given, "--tile", 97, "--save-scores", ".mat"), "expected .npy or .npz, got .mat"),
        ((*given, "--tile", 97, "--scales", "0.5"), "--tile; expected no --scales beside it"),
        ((*refine, "--tile", 97, "--params", "deeplab"), "expected a tile of at least 201"),
    ):
        code, _, err = run(*arguments, "-o", tmp_path / "bad")
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1


def test_drawing_in_bands_is_drawing_at_once(monkeypatch):
    from deeplab_repro.pictures import overlay

    picture, scores = make_problem(70, 100, 5)
    labels, classes = scores.argmax(0).astype(np.uint8), Classes.default(5)
    at_once = overlay.draw_overlay(picture, labels, classes)
    monkeypatch.setattr(overlay, "_BAND", 7)
    np.testing.assert_array_equal(overlay.draw_overlay(picture, labels, classes), at_once)
