"""The drop-in gives pydensecrf's results, layouts and errors."""

from __future__ import annotations

import numpy as np
import pytest

import deeplab_repro.crf.pydensecrf.densecrf as dcrf
from deeplab_repro.crf.pydensecrf import eigen, utils
from tests.crf.recorded import Case, names

NORMS = {
    "NO": dcrf.NO_NORMALIZATION,
    "BEFORE": dcrf.NORMALIZE_BEFORE,
    "AFTER": dcrf.NORMALIZE_AFTER,
    "SYMMETRIC": dcrf.NORMALIZE_SYMMETRIC,
}
KINDS = ("potts", "diag", "matrix")


def flat(case: Case) -> np.ndarray:
    """(C, points)."""
    return case.energies.reshape(len(case.energies), -1)


def kl_and_q(crf: dcrf.DenseCRF, steps: int) -> tuple[np.ndarray, np.ndarray]:
    q, tmp1, tmp2 = crf.startInference()
    kl = [crf.klDivergence(q)]
    for _ in range(steps):
        crf.stepInference(q, tmp1, tmp2)
        kl.append(crf.klDivergence(q))
    assert np.array_equal(np.array(q), np.array(crf.inference(steps)))
    return np.array(kl), np.array(q)


@pytest.mark.parametrize("kernel", [dcrf.CONST_KERNEL, dcrf.DIAG_KERNEL, dcrf.FULL_KERNEL])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [n for n in names("pyd_") if n[4] in "ab"])
@pytest.mark.sampled(12)
def test_every_normalization_and_compatibility(name, norm, kind, kernel):
    case = Case(name)
    height, width = case.rgb.shape[:2]
    crf = dcrf.DenseCRF2D(width, height, len(case.energies))
    crf.setUnaryEnergy(flat(case))
    weights = [float(w) for w in case[f"w_{norm}"]]
    scale = np.float32(1 / 64 if norm == "NO" else 1)
    compats = {
        "potts": weights,
        "diag": [case["compat_diag"] * scale] * 2,
        "matrix": [case["compat_matrix"] * scale] * 2,
    }[kind]
    options = {"kernel": kernel, "normalization": NORMS[norm]}
    sxy, srgb = (tuple(case[key].tolist()) for key in ("sxy_bilateral", "srgb"))
    crf.addPairwiseGaussian(sxy=tuple(case["sxy_gaussian"].tolist()), compat=compats[0], **options)
    crf.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=case.rgb, compat=compats[1], **options)
    kl, q = kl_and_q(crf, int(case["iterations"]))
    case.check(q, f"Q_{norm}_{kind}_at")
    assert np.allclose(kl, case[f"kl_{norm}_DIAG_{kind}"], rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in names("pyd_") if n[4] in "cd"])
