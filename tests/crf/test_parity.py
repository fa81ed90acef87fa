"""DeepLab's densecrf programs, by the fair test of what two builds of them agree in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.crf.features import bilateral_features, spatial_features
from deeplab_repro.ops import permutohedral_build, permutohedral_filter
from tests.crf.recorded import Case, names

RUNS = [name for name in names("dl_") if name not in ("dl_prob_80x60_c6", "dl_anno_160x120")]
#: Energies of an unknown pixel, of a known one, and of its other labels, in prog_test_densecrf.
LABELS, KNOWN = 21, 0.5


@pytest.mark.parametrize("padding_points", [True, False])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.sampled(2)
def test_programs_of_2011(name, padding_points, device):
    case = Case(name)
    mu = case.compatibility
    q = dense_crf(
        case.unary.to(device),
        case.image.to(device),
        case.params,
        compatibility=None if mu is None else mu.to(device),
        relaxation=case.numbers["relax"],
        padding_points=padding_points,
    )[0].cpu()
    case.check(q, "Q_final_at")
    case.check_labels(q.argmax(0))


@pytest.mark.parametrize("name", [*RUNS, *names("exact_")])
def test_lattices(name):
    """Vertices and sums of the raw kernels."""
    case = Case(name)
    params = case.params
    features = {
        "g": spatial_features(*case.image.shape[2:], params.pos_xy_std)[None],
        "b": bilateral_features(
            case.image, params.bi_xy_std, params.bi_rgb_std, dtype=torch.float32
        ),
    }
    for i, (kernel, values) in enumerate(features.items()):
        points = values.flatten(2).mT
        lattice = permutohedral_build(points, padding_points=True)
        vertices = lattice.neighbours.shape[1]
        expected = int(case["M"][i] if "M" in case else case[f"M_{kernel}"][2])
        assert abs(vertices - expected) <= max(8, 1e-4 * expected)
        ones = permutohedral_filter(lattice, torch.ones(1, points.shape[1], 1)).flatten().numpy()
        key = f"norm_raw_{kernel}_at"
        key = key if key in case else f"f64_lattice_ones_{kernel}_at"
        recorded = case[key].ravel()
        relative = np.abs(ones[case["pixels"]] / recorded - 1)
        assert (relative > 1e-4).sum() <= 1


@pytest.mark.parametrize("name", names("exact_"))
def test_float64_lattice_and_exact_sums(name):
    case = Case(name)
    q = dense_crf(case.unary, case.image, case.params, padding_points=True)[0]
    case.check(q, "Q_program_at")
    case.check(q, "f64_Q_lattice_at")
    double = dense_crf(case.unary.double(), case.image, case.params, padding_points=True)[0]
    case.check(double, "f64_Q_lattice_at")


def test_probabilities_of_zero():
    """U = -log p without clipping: a label of probability 0 stays there."""
    case = Case("dl_prob_80x60_c6")
    prob = torch.from_numpy(case["prob"]).permute(2, 0, 1)[None]
    assert (prob == 0).any()
    q = dense_crf(-prob.log(), case.image, case.params, padding_points=True)[0]
    case.check(q, "Q_final_at")
    assert (q.argmax(0).numpy() != case["labels_prog_v1"]).mean() <= 1e-4
    assert (q[prob[0] == 0] == 0).all()


def test_annotation():
    """prog_test_densecrf: colours numbered as they appear, black is unknown."""
    case = Case("dl_anno_160x120")
    annotation = case["annotation"].reshape(-1, 3).astype(int) @ [65536, 256, 1]
    colours = list(dict.fromkeys(annotation[annotation != 0].tolist()))
    label = np.array([colours.index(c) if c else -1 for c in annotation.tolist()])
    unary = np.full((LABELS, label.size), -np.log((1 - KNOWN) / (LABELS - 1)), np.float32)
    unary[label, np.arange(label.size)] = -np.log(KNOWN)
    unary[:, label < 0] = -np.log(1 / LABELS)
    height, width = case.rgb.shape[:2]
    params = CRFParams(10, 3, 3, 10, 60, 20)
    unary = torch.from_numpy(unary).reshape(1, LABELS, height, width)
    labels = dense_crf(unary, case.image, params, output="labels", padding_points=True)[0]
    palette = np.array([*colours, *[0] * LABELS])
    ours = palette[labels.numpy()]
    theirs = case["output_rgb"].astype(int) @ [65536, 256, 1]
    assert (ours != theirs).mean() <= 1e-4


def test_padding_points_are_seen_in_the_right_place():
    """N mod 4 = 1 and a picture that is not black at its corner: up to 6 vertices more."""
    case = Case("dl_i_161x121_c21_it1")
    points = (
        bilateral_features(
            case.image, case.params.bi_xy_std, case.params.bi_rgb_std, dtype=torch.float32
        )
        .flatten(2)
        .mT
    )
    with_, without = (
        permutohedral_build(points, padding_points=on).neighbours.shape[1] for on in (True, False)
    )
    assert 0 < with_ - without <= 6
    assert with_ == case["M"][1]


def test_named_parameters():
    assert CRFParams.named("deeplab_v2_resnet101") == CRFParams(10, 3, 1, 4, 67, 3)
    assert CRFParams.named("deeplab_v2_vgg16") == CRFParams(10, 2, 2, 4, 65, 3)
    assert CRFParams.named("deeplab_largefov") == CRFParams(10, 3, 3, 4, 121, 5)
    assert CRFParams.named("run_densecrf") == CRFParams()
    assert all(CRFParams.named(name).iterations == 10 for name in CRFParams.names())
    with pytest.raises(ValueError, match="did you mean deeplab_v2_resnet101"):
        CRFParams.named("deeplab_v2_resnet")
