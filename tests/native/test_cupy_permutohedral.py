"""CuPy's glue of the lattice and mean field, with the host harness in the GPU's place."""

import re

import numpy as np
import pytest
import torch

from deeplab_repro.native import build, cupy_backend
from deeplab_repro.native.cupy_backend import permutohedral, runtime
from deeplab_repro.ops import Lattice, reference
from tests.native.test_cupy_source import compile_with_nvrtc
from tests.ops.lattice_cases import random_features, random_lattice
from tests.ops.test_mean_field import assert_marginals, by_reference, compatibilities, problem
from tests.ops.test_permutohedral import assert_filtered, values_for


@pytest.fixture
def fake_gpu(monkeypatch, on_host):
    """runtime.launch by name on the harness: same names, grids and arguments."""
    library = on_host("cupy_lattice")

    def launch(kernel_file, names, name, device, blocks, threads, args):
        assert name in names
        assert not any(type(a) in (int, float) for a in args)  # of which size?
        values = [np.ascontiguousarray(as_value(a)) for a in args]
        pointers = np.array([v.ctypes.data for v in values], np.uint64)
        library.call("run_kernel", np.frombuffer(name.encode() + b"\0", np.uint8), blocks, *threads,
                     pointers)  # fmt: skip

    def as_value(argument):
        if argument is None or isinstance(argument, torch.Tensor):
            return np.uint64(0 if argument is None else argument.data_ptr())
        return argument

    monkeypatch.setattr(runtime, "launch", launch)
    return library


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 37, 5, 2.0), (1, 150, 2, 3.0), (1, 21, 3, 2.0)], ids=str)
@pytest.mark.sampled(2)
def test_build_and_filter(fake_gpu, shape, dtype):
    features = random_features(shape, dtype)
    lattice = Lattice(*cupy_backend.KERNELS["permutohedral_build"](features, True))
    expected = Lattice(*reference.permutohedral_build(features, True))
    for name, ours, theirs in zip(Lattice._fields, lattice, expected, strict=True):
        assert ours.equal(theirs), name
    values = values_for(lattice, 3)
    for reverse in (False, True):
        got = cupy_backend.KERNELS["permutohedral_filter"](values, *lattice, reverse)
        assert_filtered(got, reference.permutohedral_filter(values, *lattice, reverse), dtype)
        grad = values.flip(1)
        got = cupy_backend.KERNELS["permutohedral_grad_weight"](grad, values, *lattice, reverse)
        expected = reference.permutohedral_grad_weight(grad, values, *lattice, reverse)
        assert_filtered(got, expected, dtype)


def test_sort_of_several_tiles_and_passes(fake_gpu):
    features = random_features((1, 700, 5, 3.0))
    got = cupy_backend.KERNELS["permutohedral_build"](features, False)
    expected = reference.permutohedral_build(features)
    assert all(a.equal(b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("codes", [[0, 1], [2, 3], [3, 1]])
@pytest.mark.parametrize("relaxation", [1.0, 0.6])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.sampled(3)
def test_mean_field(fake_gpu, codes, relaxation, given):
    unary, lattices, weights = problem((2, 19, 5, 2.0), 6)
    weights = weights / 8
    initial = torch.softmax(unary.flip(1), 1) if given else None
    kinds = compatibilities(6)
    for mus in ([None, kinds["diagonal"]], [kinds["matrix"], None]):
        got = cupy_backend.KERNELS["mean_field"](
            unary, initial, [t for lattice in lattices for t in lattice], weights,
            [torch.empty(0) if mu is None else mu for mu in mus], codes, relaxation, 3, True,
        )  # fmt: skip
        norms = [("none", "after", "before", "symmetric")[code] for code in codes]
        expected = by_reference(unary, lattices, weights, mus, norms, relaxation=relaxation,
                                iterations=3, initial=initial, expnorm="exact")  # fmt: skip
        assert_marginals(got, expected)


def test_empty_input(fake_gpu):
    for shape in ((2, 0, 5, 1.0), (0, 3, 2, 1.0)):
        features = random_features(shape)
        got = cupy_backend.KERNELS["permutohedral_build"](features, True)
        expected = reference.permutohedral_build(features, True)
        assert all(a.equal(b) for a, b in zip(got, expected, strict=True))
        lattice = random_lattice(shape)
        values = values_for(lattice, 2)
        assert cupy_backend.KERNELS["permutohedral_filter"](values, *lattice, False).equal(values)


def test_layouts_and_constants_are_those_of_the_kernels(fake_gpu):
    sizes = np.zeros(4, np.int64)
    fake_gpu.call("update_layout", sizes)
    update, kernel = permutohedral._UPDATE, permutohedral._UPDATE_KERNEL
    assert sizes.tolist() == [
        update.itemsize, kernel.itemsize, update.fields["marginals"][1],
        kernel.fields["compatibility"][1],
    ]  # fmt: skip

    def constant(file: str, name: str) -> int:
        text = (build.source_dir() / file).read_text()
        return int(re.search(rf"constexpr \w+ {name} = (\w+(?:\.\d+)?);", text)[1], 0)

    for file, names in {
        "permutohedral/device_launch.cuh": {"kLatticeThreads": "THREADS"},
        "permutohedral/build_kernels.cuh": {"kFreeSlot": "FREE_SLOT"},
        "permutohedral/geometry.h": {"kPieceEntries": "PIECE_ENTRIES", "kQuad": "QUAD"},
        "permutohedral/sort_kernels.cuh": {
            "kSortThreads": "SORT_THREADS",
            "kSortBits": "SORT_BITS",
        },
        "mean_field/mean_field_kernels.cuh": {"kMaxKernels": "MAX_KERNELS"},
        "mean_field/mean_field_launch.cuh": {"kMeanFieldThreads": "THREADS"},
    }.items():
        for theirs, ours in names.items():
            assert constant(file, theirs) == getattr(permutohedral, ours), theirs
    items = constant("permutohedral/sort_kernels.cuh", "kSortItems")
    assert items * permutohedral.SORT_THREADS == permutohedral.SORT_TILE


def test_lanes_and_held_quads_are_those_of_the_launcher():
    text = (build.source_dir() / "mean_field/mean_field_launch.cuh").read_text()
    runs = re.findall(
        r"(?:quads <= (\d+)\) )?return run\(update_kernel<(\d+), (\d+)>, (\d+)\)", text
    )
    theirs = [(float(most or "inf"), int(lanes), int(held)) for most, lanes, held, _ in runs]
    assert theirs == list(permutohedral.UPDATES)
    assert all(lanes == threads for _, lanes, _, threads in runs)


@pytest.mark.parametrize("file", permutohedral.NAMES)
def test_nvrtc_compiles_all_that_cupy_is_given(file):
    assert "#include" not in runtime.assemble(file)
    compile_with_nvrtc(file, permutohedral.NAMES[file], "compute_75")
