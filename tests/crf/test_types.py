"""What a type checker sees of the CRF's public functions."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
def test_mypy_sees_tensors(tmp_path):
    """With the options and the cache of `make lint`, or else mypy would read all of torch again."""
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    where = (f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache'}")
    out, error, code = api.run([str(file), *where])
    assert code == 0, out + error
