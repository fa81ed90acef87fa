"""Parameters as text that can be pasted elsewhere and gives the same result there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from deeplab_repro.crf import CRFParams

__all__ = ["command_line", "params_code", "pydensecrf_code"]

_FIELDS: Final = ("iterations", "pos_w", "pos_xy_std", "bi_w", "bi_xy_std", "bi_rgb_std")


def params_code(params: CRFParams) -> str:
    """Python code that makes the parameters, which have one number for each std."""
    values = ", ".join(f"{name}={_number(getattr(params, name))}" for name in _FIELDS)
    return f"from deeplab_repro.crf import CRFParams\n\nparams = CRFParams({values})\n"


def command_line(params: CRFParams, image: str, scores: str, options: Sequence[str] = ()) -> str:
    """A command for a shell that refines the same scores.

    Args:
        params: with one number for each std.
        image, scores: files.
        options: further arguments of ``crf`` that say how the scores are read.
    """
    values = [
        part
        for name in _FIELDS
        for part in (f"--{name.replace('_', '-')}", _number(getattr(params, name)))
    ]
    files = ["--image", image, "--scores", scores]
    words = ["deeplab-repro", "crf", *files, *options, *values, "-o", "refined"]
    return shlex.join(words) + "\n"


def pydensecrf_code(params: CRFParams, *, probabilities: bool = False, crop: bool = False) -> str:
    """Python code for pydensecrf, which divides by the kernels' sums as DeepLab does.

    Args:
        params: with one number for each std.
        probabilities: the scores are probabilities, after a softmax.
        crop: the scores are those of a picture padded right and below.
    """
    energies = "-np.log(np.maximum(scores, np.finfo(np.float32).tiny))"
    lines = [
        "import numpy as np",
        "import pydensecrf.densecrf as dcrf",
        "",
        "",
        "def refine(scores, image):",
        f'    """Labels (H, W) from {"probabilities" if probabilities else "scores"} (C, H, W) and'
        ' an image (H, W, 3) uint8."""',
        "    height, width = image.shape[:2]",
        *(["    scores = scores[:, :height, :width]"] if crop else []),
        f"    energies = {energies if probabilities else '-scores'}",
        "    energies = np.ascontiguousarray(energies.reshape(len(scores), -1), np.float32)",
        "    crf = dcrf.DenseCRF2D(width, height, len(scores))",
        "    crf.setUnaryEnergy(energies)",
    ]
    if params.pos_w:
        lines += [
            f"    crf.addPairwiseGaussian(sxy={_number(params.pos_xy_std)},"
            f" compat={_number(params.pos_w)},",
            "                            normalization=dcrf.NORMALIZE_AFTER)",
        ]
    if params.bi_w:
        lines += [
            f"    crf.addPairwiseBilateral(sxy={_number(params.bi_xy_std)},"
            f" srgb={_number(params.bi_rgb_std)}, compat={_number(params.bi_w)},",
            "                             rgbim=np.ascontiguousarray(image),",
            "                             normalization=dcrf.NORMALIZE_AFTER)",
        ]
    lines += [
        f"    marginals = np.array(crf.inference({params.iterations}))",
        "    return marginals.argmax(0).reshape(height, width)",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float | tuple[float, ...]) -> str:
    """All digits that count, and no more."""
    return repr(value).removesuffix(".0")
