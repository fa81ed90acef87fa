"""Each op on a GPU, by the compiled library and by CuPy: on other streams, in graphs, as a CRF."""

import os
import subprocess
import sys

import pytest
import torch

from deeplab_repro.native import build
from tests.ops.lattice_cases import random_features

pytestmark = pytest.mark.cuda

RATE = [3, 3]
HOW = ([1, 1], RATE, RATE, 1)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).cuda()


def lattice(on_gpu) -> list[torch.Tensor]:
    return list(on_gpu("permutohedral_build")(random_features((2, 900, 5, 3.0)).cuda(), True))


def convolution(on_gpu, precision):
    op, weight = on_gpu("atrous_conv2d_direct"), random(40, 70, 3, 3)
    return random(2, 70, 17, 19), lambda x: op(x, weight, None, *HOW, precision, True)


def grad_input(on_gpu):
    op, weight = on_gpu("atrous_conv2d_direct_grad_input"), random(40, 70, 3, 3)
    return random(2, 40, 17, 19), lambda grad: op(grad, weight, [17, 19], *HOW, "fp32")


def grad_weight(on_gpu):
    op, x = on_gpu("atrous_conv2d_direct_grad_weight"), random(2, 70, 17, 19)
    return random(2, 40, 17, 19), lambda grad: op(grad, x, [3, 3], *HOW, "fp32")


def columns(on_gpu):
    op = on_gpu("atrous_im2col")
    return random(2, 7, 17, 19), lambda x: op(x, [3, 3], [1, 1], RATE, RATE)


def affine(on_gpu):
    op, scale = on_gpu("channel_affine"), random(70)
    return random(2, 70, 17, 19), lambda x: op(x, scale, None)


def filtered(on_gpu):
    op, given = on_gpu("permutohedral_filter"), lattice(on_gpu)
    return random(2, 900, 21), lambda values: op(values, *given, False)


def mean_field(on_gpu):
    op, given = on_gpu("mean_field"), lattice(on_gpu)
    weights, potts = torch.ones(1).cuda(), torch.empty(0).cuda()
    rest = (given, weights, [potts], [1], 0.5, 5, False)
    return random(2, 21, 900), lambda unary: op(unary, None, *rest)


def built(on_gpu):
    op = on_gpu("permutohedral_build")
    return random_features((2, 900, 5, 3.0)).cuda(), lambda features: op(features, True)[1]


#: on_gpu -> (input, call): what is computed of an input on the GPU.
CALLS = {
    "convolution": lambda on_gpu: convolution(on_gpu, "fp32"),
    "convolution bf16": lambda on_gpu: convolution(on_gpu, "bf16"),
    "grad_input": grad_input,
    "grad_weight": grad_weight,
    "columns": columns,
    "affine": affine,
    "filter": filtered,
    "mean_field": mean_field,
}


@pytest.mark.parametrize("name", [*CALLS, "build"])
def test_on_another_stream(on_gpu, name):
    given, call = {**CALLS, "build": built}[name](on_gpu)
    expected = call(given)
    late = torch.zeros_like(given)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # on the default stream a kernel would read zeros
        late.copy_(given)
        got = call(late)
    stream.synchronize()
    assert got.equal(expected)
    assert not got.equal(call(torch.zeros_like(given)))


@pytest.mark.parametrize("name", CALLS)
def test_in_a_graph(on_gpu, name):
    given, call = CALLS[name](on_gpu)
    values = given.clone()
    first = call(given)  # compiles what is compiled at the first call, which no graph may hold
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(given)
    for factor in (1, -0.5):
        given.copy_(values * factor)
        graph.replay()
        torch.cuda.synchronize()
        assert captured.equal(call(given))
        assert captured.equal(first) == (factor == 1)


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CRF = """
import torch
from deeplab_repro.crf import CRFParams, dense_crf
torch.manual_seed(0)
unary = torch.randn(2, 21, 60, 80)
image = torch.randint(0, 256, (2, 3, 60, 80), dtype=torch.uint8)
params = CRFParams(5, 3, 3, 4, 30, 20)
for options in ({}, {"normalization": "symmetric", "padding_points": True}):
    ours = dense_crf(unary.cuda(), image.cuda(), params, **options)
    print(float((ours.cpu() - dense_crf(unary, image, params, **options)).abs().mean()))
"""


def test_dense_crf(request, on_gpu):
    """The whole call, in a process that has this backend and the torch reference."""
    backends = f"{request.node.callspec.params['on_gpu']},torch"
    differences = run(CRF, DEEPLAB_REPRO_BACKENDS=backends, DEEPLAB_REPRO_STRICT="1").split()
    assert len(differences) == 2
    assert max(map(float, differences)) < 1e-5


PTX = """
import sys, torch
from pathlib import Path
from deeplab_repro.native import build
library = next(p for p in build.build(Path(sys.argv[1])) if "cuda" in p.name)
from deeplab_repro.ops import atrous_conv2d  # with no backend but the one that is loaded here
torch.ops.load_library(library)
x, weight = torch.randn(1, 40, 13, 13).cuda(), torch.randn(70, 40, 3, 3).cuda()
for precision in ("fp32", "tf32", "bf16", "fp16"):
    y = atrous_conv2d(x, weight, padding=4, rate=4, precision=precision, algorithm="direct")
    exact = torch.nn.functional.conv2d(x.double(), weight.double(), padding=4, dilation=4)
    print(float((y - exact).norm() / exact.norm()))
"""


@pytest.mark.slow
def test_ptx_of_an_old_architecture_multiplies_without_tensor_cores(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if build.find_tools().nvcc is None:
        pytest.skip("no nvcc")
    differences = run(
        PTX.replace("sys.argv[1]", repr(str(tmp_path))),
        TORCH_CUDA_ARCH_LIST="7.5+PTX",
        DEEPLAB_REPRO_BUILD="cuda",
        DEEPLAB_REPRO_BACKENDS="cpu,torch",
        DEEPLAB_REPRO_STRICT="0",
    ).split()
    assert len(differences) == 4
    # Without tensor cores every precision is float32's own.
    assert max(map(float, differences)) < 1e-6
