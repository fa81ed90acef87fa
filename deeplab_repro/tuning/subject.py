"""What is tuned: one picture with its scores, and how a result of it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplab_repro.pages import png_address
from deeplab_repro.pictures.overlay import draw_borders, draw_labels
from deeplab_repro.pictures.palette import Classes, class_shares

__all__ = ["Subject", "View"]


@dataclass(frozen=True)
class Subject:
    """A picture, its scores, and what the command line was told about them.

    Attributes:
        picture: (H, W, 3) uint8, BGR.
        unary: (C, H, W) float32 energies.
        classes: names and colours of the C labels.
        image_file, scores_file: as they were given.
        options: further arguments of ``crf`` that say how the scores are read.
        probabilities: the scores are probabilities.
    """

    picture: NDArray[np.uint8]
    unary: NDArray[np.float32]
    classes: Classes
    image_file: str
    scores_file: str
    options: Sequence[str] = ()
    probabilities: bool = False


class View:
    """How results of one size are shown."""

    def __init__(
        self, picture: NDArray[np.uint8], unary: NDArray[np.float32], classes: Classes
    ) -> None:
        """Keep what does not change from one result to the next.

        Args:
            picture: (h, w, 3) uint8, BGR.
            unary: (C, h, w) energies of the same size.
            classes: names and colours of the C labels.
        """
        self._picture, self._classes = picture, classes
        self._before = unary.argmin(0)

    def result(self, marginals: NDArray[np.float32], label: int) -> dict[str, Any]:
        """What the page shows of a result.

        Args:
            marginals: (C, h, w).
            label: whose marginals are drawn.

        Returns:
            Pictures as ``data:`` addresses, the share of the pixels that have another label than
            before the CRF, and the classes that occur with their shares.
        """
        labels = marginals.argmax(0)
        before = draw_borders(self._picture, self._before, (0, 140, 255))
        levels = np.round(marginals[label] * 255).astype(np.uint8)
        return {
            "size": [labels.shape[1], labels.shape[0]],
            "changed": float((labels != self._before).mean()),
            "labels": png_address(draw_labels(self._picture, labels, self._classes)),
            "borders": png_address(draw_borders(before, labels, (255, 255, 255))),
            "marginals": png_address(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)),
            "classes": [
                {"id": i, "share": count / labels.size}
                for i, count in class_shares(labels, self._classes.names)
            ],
        }
