"""Pictures to label maps with the networks of DeepLab v3 and v3+, as export_model.py made them.

>>> from deeplab_repro import tensorflow
>>> from deeplab_repro.tensorflow.segmentation import CropSegmenter
>>> net = tensorflow.load(options, "model.ckpt")
>>> labels, scores = CropSegmenter(net, crop_size=(513, 513))([cv2.imread("picture.jpg")])[0]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.caffe.scoring import InputRule
from deeplab_repro.errors import InputError
from deeplab_repro.inference.segmentation import Picture, Segmentation, Segmenter, check_picture
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.tensorflow.preprocessing import check_scales, crop_of, preprocess

if TYPE_CHECKING:
    from deeplab_repro.crf import CRFParams

__all__ = ["CropSegmenter"]

#: Under this name a picture's scores carry labels that are not those of the scores.
_LABELS = "labels_of_coarse_scores"
#: What a picture is given for evaluation on VOC 2012.
_VOC_CROP = (513, 513)


class CropSegmenter(Segmenter):
    """Labels pictures with a network of DeepLab v3 or v3+.

    A picture is padded right and below with the variant's colour to the crop that the network is
    for, and what the network says of the padding is cut off; a network for any size gets pictures
    as they are.  Over several scales the probabilities are averaged, as eval.py does; the scores
    are their logarithms then, and else the network's own.  Where `prediction_with_upsampled_logits`
    is false, the labels of a single scale are those of the coarse scores, resized by the nearest
    pixel; the scores that come with them, and that a CRF refines, are resized as ever.

    Args:
        net: in eval mode.
        crop_size: (height, width) to pad to, in place of the options' `crop_size`.
        scales: factors of the crop's size.
        flip: whether each of them is also looked at in a mirror.
        crf: as of :class:`Segmenter`, over these scores.
        accuracy: as of :class:`Segmenter`.

    Raises:
        BadInput: scales or an accuracy that there are not; another crop than the network's, or one
            of too many pixels.
    """

    def __init__(
        self,
        net: DeepLabV3,
        *,
        crop_size: Sequence[int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        crf: CRFParams | None = None,
        accuracy: str | None = None,
    ) -> None:
        wanted, scales = net.options.crop_size, tuple(scales)
        crop = wanted if crop_size is None else crop_of(crop_size)
        if wanted not in (None, crop):
            raise InputError("the crop", expected=f"{wanted}, the options' crop_size", got=crop)
        rule = InputRule(crop or _VOC_CROP, 1, None, classes=net.options.num_classes)
        super().__init__(
            net,
            rule=rule,
            blob="logits" if scales == (1.0,) and not flip else "probabilities",
            mean=None,
            pad_to=crop,
            scales=scales,
            fuse="mean",
            crf=crf,
            accuracy=accuracy,
        )
        self._network, self.flip = net, flip

    def input_sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The size that the network is given; it makes the scales of it by itself."""
        return (self.pad_to or (height, width),)

    def scores(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """The network's part of the work: (C, H, W) float32 of each picture, where the network is.

        Args:
            pictures: each (H, W, 3) uint8, BGR; alike in :meth:`input_sizes`.

        Raises:
            BadInput: pictures of another form, larger than the crop, or of too many pixels at a
                scale.
        """
        for picture in pictures:
            check_picture(picture)
        if not pictures:
            return []
        sizes = {self.input_sizes(picture.shape[0], picture.shape[1]) for picture in pictures}
        if len(sizes) > 1:
            raise InputError("pictures of one batch", expected="one padded size", got=sizes)
        ((size,),) = sizes
        pyramid = self._network.options.image_pyramid or ()
        check_scales(size, self.scales if self._is_mean else pyramid)
        inputs = [self._prepared(picture, size) for picture in pictures]
        with torch.inference_mode():
            scores, labels = self._scores(torch.stack(inputs).to(self.device))
        found = []
        for i, picture in enumerate(pictures):
            valid = (..., slice(picture.shape[0]), slice(picture.shape[1]))
            one = scores[i][valid]
            if labels is not None:
                setattr(one, _LABELS, labels[i][valid])
            found.append(one)
        return found

    def label(self, scores: Tensor, picture: Picture) -> Segmentation:
        """See :meth:`Segmenter.label`; labels that were made of coarse scores stay as they are.

        Args:
            scores: (C, H, W), as :meth:`scores` gave it, not a copy, which has no such labels.
            picture: (H, W, 3) uint8, BGR.
        """
        labels: Tensor | None = getattr(scores, _LABELS, None)
        found = super().label(scores, picture)
        if labels is None or self.crf:
            return found
        values: Any = labels.cpu().numpy().astype(found.labels.dtype)
        return Segmentation(values, found.scores)

    @property
    def _is_mean(self) -> bool:
        """Whether probabilities are averaged; else the network's own scores are taken."""
        return self.scales != (1.0,) or self.flip

    def _prepared(self, picture: Picture, size: tuple[int, int]) -> Tensor:
        rgb = np.ascontiguousarray(picture[:, :, ::-1])
        variant = self._network.options.model_variant
        return preprocess(rgb, crop_size=size, model_variant=variant).image

    def _scores(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores, and the labels where they are not those of the scores."""
        net = self._network
        if self._is_mean:
            _, mean = net.predict(x, self.scales, self.flip, quirks=False)
            return mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), None
        if net.options.prediction_with_upsampled_logits:
            return net(x), None
        logits, size = net.multi_scale_logits(x)["merged_logits"], (x.shape[2], x.shape[3])
        return net.resize_to_input(logits, size), net.labels_of(logits, size)
