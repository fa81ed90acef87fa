"""Other programs that run our own ONNX export of a network, on the CPU in float32."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

#: One run: the network's first output.
Run = Callable[[], torch.Tensor]


def with_onnxruntime(model: Path, x: torch.Tensor, threads: int) -> Run:
    """All optimizations, and sizes that are known beforehand."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    (data,) = onnx.load(model, load_external_data=False).graph.input
    for axis, size in zip(data.type.tensor_type.shape.dim, x.shape, strict=True):
        if axis.dim_param:
            options.add_free_dimension_override_by_name(axis.dim_param, size)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(model), options, providers=providers)
    inputs = {data.name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def with_openvino(model: Path, x: torch.Tensor, threads: int) -> Run:
    """Float32 where it might take 16 bits, for one picture at a time, of a known size."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape(list(x.shape))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    image = x.numpy()

    def run() -> torch.Tensor:
        request.infer([image])
        return torch.from_numpy(np.asarray(request.get_output_tensor(0).data))

    return run


class Runtime(NamedTuple):
    """A module to import, and what makes a run of a model at a number of threads."""

    module: str
    load: Callable[[Path, torch.Tensor, int], Run]


RUNTIMES = {
    "onnxruntime": Runtime("onnxruntime", with_onnxruntime),
    "OpenVINO": Runtime("openvino", with_openvino),
}


def version(name: str) -> str:
    """Of a runtime that is there."""
    return str(importlib.import_module(RUNTIMES[name].module).__version__)
