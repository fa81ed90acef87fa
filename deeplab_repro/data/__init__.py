"""Pictures and their labels: PASCAL VOC 2012 with SBD, and any folder with a list file."""

from deeplab_repro.data.datasets import Dataset, Sample, read_list, voc, voc_folder
from deeplab_repro.data.labels import read_label

__all__ = ["Dataset", "Sample", "read_label", "read_list", "voc", "voc_folder"]
