"""Labels of pictures as eval.py and export_model.py get them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.tensorflow import evaluate_crops, predict_picture
from deeplab_repro.tensorflow.preprocessing import Resizing


class Bright(DeepLabV3):
    """Scores that tell how red, green and blue a pixel is, to see what the network was given."""

    def __init__(self, crop_size: tuple[int, int] | None) -> None:
        nn.Module.__init__(self)
        self.options = ModelOptions(num_classes=3, crop_size=crop_size)
        self.parameter = nn.Parameter(torch.zeros(()))
        self.seen: Tensor

    def predict(
        self, x: Tensor, scales: Any = (1.0,), flip: bool = False, quirks: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        assert self.options.crop_size in (None, tuple(x.shape[2:]))
        self.seen = x
        return x.argmax(1), x / 255


def picture(height: int, width: int) -> Any:
    """Red above, green at the left below, blue at the right below."""
    colours = np.zeros((height, width, 3), np.uint8)
    colours[: height // 2, :, 0] = 200
    colours[height // 2 :, : width // 2, 1] = 200
    colours[height // 2 :, width // 2 :, 2] = 200
    return colours


def test_the_padding_is_cut_off() -> None:
    net = Bright((9, 12))
    labels, probabilities = predict_picture(net, picture(6, 8))
    assert net.seen.shape == (1, 3, 9, 12)
    assert net.seen[0, :, 8, 11].tolist() == [127.5] * 3
    expected = picture(6, 8).argmax(-1)
    np.testing.assert_array_equal(labels.numpy(), expected)
    assert probabilities.shape == (3, 6, 8)


def test_labels_come_back_at_the_pictures_size() -> None:
    net = Bright((9, 9))
    labels, probabilities = predict_picture(net, picture(18, 12), resizing=Resizing(6, 9))
    assert net.seen.shape == (1, 3, 9, 9)
    assert net.seen[0, :, :, 6:].unique().tolist() == [127.5]
    # Nearest with aligned corners, of the 9x6 that were seen.
    small = net.seen[0, :, :, :6]
    rows = np.floor(np.arange(18) * np.float32(8 / 17) + 0.5).astype(int)
    columns = np.floor(np.arange(12) * np.float32(5 / 11) + 0.5).astype(int)
    np.testing.assert_array_equal(labels.numpy(), small.argmax(0).numpy()[np.ix_(rows, columns)])
    expected = align_corners(small[None] / 255, 18, 12)[0]
    torch.testing.assert_close(probabilities, expected)


def test_a_network_for_any_size_sees_no_padding() -> None:
    net = Bright(None)
    predict_picture(net, picture(6, 8))
    assert net.seen.shape == (1, 3, 6, 8)
    predict_picture(net, picture(6, 8), resizing=Resizing(12))
    assert net.seen.shape == (1, 3, 12, 16)
    predict_picture(net, picture(6, 8), crop_size=(7, 9))
    assert net.seen.shape == (1, 3, 7, 9)


def test_whole_crops_are_evaluated() -> None:
    net = Bright((9, 12))
    right = picture(6, 8).argmax(-1).astype(np.uint8)
    wrong = right.copy()
    wrong[0, :4] = 2
    wrong[1, :2] = 255
    confusion = evaluate_crops(net, [(picture(6, 8), right), (picture(6, 8), wrong)])
    # The padding is void, and so are two pixels.
    assert confusion.pixels == 2 * 48 - 2
    assert confusion.matrix.tolist() == [[42, 0, 0], [0, 24, 0], [4, 0, 24]]
    assert confusion.mean_iou == pytest.approx((42 / 46 + 1 + 24 / 28) / 3)


def test_classes_that_do_not_occur_do_not_count() -> None:
    """tf.metrics.mean_iou: of labels and predictions together."""
    net = Bright((6, 8))
    red = picture(12, 8)[:6]
    confusion = evaluate_crops(net, [(red, np.zeros((6, 8), np.uint8))])
    assert confusion.mean_iou == 1
    confusion = evaluate_crops(net, [(red, np.ones((6, 8), np.uint8))])
    assert confusion.mean_iou == 0


def test_another_void_label() -> None:
    net = Bright((9, 12))
    label = picture(6, 8).argmax(-1).astype(np.uint8)
    confusion = evaluate_crops(net, [(picture(6, 8), label)], ignore_label=0)
    assert confusion.matrix.tolist() == [[0, 0, 0], [0, 12, 0], [0, 0, 12]]


def test_labels_are_resized_with_their_pictures() -> None:
    net = Bright((9, 9))
    label = picture(18, 12).argmax(-1)
    confusion = evaluate_crops(net, [(picture(18, 12), label)], resizing=Resizing(6, 9))
    assert confusion.pixels == 54


def test_a_picture_larger_than_the_crop() -> None:
    with pytest.raises(InputError, match="fit in the crop; expected at most 5x5, got 6x8"):
        predict_picture(Bright((5, 5)), picture(6, 8))
