"""Pictures through a network of DeepLab v3: labels as the exported graph gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deeplab_repro import tensorflow
from deeplab_repro.crf import CRFParams
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.tensorflow.segmentation import CropSegmenter
from tests.testing.tensorflow_weights import weights_for

OPTIONS: dict[str, Any] = {"model_variant": "mobilenet_v2", "depth_multiplier": 0.1}
PICTURE = np.random.default_rng(0).integers(0, 255, (49, 65, 3), np.uint8)


def network(**options: Any) -> DeepLabV3:
    options = {**OPTIONS, **options}
    return tensorflow.load(options, weights_for(options))


def predicted(net: DeepLabV3, **options: Any) -> Any:
    return tensorflow.predict_picture(net, PICTURE[:, :, ::-1], **options)[0].numpy()


@pytest.mark.parametrize("crop_size", [None, [65, 81]])
@pytest.mark.parametrize("upsampled", [True, False])
def test_labels_are_those_of_the_graph(crop_size: list[int] | None, upsampled: bool) -> None:
    net = network(prediction_with_upsampled_logits=upsampled, crop_size=crop_size)
    segmenter = CropSegmenter(net)
    ((labels, scores),) = segmenter([PICTURE])
    assert len(np.unique(labels)) > 2
    np.testing.assert_array_equal(labels, predicted(net))
    assert np.array_equal(labels, scores.argmax(0)) is upsampled
    ((_, (streamed, _)),) = segmenter.stream([PICTURE], read=lambda picture: picture)
    np.testing.assert_array_equal(streamed, labels)


def test_a_crf_refines_the_resized_scores() -> None:
    crf = CRFParams(iterations=1)
    both = []
    for upsampled in (True, False):
        net = network(prediction_with_upsampled_logits=upsampled)
        both.append(CropSegmenter(net, crf=crf)([PICTURE])[0].labels)
    np.testing.assert_array_equal(*both)


def test_lists_are_as_good_as_tuples() -> None:
    net = network(crop_size=(65, 81))
    scores = CropSegmenter(net)([PICTURE])[0].scores
    listed = CropSegmenter(net, crop_size=[65, 81], scales=[1.0])
    assert listed.blob == "logits"
    np.testing.assert_array_equal(listed([PICTURE])[0].scores, scores)
    with pytest.raises(InputError, match=r"expected \(65, 81\), the options' crop_size, got"):
        CropSegmenter(net, crop_size=[65, 65])


@pytest.mark.parametrize(
    ("options", "scales"), [({}, (1.0, 1e20)), ({}, (1e308,)), ({"image_pyramid": [1e20]}, (1.0,))]
)
def test_scales_of_too_many_pixels(options: dict[str, Any], scales: tuple[float, ...]) -> None:
    segmenter = CropSegmenter(network(**options), scales=scales)
    with pytest.raises(BadInput, match="too many pixels at the scale 1e.*MAX_PIXELS"):
        segmenter([PICTURE])


def test_the_limit_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_PIXELS", str(65 * 81))
    net = network()
    assert CropSegmenter(net, crop_size=(65, 81))([PICTURE])
    for make in (
        lambda: CropSegmenter(net, crop_size=(66, 81)),
        lambda: predicted(net, crop_size=(66, 81)),
        lambda: predicted(net, scales=(1.0, 1.5)),
    ):
        with pytest.raises(BadInput, match="too many pixels.*at most 5265 "):
            make()


def test_what_is_no_picture() -> None:
    with pytest.raises(InputError, match=r"is no picture; expected \(H, W, 3\), got \(5,\)"):
        tensorflow.predict_picture(network(), np.zeros(5))
    with pytest.raises(InputError, match="is no picture"):
        tensorflow.evaluate_crops(network(), [(torch.zeros(5, 5), np.zeros((5, 5), int))])
