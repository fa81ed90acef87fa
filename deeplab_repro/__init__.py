"""DeepLab as the original Caffe and TensorFlow programs computed it, in PyTorch.

>>> from deeplab_repro import load_caffe
>>> net = load_caffe("deploy.prototxt", "train_iter_20000.caffemodel")
>>> scores = net(data=picture)["fc8_interp"]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplab_repro.autotuning import autotune
    from deeplab_repro.caffe.net import CaffeNet, load_caffe
    from deeplab_repro.errors import BadInput, InputError
    from deeplab_repro.native.backends import backends
    from prototxt_import import CaffeImportError

__all__ = [
    "BadInput",
    "CaffeImportError",
    "CaffeNet",
    "InputError",
    "autotune",
    "backends",
    "load_caffe",
]
__version__ = "0.1.0"

# Looked up at first use: the command line starts without waiting for torch.
_HOMES = {
    "BadInput": "prototxt_import",
    "CaffeImportError": "prototxt_import",
    "CaffeNet": "deeplab_repro.caffe.net",
    "InputError": "deeplab_repro.errors",
    "autotune": "deeplab_repro.autotuning",
    "backends": "deeplab_repro.native.backends",
    "load_caffe": "deeplab_repro.caffe.net",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
