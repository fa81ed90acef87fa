"""A set of drawn pictures with exact labels, in VOC's layout: `deeplab-repro data synthesize`.

It stands in for VOC where a network is to be trained, tested and refined without any download: the
labels are right to the pixel, and legs, masts, stems and antennas are thinner than what a score map
at an eighth of the resolution can show.

>>> from deeplab_repro.data import voc
>>> from deeplab_repro.data.synthetic import synthesize
>>> synthesize("drawn", pictures=100)
>>> val = voc("drawn", "val")
"""

from deeplab_repro.data.synthetic.scenes import CLASSES, draw
from deeplab_repro.data.synthetic.write import synthesize

__all__ = ["CLASSES", "draw", "synthesize"]