def test_a_script_with_its_import_changed(name):
    """As such scripts are: defaults, numbers for stds, argmax of what inference gives."""
    case = Case(name)
    image, unary = case.rgb, flat(case)

    d = dcrf.DenseCRF2D(image.shape[1], image.shape[0], unary.shape[0])
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=float(case["sxy_gaussian"]), compat=float(case["w_gaussian"]))
    d.addPairwiseBilateral(
        sxy=float(case["sxy_bilateral"]),
        srgb=float(case["srgb"]),
        rgbim=image,
        compat=float(case["w_bilateral"]),
    )
    Q = d.inference(int(case["iterations"]))
    MAP = np.argmax(Q, axis=0).reshape(image.shape[:2])

    case.check(np.array(Q), "Q_final_at")
    case.check_labels(MAP)
    kl, q = kl_and_q(d, int(case["iterations"]))
    assert np.array_equal(q, np.array(Q))
    assert np.allclose(kl, case["kl"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ["SYMMETRIC", "AFTER", "BEFORE"])
def test_volumes(norm):
    case = Case("pyd_e_3d_10x20x16_c3")
    volume = case["volume"]
    gaussian = utils.create_pairwise_gaussian(case["sdims_gaussian"], volume.shape[:3])
    bilateral = utils.create_pairwise_bilateral(
        case["sdims_bilateral"], case["schan"], volume, chdim=3
    )
    for features, key in ((gaussian, "features_g_at"), (bilateral, "features_b_at")):
        assert features.dtype == np.float32
        assert np.array_equal(features.T[case["pixels"]], case[key])
    crf = dcrf.DenseCRF(gaussian.shape[1], len(case.energies))
    crf.setUnary(dcrf.ConstUnary(flat(case)))
    for features, weight in zip((gaussian, bilateral), case["w"], strict=True):
        crf.addPairwiseEnergy(features, compat=weight, normalization=NORMS[norm])
    kl, q = kl_and_q(crf, int(case["iterations"]))
    case.check(q, f"Q_{norm}_at")
    assert np.allclose(kl, case[f"kl_{norm}"], rtol=1e-5, atol=0)


def test_points_of_any_kind():
    case = Case("pyd_f_generic_n401_d4_c7")
    crf = dcrf.DenseCRF(401, 7)
    crf.setUnaryEnergy(case["L"], case["f"])
    crf.addPairwiseEnergy(case["features"], compat=float(case["w"]))
    kl, q = kl_and_q(crf, int(case["iterations"]))
    assert np.abs(q - case["Q_final"]).mean() < 1e-5
    assert (np.abs(q - case["Q_final"]).max(0) > 1e-3).sum() <= 1
    assert np.allclose(kl, case["kl"], rtol=1e-5, atol=0)


def test_no_label_is_cut_off():
    """Unlike the 2011 program's, pydensecrf's exp is not 0 below -20."""
    crf = dcrf.DenseCRF(1, 2)
    crf.setUnaryEnergy(np.array([[0], [30]], np.float32))
    for q in (crf.inference(0), crf.inference(2), crf.startInference()[0]):
        assert np.array(q)[1, 0] == pytest.approx(np.exp(-30), rel=1e-5, abs=0)


def test_start_without_energies():
    crf = dcrf.DenseCRF(3, 2)
    assert (np.array(crf.startInference()[0]) == 0).all()
    assert (np.array(crf.inference(0)) == 0.5).all()


def test_a_step_changes_q_in_place():
    case = Case("pyd_b_47x31_c2_aniso")
    crf = dcrf.DenseCRF2D(47, 31, 2)
    crf.setUnaryEnergy(flat(case))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    q, tmp1, tmp2 = crf.startInference()
    shared, copied = np.asarray(q), np.array(q)
    view = memoryview(q)
    assert (view.shape, view.format, view.readonly) == ((2, 47 * 31), "f", False)
    before = copied.copy()
    crf.stepInference(q, tmp1, tmp2)
    assert np.array_equal(shared, np.array(crf.inference(1)))
    assert np.array_equal(view, shared)
    assert np.array_equal(copied, before)
    assert not np.array_equal(shared, before)
    assert np.array(tmp1).shape == memoryview(tmp2).shape == (0, 0)
    assert np.array(q, np.float64).dtype == np.float64
    energies = flat(case)
    crf.setUnaryEnergy(energies)
    energies[:] = 0  # the class keeps a copy
    assert np.array_equal(np.array(crf.startInference()[0]), before)


def test_utils(caplog):
    case = Case("pyd_f_generic_n401_d4_c7")
    labels, softmax = case["util_labels"], case["util_softmax"]
    made = {
        "from_labels_zero_unsure": utils.unary_from_labels(labels, 7, 0.7),
        "from_labels_plain": utils.unary_from_labels(
            np.minimum(labels, 6), 7, 0.7, zero_unsure=False
        ),
        "from_softmax_default": utils.unary_from_softmax(softmax),
        "from_softmax_scale08_clip1e3": utils.unary_from_softmax(softmax, scale=0.8, clip=1e-3),
    }
    for name, unary in made.items():
        assert unary.dtype == np.float32
        assert np.array_equal(unary, case[f"util_unary_{name}"]), name
    assert np.array_equal(utils.compute_unary(labels, 7), utils.unary_from_labels(labels, 7, 0.5))
    plain = utils.unary_from_softmax(softmax, clip=None)
    assert np.array_equal(utils.softmax_to_unary(softmax), plain)
    assert len(caplog.messages) == 2
    with pytest.raises(AssertionError):
        utils.unary_from_labels(labels, 7, 1.0)
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert utils.create_pairwise_bilateral((1, 2), 2, grey).tolist() == [
        [0, 0, 0, 1, 1, 1],
        [0, 0.5, 1, 0, 0.5, 1],
        [0, 0.5, 1, 1.5, 2, 2.5],
    ]


def test_lists_as_compat():
    case = Case("pyd_b_47x31_c2_aniso")

    def marginals(compat):
        crf = dcrf.DenseCRF2D(47, 31, 2)
        crf.setUnaryEnergy(flat(case))
        crf.addPairwiseGaussian(sxy=3, compat=compat)
        return np.array(crf.inference(2))

    for compat in ([-2.0, -3], [[-2, 0.5], [0, -3]]):
        assert np.array_equal(marginals(compat), marginals(np.array(compat, np.float32)))
    with pytest.raises(ValueError, match="compat has rows of different lengths"):
        marginals([[1.0, 2.0], [3.0]])


def test_eigen():
    """Copies in, shared memory out, and the refusals of pydensecrf."""
    vector, matrix = np.arange(3, dtype=np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    for make, kind, values in (
        (eigen.vectorXf, eigen.VectorXf, vector),
        (eigen.matrixXf, eigen.MatrixXf, matrix),
    ):
        made = make(values)
        assert isinstance(made, kind)
        assert np.array_equal(np.array(made), values)
        np.asarray(memoryview(made))[...] = 7
        assert (np.asarray(made) == 7).all()
        assert not (values == 7).any()
        with pytest.raises(TypeError, match="must not be None"):
            make(None)
        with pytest.raises(ValueError, match="expected float32 but got float64"):
            make(values.astype(np.float64))
        with pytest.raises(ValueError, match="wrong number of dimensions"):
            make(values[None])
    assert eigen.MatrixXf().shape == (0, 0)
    assert eigen.VectorXf().shape == (0,)
    crf = dcrf.DenseCRF(3, 2)
    assert isinstance(crf.inference(1), eigen.MatrixXf)
    assert dcrf.MatrixXf is eigen.MatrixXf
