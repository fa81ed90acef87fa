"""The DeepLab networks as tables, and as Caffe's prototxt text that is written from these.

The way of a network, file by file:

    vgg16, resnet101    tables: stages, heads, names of layers, as in the papers and released files
    architectures       what such a table is, and the steps that it stands for
    blocks              what backbones and heads are made of: a new kind is one class
    walk                the atrous rule: from strides and output stride to the rates
    steps               the list that comes out: every layer with its numbers worked out
    graph, v1_format    Caffe's layers for the steps, in two formats
    catalogue           all networks by name, with what the papers state about them

>>> from deeplab_repro.models import NETWORKS, write_network
>>> text = write_network("aspp-l", phase="TRAIN", num_labels=60)
"""

from deeplab_repro.models.catalogue import FORMATS, NETWORKS, PHASES, Network
from deeplab_repro.models.write import write_network

__all__ = ["FORMATS", "NETWORKS", "PHASES", "Network", "write_network"]
