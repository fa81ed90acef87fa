"""The DeepLab networks: as PyTorch modules, and those of Caffe as its prototxt, too.

`v3` holds DeepLab v3 and v3+, which were TensorFlow's.  DeepLab v1 and v2 are made from tables,
as modules and as prototxt alike.  Their way, file by file::

    vgg16, resnet101    tables: stages, heads, names of layers, as in the papers and released files
    architectures       what such a table is, and the steps that it stands for
    blocks              what backbones and heads are made of: a new kind is one class
    atrous              the atrous rule: from strides and output stride to the rates
    walk                along a table, with the rule
    steps               the list that comes out: every layer with its numbers worked out
    catalogue           all networks by name, with what the papers state about them
    schedules           how they were trained: what their solver prototxts say

From there to PyTorch::

    deeplab             the whole network: backbone, head, side branches, scales
    modules             what a block is as a module
    layers              the layers that torch does not have as Caffe computes them
    losses, learning    what training minimises, and how fast each parameter learns
    create              networks by name
    caffe_blobs         weights to and from Caffe's layers
    loading, identify     a network from a file of weights, and which network it is
    ports               the state dicts of other PyTorch ports

and to Caffe::

    graph, v1_format    Caffe's layers for the steps, in two formats
    prototxt, write     the text

>>> from deeplab_repro.models import create_model, list_models, write_network
>>> model = create_model("deeplab_v2_resnet101_msc", num_classes=21)
>>> text = write_network("aspp-l", phase="TRAIN", num_labels=60)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deeplab_repro.models.catalogue import FORMATS, NETWORKS, PHASES, Network
from deeplab_repro.models.v3.catalogue import NETWORKS_V3
from deeplab_repro.models.write import write_network, write_solver

if TYPE_CHECKING:
    from deeplab_repro.models.create import create_model, list_models
    from deeplab_repro.models.deeplab import DeepLab
    from deeplab_repro.models.learning import parameter_groups
    from deeplab_repro.models.loading import load
    from deeplab_repro.models.v3.network import DeepLabV3
    from deeplab_repro.models.v3.options import ModelOptions

__all__ = [
    "FORMATS",
    "NETWORKS",
    "NETWORKS_V3",
    "PHASES",
    "DeepLab",
    "DeepLabV3",
    "ModelOptions",
    "Network",
    "create_model",
    "list_models",
    "load",
    "parameter_groups",
    "write_network",
    "write_solver",
]

# Looked up at first use: the tables and prototxt need no torch.
_HOMES = {
    "DeepLab": "deeplab",
    "DeepLabV3": "v3.network",
    "ModelOptions": "v3.options",
    "create_model": "create",
    "list_models": "create",
    "load": "loading",
    "parameter_groups": "learning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
