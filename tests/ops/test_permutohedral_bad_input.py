"""Bad input to the lattice and to mean field: one clear error each."""

import pytest
import torch

import deeplab_repro.native.backends as native
from deeplab_repro.ops import (
    Lattice,
    mean_field,
    permutohedral_build,
    permutohedral_filter,
    reference,
)
from tests.ops.lattice_cases import random_lattice

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

compiled = pytest.mark.skipif(not native.has_cpu(), reason="the checks of the compiled entry")

OPS = torch.ops.deeplab_repro
P = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("error", "message", "features"),
    [
        (TypeError, "features must be float32 or float64, got torch.float16", P.half()),
        (ValueError, r"features must have shape \(P, d\).*got \(4,\)", P[:, 0]),
        (ValueError, r"d in 1..16, got \(4, 17\)", torch.zeros(4, 17)),
        (ValueError, r"d in 1..16, got \(4, 0\)", torch.zeros(4, 0)),
        (ValueError, "features must be finite", P + torch.tensor([0.0, torch.nan])),
        (ValueError, "features must be finite", P - torch.inf),
        (ValueError, "lattice coordinates up to .*, 32767 is the limit", P + 20000),
        (ValueError, "lattice coordinates up to .*, 32767 is the limit", P - 20000),
        (ValueError, "2147483648 entries|2\\*\\*31", torch.zeros(1, 1).expand(2**30 + 1, 1)),
    ],
)
def test_build(error, message, features):
    with pytest.raises(error, match=message):
        permutohedral_build(features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_largest_coordinates_work(dtype):
    features = torch.tensor([[8700.0, 8700.0], [-8700.0, 8700.0], [-8700.0, -8700.0]], dtype=dtype)
    lattice = permutohedral_build(features)
    assert lattice.vertex.unique().numel() == 9
    expected = reference.permutohedral_build(features[None])
    assert all(a.equal(b) for a, b in zip(lattice, expected, strict=True))


@compiled
@pytest.mark.parametrize(
    ("message", "features"),
    [
        ("features must be float32 or float64, got Int", P[None].int()),
        (r"features must have shape \(B, P, d\)", P),
        ("features must be finite", P[None] + torch.nan),
        ("32767 is the limit", P[None] + 20000),
    ],
)
def test_compiled_build_checks_for_itself(message, features):
    with pytest.raises(RuntimeError, match=message):
        OPS.permutohedral_build(features, False)


L = random_lattice((2, 5, 2, 3.0))
V = torch.zeros(2, 5, 3)


@pytest.mark.parametrize(
    ("error", "message", "args"),
    [
        (ValueError, r"values must have shape \(2, 5, V\).*got \(2, 4, 3\)", (L, V[:, :4])),
        (ValueError, r"values must have shape \(2, 5, V\).*got \(5, 3\)", (L, V[0])),
        (ValueError, r"values must have shape \(2, 5, V\).*got \(5,\)", (L, V[0, :, 0])),
        (TypeError, "values must have the lattice's dtype torch.float32", (L, V.double())),
        (ValueError, "values must be on the lattice's device cpu, got meta", (L, V.to("meta"))),
        (ValueError, "normalization must be one of none, after, before, symmetric", (L, V, "no")),
    ],
)
def test_filter(error, message, args):
    with pytest.raises(error, match=message):
        permutohedral_filter(*args)


@compiled
@pytest.mark.parametrize(
    ("message", "field", "change"),
    [
        (r"vertex must have shape \(B, P, d\+1\)", "vertex", lambda t: t[0]),
        ("vertex must be int32, got Long", "vertex", lambda t: t.long()),
        ("weight must have the dtype of values", "weight", lambda t: t.double()),
        (r"weight must have shape \(2, 5, 3\), got \(2, 5, 2\)", "weight", lambda t: t[..., :2]),
        (r"neighbours must have shape \(d\+1, M, 2\)", "neighbours", lambda t: t[0]),
        (r"splat_start must have shape \(\d+\)", "splat_start", lambda t: t[1:]),
        (r"splat_entry must have shape \(30\)", "splat_entry", lambda t: t[1:]),
        ("not a lattice: a vertex is out of range", "vertex", lambda t: t + 1000),
        ("not a lattice: a vertex is out of range", "vertex", lambda t: t - 1),
        ("not a lattice: a neighbour is out of range", "neighbours", lambda t: t + 1000),
        ("not a lattice: a neighbour is out of range", "neighbours", lambda t: t - 2),
        ("not a lattice: the neighbours contradict", "neighbours", lambda t: t.clamp_min(0)),
        ("not a lattice: the neighbours contradict", "neighbours", lambda t: t.flip(1)),
    ],
)
def test_compiled_filter_checks_the_lattice(message, field, change):
    bad = L._replace(**{field: change(getattr(L, field))})
    with pytest.raises(RuntimeError, match=message):
        OPS.permutohedral_filter(V, *bad, False)


U = torch.zeros(2, 3, 5)


@pytest.mark.parametrize(
    ("error", "message", "args", "options"),
    [
        (TypeError, "unary must be float32 or float64", (U.half(), [L], [1.0]), {}),
        (ValueError, r"unary must have shape \(B, C, P\).*got \(3, 5\)", (U[0], [L], [1.0]), {}),
        (ValueError, "at least one label", (U[:, :0], [L], [1.0]), {}),
        (ValueError, r"a lattice has \(B, P\) = \(2, 5\)", (U[..., :4], [L], [1.0]), {}),
        (TypeError, "a lattice must have unary's dtype", (U.double(), [L], [1.0]), {}),
        (ValueError, "a lattice must be on unary's device", (U.to("meta"), [L], [1.0]), {}),
        (ValueError, "weights must have one entry for each of 1", (U, [L], [1.0, 2.0]), {}),
        (ValueError, "compatibility must have one entry", (U, [L], [1.0], []), {}),
        (ValueError, r"compatibility must be None, \(3,\) or \(3, 3\), got \(2,\)",
         (U, [L], [1.0], [torch.zeros(2)]), {}),
        (TypeError, "compatibility must have unary's dtype",
         (U, [L], [1.0], [torch.zeros(3).double()]), {}),
        (ValueError, "normalization must have one entry", (U, [L], [1.0]), {"normalization": []}),
        (ValueError, "normalization must be one of", (U, [L], [1.0]), {"normalization": "x"}),
        (ValueError, "expnorm must be one of deeplab, exact", (U, [L], [1.0]), {"expnorm": "x"}),
        (ValueError, "iterations must not be negative", (U, [L], [1.0]), {"iterations": -1}),
        (ValueError, "relaxation must be in 0..1", (U, [L], [1.0]), {"relaxation": 1.5}),
        (ValueError, r"initial must have unary's shape", (U, [L], [1.0]), {"initial": U[:1]}),
        (TypeError, "initial must have unary's dtype", (U, [L], [1.0]), {"initial": U.double()}),
    ],
)  # fmt: skip
def test_mean_field(error, message, args, options):
    with pytest.raises(error, match=message):
        mean_field(*args, **options)


@compiled
@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("unary must be float32, got Double", {0: U.double()}),
        ("five lattice tensors", {2: list(L[:4])}),
        ("at least one kernel", {2: [], 3: torch.zeros(0), 4: [], 5: []}),
        (r"weights must have shape \(1\)", {3: torch.zeros(2)}),
        (r"compatibility must have shape \(3, 3\)", {4: [torch.zeros(3, 2)]}),
        ("normalization must be in 0..3", {5: [4]}),
        ("initial must have the shape of unary", {1: U[:1]}),
        (r"a lattice has \(B, P\) = \(2, 5\)", {0: U[..., :4].contiguous()}),
    ],
)
def test_compiled_mean_field_checks_for_itself(message, changes):
    args = [U, None, list(L), torch.ones(1), [torch.empty(0)], [1], 1.0, 2, False]
    for place, value in changes.items():
        args[place] = value
    with pytest.raises(RuntimeError, match=message):
        OPS.mean_field(*args)


def test_lattice_is_five_tensors():
    assert isinstance(L, Lattice)
    assert all(isinstance(t, torch.Tensor) for t in L)
