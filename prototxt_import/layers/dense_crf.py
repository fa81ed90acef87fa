"""The DenseCRF layer of the DeepLab forks."""

from __future__ import annotations

from typing import Any

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import LayerShapes
from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = ["DenseCRF"]


@kind("DenseCRF", "dense_crf_param", bottoms=(2, 3), programs=("dl2",), v1="DENSE_CRF")
class DenseCRF(Layer):
    """densecrf_layer.cpp: scores, image sizes and, where there are bilateral terms, the image.

    Attributes:
        max_iter: steps of mean field inference.
        pos_w: weights of the spatial kernels; ``pos_xy_std`` their standard deviations in pixels.
        bi_w: weights of the bilateral kernels; ``bi_xy_std`` and ``bi_rgb_std`` likewise.
        output_probability: give marginals, as the v1 fork always does, or their logarithms.
    """

    max_iter: int
    pos_w: tuple[float, ...]
    pos_xy_std: tuple[float, ...]
    bi_w: tuple[float, ...]
    bi_xy_std: tuple[float, ...]
    bi_rgb_std: tuple[float, ...]
    output_probability: bool

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """The v1 fork's layer has no ``output_probability``."""
        values = super().read(message, spec, dialect)
        return {**values, "output_probability": dialect == "dl1" or values["output_probability"]}

    def check(self) -> None:
        """Each kernel has all its numbers."""
        for first, second in (
            ("pos_w", "pos_xy_std"),
            ("bi_w", "bi_xy_std"),
            ("bi_w", "bi_rgb_std"),
        ):
            counts = len(getattr(self, first)), len(getattr(self, second))
            if counts[0] != counts[1]:
                self.fail(
                    f"{first} and {second} must be equally many",
                    expected=counts[0],
                    got=counts[1],
                )

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Scores (N, C, H, W), sizes (N, 1, 1, 2), image (N, 3, H, W) -> (N, C, H, W)."""
        scores = self.four_axes(bottoms[0])
        self.require_equal(
            "batch sizes of bottoms 0 and 1", scores[0], self.four_axes(bottoms[1])[0]
        )
        if len(bottoms) == 3:
            if not self.bi_w:
                self.fail("an image is given, but no bilateral term (bi_w)")
            image = self.four_axes(bottoms[2])
            self.require_equal("channels of the image", 3, image[1])
            for what, i in (("batch sizes", 0), ("heights", 2), ("widths", 3)):
                self.require_equal(f"{what} of scores and image", scores[i], image[i])
        return LayerShapes([scores])
