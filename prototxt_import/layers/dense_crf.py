"""The DenseCRF layer of the DeepLab forks."""

from __future__ import annotations

from typing import Any, Final

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Filler, LayerShapes
from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = ["DenseCRF"]

#: What the blobs of a layer that learns hold, in their order.
_LEARNABLE: Final = ("weights", "stds", "compatibility")


@kind("DenseCRF", "dense_crf_param", bottoms=(2, 3), programs=("dl2",), v1="DENSE_CRF")
class DenseCRF(Layer):
    """densecrf_layer.cpp: scores, image sizes and, where there are bilateral terms, the image.

    The forks' layer has no blobs, and they refuse a file in which it has ``param`` entries.  Here
    these make it learn, and there are as many blobs as entries: the first is the weights of the
    kernels, spatial ones first, the second the logarithms of their standard deviations, an xy_std
    of each spatial kernel and then an xy_std and an rgb_std of each bilateral one, the third the
    compatibility (labels, labels), Potts at first.

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
        if not self.stated_blobs:
            return
        if self.is_legacy:
            self.fail(
                "learns in the current format only, where its top may be logarithms, as a loss"
                " needs them",
                expected="no param, blobs_lr or weight_decay",
                got=len(self.stated_blobs),
            )
        if sum(self.kernels) == 0:
            self.fail("has param entries, but no kernel (pos_w, bi_w) to learn")
        if not all(std > 0 for std in self.stds):
            self.fail("learns logarithms of stds", expected="positive stds", got=min(self.stds))

    @property
    def learns(self) -> tuple[str, ...]:
        """What its blobs hold: of ``"weights"``, ``"stds"`` and ``"compatibility"``."""
        return _LEARNABLE[: len(self.stated_blobs)]

    @property
    def kernels(self) -> tuple[int, int]:
        """How many spatial and how many bilateral kernels take part."""
        return len(self.pos_w), len(self.bi_w) if len(self.bottoms) == 3 else 0

    @property
    def weights(self) -> list[float]:
        """Of the kernels that take part, spatial ones first."""
        return [*self.pos_w, *self.bi_w[: self.kernels[1]]]

    @property
    def stds(self) -> list[float]:
        """An xy_std of each spatial kernel, then an xy_std and an rgb_std of each bilateral one."""
        pairs = list(zip(self.bi_xy_std, self.bi_rgb_std, strict=True))[: self.kernels[1]]
        return [*self.pos_xy_std, *(std for pair in pairs for std in pair)]

    def fillers(self) -> tuple[Filler, ...]:
        """One for each blob.  Only the number counts: its own parameters are the first values."""
        return (Filler(),) * len(self.learns)

    def describe(self) -> str:
        """With what it learns."""
        return f"DenseCRF, learns {', '.join(self.learns)}" if self.learns else "DenseCRF"

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
        spatial, bilateral = self.kernels
        labels = scores[1]
        params: list[Shape] = [
            (spatial + bilateral,),
            (spatial + 2 * bilateral,),
            (labels, labels),
        ]
        return LayerShapes([scores], params[: len(self.learns)])
