"""How well predictions match labels: confusion matrix, mean IoU, trimap curves, reports."""

from deeplab_repro.evaluation.confusion import Confusion
from deeplab_repro.evaluation.evaluate import Evaluation, Pair, PictureScore, evaluate
from deeplab_repro.evaluation.seen import warn_if_seen, was_seen
from deeplab_repro.evaluation.trimap import Trimap

__all__ = [
    "Confusion",
    "Evaluation",
    "Pair",
    "PictureScore",
    "Trimap",
    "evaluate",
    "warn_if_seen",
    "was_seen",
]
