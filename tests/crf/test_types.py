"""What a type checker sees of the CRF's public functions."""

from __future__ import annotations

import pytest

CALLS = """
import torch
from typing_extensions import assert_type

from deeplab_repro.crf import CRFParams, DenseCRF, Energies, dense_crf, dense_crf_features

unary, image, flag = torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 3, 4), bool(input())
assert_type(dense_crf(unary, image), torch.Tensor)
assert_type(dense_crf(unary, image, output="labels", compatibility=1.0), torch.Tensor)
assert_type(dense_crf(unary, image, compatibility=[-1, -2.0]), torch.Tensor)
assert_type(dense_crf(unary, image, compatibility=[None, [[0.0, 1.0], [1.0, 0.0]]]), torch.Tensor)
assert_type(dense_crf(unary, image, energies=True), tuple[torch.Tensor, Energies])
assert_type(
    dense_crf(unary, image, energies=flag), torch.Tensor | tuple[torch.Tensor, Energies]
)
features = [torch.zeros(2, 3, 4)]
assert_type(dense_crf_features(unary, features, [1.0]), torch.Tensor)
assert_type(
    dense_crf_features(unary, features, [1.0], energies=True), tuple[torch.Tensor, Energies]
)
assert_type(DenseCRF(CRFParams(), 1.5)(unary, image), torch.Tensor)
assert_type(DenseCRF().forward(unary, image, "log"), torch.Tensor)
"""


@pytest.mark.slow
def test_mypy_sees_tensors(pytestconfig, tmp_path):
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    kept = getattr(pytestconfig, "cache", None)  # None under -p no:cacheprovider
    known = kept.mkdir("mypy") if kept else tmp_path  # what mypy knows of torch since the last run
    out, error, code = api.run([str(file), "--follow-imports=silent", f"--cache-dir={known}"])
    assert code == 0, out + error
