"""The lattice and mean field on every instruction set that this processor has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deeplab_repro.native.backends as native

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import torch
from deeplab_repro.ops import mean_field, permutohedral_build
from tests.ops.lattice_cases import random_features
lattices = [permutohedral_build(random_features((2, 3000, d, 4.0))) for d in (2, 3, 5)]
marginals = []
for classes in (2, 7, 21, 33):
    unary = torch.randn(2, classes, 3000, generator=torch.Generator().manual_seed(0)) * 4
    marginals.append(mean_field(unary, lattices, [1.0, 1.0, 2.0], normalization="symmetric"))
torch.save([[t for lattice in lattices for t in lattice], marginals], sys.argv[1])
"""


def run(isa: str, out: Path):
    environment = {
        **os.environ,
        "DEEPLAB_REPRO_CPU_ISA": isa,
        "DEEPLAB_REPRO_STRICT": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", SCRIPT, str(out)]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=300)
    return torch.load(out)


@pytest.mark.slow
@pytest.mark.skipif(not native.has_cpu(), reason="there is one reference for all processors")
def test_same_lattice_and_marginals_on_every_instruction_set(tmp_path):
    best = torch.ops.deeplab_repro.cpu_instruction_set()
    sets = ["baseline", "avx2", "avx512"][: 1 + ("baseline", "avx2", "avx512", "amx").index(best)]
    lattices, marginals = run("baseline", tmp_path / "baseline")
    for isa in sets[1:]:
        other_lattices, other_marginals = run(isa, tmp_path / isa)
        # Lattices bit by bit: nowhere may a multiplication and an addition be fused.
        assert all(a.equal(b) for a, b in zip(lattices, other_lattices, strict=True))
        for a, b in zip(marginals, other_marginals, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
