"""Networks of the original TensorFlow program, with its options and its variables.

>>> from deeplab_repro import tensorflow
>>> net = tensorflow.load({"model_variant": "mobilenet_v2"}, "model.ckpt-30000")
>>> labels, probabilities = net.predict(picture)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tensorflow_import import read_variables, write_checkpoint

if TYPE_CHECKING:
    from deeplab_repro.tensorflow.inferring import infer_options
    from deeplab_repro.tensorflow.loading import load
    from deeplab_repro.tensorflow.prediction import evaluate_crops, predict_picture
    from deeplab_repro.tensorflow.preprocessing import preprocess
    from deeplab_repro.tensorflow.training import TrainingOptions, losses

__all__ = [
    "TrainingOptions",
    "evaluate_crops",
    "infer_options",
    "load",
    "losses",
    "predict_picture",
    "preprocess",
    "read_variables",
    "write_checkpoint",
]

# Looked up at first use: reading files needs no torch.
_HOMES = {
    "TrainingOptions": "training",
    "evaluate_crops": "prediction",
    "infer_options": "inferring",
    "load": "loading",
    "losses": "training",
    "predict_picture": "prediction",
    "preprocess": "preprocessing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
