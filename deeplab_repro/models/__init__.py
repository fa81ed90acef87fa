"""The DeepLab networks as Caffe's prototxt text, written from the papers and released files.

>>> from deeplab_repro.models import NETWORKS, write_network
>>> text = write_network("aspp-l", phase="TRAIN", num_labels=60)
"""

from deeplab_repro.models.catalogue import FORMATS, NETWORKS, PHASES, Network, write_network

__all__ = ["FORMATS", "NETWORKS", "PHASES", "Network", "write_network"]
