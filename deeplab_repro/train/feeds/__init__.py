"""What the data layers of a network give, batch by batch, and what its writers take.

>>> net = load_caffe("train.prototxt", phase="TRAIN")
>>> with Feeds(net.net.data_layers, seed=1, workers=2) as feeds:
...     blobs = net(**feeds.next())
"""

from deeplab_repro.train.feeds.feeds import Feeds
from deeplab_repro.train.feeds.sinks import Sinks

__all__ = ["Feeds", "Sinks"]
