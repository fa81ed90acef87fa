"""The models that were released: what they score, where their files are, and getting them.

The modules::

    models      what is known of a released model
    manifest    weights/manifest.json, read: models, scores, addresses
    fields      its JSON objects, read by type
    structure   which layers and shapes a model's weights have, from its network
    checkpoints the same of TensorFlow's checkpoints, and reading them
    download    one file from the first of several addresses that gives it
    archive     zip and tar, taken apart safely
    convert     a caffemodel or checkpoint to safetensors with the network inside
    store       where all this is kept, and the sums of what came
    acquire     all of this together: fetching, and adding what is already here
    identify    which model a file holds
    lookup      models by name

>>> from deeplab_repro.released import find
>>> model = find("deeplab_v2_resnet101")
>>> model.network, model.published["miou"], model.trained_on
('resnet101-msc-aspp', 76.35, 'train_aug')
>>> weights = model.file()  # where `deeplab-repro weights fetch` has put them
"""

from deeplab_repro.released.lookup import find, find_weights, names, resolve
from deeplab_repro.released.manifest import Manifest, read_manifest
from deeplab_repro.released.models import ReleasedModel, WeightsFile

__all__ = [
    "Manifest",
    "ReleasedModel",
    "WeightsFile",
    "find",
    "find_weights",
    "names",
    "read_manifest",
    "resolve",
]
