"""Labels of pictures: Caffe's, with the padding, cropping and scaling of the released nets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.caffe.layers.conv import Convolution
from deeplab_repro.caffe.scoring import InputRule, input_rule, scoring_net
from deeplab_repro.errors import InputError
from deeplab_repro.inference.segmentation import Segmenter, segment
from deeplab_repro.models import NETWORKS, write_network
from deeplab_repro.parity.recordings import sampled_agreement
from deeplab_repro.pictures.voc import VOC_MEAN
from prototxt_import import CaffeImportError, Net, parse_net, read_net

RECORDED = {
    "largefov_v1_w8": "fc8_interp",
    "largefov_v2_w8": "fc8_interp",
    "deeplab_plain_v1_w16": "fc8_crop",
    "msc_largefov_v1_w8": "fc_fusion",
    "vgg16_aspp_l_w8": "fc8_interp",
    "resnet101_msc_w16": "fc1_interp",
}
MEAN = np.array(VOC_MEAN, np.float32)


class Recorded:
    """Pictures that Caffe was given, and the scores that it computed, as `tests/make_data.py` keeps
    them: labels of all pixels, and all channels of some.

    Attributes:
        inputs: (N, 3, H, W), the mean subtracted.
        labels: (N, H, W), uint8.
    """

    def __init__(self, folder: Path, blob: str) -> None:
        with h5py.File(folder / "activations_sampled.h5") as file:
            scores = file["blobs"][blob]
            self.inputs: np.ndarray = file["blobs/data/full"][()]
            self.labels: np.ndarray = scores["labels"][()]
            self._attributes = dict(scores.attrs)
            self._samples = scores["index"][()], scores["value"][()]

    def pictures(self) -> list[np.ndarray]:
        """(H, W, 3) of uint8 each."""
        return [np.rint(x.transpose(1, 2, 0) + MEAN).astype(np.uint8) for x in self.inputs]

    def distance(self, scores: list[np.ndarray]) -> float:
        """||ours - Caffe's|| / ||Caffe's|| of the scores (C, H, W) of all pictures."""
        return sampled_agreement(np.stack(scores), self._attributes, *self._samples).rel


def some_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise, so that a network sees more than grey."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def largefov(data: Path) -> CaffeNet:
    folder = data / "caffe" / "largefov_v2_w8"
    return load_caffe(folder / "deploy.prototxt", folder / "weights.caffemodel")


@pytest.fixture(scope="module")
def sums() -> CaffeNet:
    """Scores that can be told by hand: the sum of B, G, R, its opposite, and nothing."""
    net = load_caffe(
        parse_net(
            'input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9 '
            'layer { name: "score" type: "Convolution" bottom: "data" top: "score" '
            "convolution_param { num_output: 3 kernel_size: 1 } }"
        )
    )
    with torch.no_grad():
        net.params["score"][0].copy_(torch.tensor([1.0, -1.0, 0.0])[:, None, None, None])
    return net


@pytest.mark.parametrize("name", RECORDED)
def test_labels_are_the_argmax_of_caffes_scores(name: str, data: Path) -> None:
    folder = data / "caffe" / name
    net = load_caffe(folder / "deploy.prototxt", folder / "weights.caffemodel")
    recorded = Recorded(folder, RECORDED[name])
    _labels_as_caffe(Segmenter(net), name, recorded)
    _labels_as_caffe(Segmenter(net.fuse()), name, recorded)


def _labels_as_caffe(segmenter: Segmenter, name: str, recorded: Recorded) -> None:
    assert segmenter.blob == RECORDED[name]
    size = recorded.inputs.shape[2:]
    assert segmenter.input_sizes(*size) == (size,)
    results = segmenter(recorded.pictures())
    assert len(results) == len(recorded.labels)
    for ours, caffes in zip(results, recorded.labels, strict=True):
        assert ours.labels.dtype == np.uint8
        assert np.array_equal(ours.labels, caffes)
        assert len(np.unique(ours.labels)) > 1
    assert recorded.distance([ours.scores for ours in results]) <= 1e-5


def test_padding_and_cropping(largefov: CaffeNet) -> None:
    """As written out by hand: mean subtracted, zeros to the right and below, top left kept."""
    picture = some_picture(50, 70)
    x = torch.zeros(1, 3, 97, 97)
    x[0, :, :50, :70] = torch.from_numpy((picture - MEAN).transpose(2, 0, 1))
    with torch.inference_mode():
        expected = largefov(data=x)["fc8_interp"][0, :, :50, :70].numpy()
    labels, scores = segment(largefov, picture)
    assert np.array_equal(scores, expected)
    assert np.array_equal(labels, expected.argmax(0))
    other = segment(largefov, picture, pad_to=105).scores  # so the padding does matter
    assert other.shape == expected.shape
    assert not np.array_equal(other, expected)


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((1, 1), (97, 97)),
        ((97, 98), (97, 513)),
        ((3, 700), (97, 705)),
        ((513, 514), (513, 521)),
        ((521, 522), (521, 529)),
    ],
)
def test_sizes_to_pad_to(
    largefov: CaffeNet, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    """The network's own 97, then the test crop, then 8k + 1."""
    assert Segmenter(largefov).input_sizes(*size) == (padded,)


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (530, 30)])
def test_odd_sizes(largefov: CaffeNet, size: tuple[int, int]) -> None:
    labels, scores = segment(largefov, some_picture(*size))
    assert labels.shape == size
    assert scores.shape == (21, *size)
    assert np.array_equal(labels, scores.argmax(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_input_rule_is_that_of_the_network(name: str) -> None:
    network = NETWORKS[name]
    for phase in ("TEST", "DEPLOY"):
        rule = input_rule(scoring_net(parse_net(write_network(name, phase))))
        side = network.test_size
        assert (rule.crop, rule.declared) == ((side, side), (side, side))
        assert (rule.step, rule.zoom, rule.classes) == (network.input_rule[0], 1, 21)
        larger = rule.padded(side + 1, 1)
        assert larger == (side + network.input_rule[0], side)
        assert larger[0] % network.input_rule[0] == network.input_rule[1]


def test_first_of_equal_scores_wins(sums: CaffeNet) -> None:
    picture = np.zeros((1, 3, 3), np.uint8)
    picture[0, 1] = 1
    picture[0, 2] = 255
    labels, scores = segment(sums, picture, mean=(0.5, 0.5, -1.0))
    assert scores[:, 0].tolist() == [[0.0, 3.0, 765.0], [0.0, -3.0, -765.0], [0.0, 0.0, 0.0]]
    assert labels.tolist() == [[0, 0, 0]]
    assert segment(sums, picture, mean=(255.0, 0.0, 0.0)).labels.tolist() == [[1, 1, 0]]


def test_batch_is_like_one_by_one(largefov: CaffeNet) -> None:
    pictures = [some_picture(h, w, seed=h) for h, w in [(97, 97), (40, 60), (60, 40)]]
    segmenter = Segmenter(largefov)
    for together, alone in zip(segmenter(pictures), map(segmenter, zip(pictures)), strict=True):
        # A library may add up in another order for another batch size.
        largest = np.abs(alone[0].scores).max()
        assert np.abs(together.scores - alone[0].scores).max() <= 1e-5 * largest
        assert np.array_equal(together.labels, alone[0].labels)
    assert segmenter([]) == []
    with pytest.raises(InputError, match="one padded size"):
        segmenter([some_picture(97, 97), some_picture(98, 97)])


# ---------------------------------------------------------------- several scales


def test_scales_by_hand(sums: CaffeNet) -> None:
    """A linear net without context: the scores are those of the resized pictures."""
    picture = some_picture(30, 41)
    half = cv2.resize(picture, (20, 15), interpolation=cv2.INTER_LINEAR)
    double = cv2.resize(picture, (82, 60), interpolation=cv2.INTER_LINEAR)
    maps = []
    for resized in (half, picture, double):
        total = (resized - MEAN).sum(2)
        scores = np.stack([total, -total, 0 * total], 2)
        maps.append(cv2.resize(scores, (41, 30), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1))
    scales = (0.5, 1, 2)
    largest = segment(sums, picture, scales=scales)
    # OpenCV and torch round the weights of their bilinear differently: 1e-4 of scores up to 400.
    np.testing.assert_allclose(largest.scores, np.max(maps, 0), atol=0.05)
    mean = segment(sums, picture, scales=scales, fuse="mean")
    np.testing.assert_allclose(mean.scores, np.mean(maps, 0), atol=0.05)
    assert np.abs(np.max(maps, 0) - np.mean(maps, 0)).max() > 5
    assert np.array_equal(largest.labels, largest.scores.argmax(0))


def test_scale_one_is_no_scale(largefov: CaffeNet) -> None:
    picture = some_picture(64, 48)
    once, twice = segment(largefov, picture), segment(largefov, picture, scales=[1.0, 1.0])
    assert np.array_equal(once.scores, twice.scores)


def test_scales_of_a_picture_of_one_pixel(largefov: CaffeNet) -> None:
    segmenter = Segmenter(largefov, scales=[0.5, 1.5])
    assert segmenter.input_sizes(1, 3) == ((97, 97), (97, 97))
    (result,) = segmenter([some_picture(1, 3)])
    assert result.labels.shape == (1, 3)


# ---------------------------------------------------------------- which blob


def test_blob_of_a_train_network(data: Path) -> None:
    """No labels, no loss: the scores at every eighth pixel, zoomed as Interp does."""
    folder = data / "caffe" / "train_sgd_poly"
    net = load_caffe(folder / "snap_iter_10.caffemodel")
    assert net.outputs == ["loss", "accuracy"]
    segmenter = Segmenter(net)
    picture = some_picture(60, 50)
    assert segmenter.rule.declared is None  # 65 is the size of its training crops
    assert segmenter.input_sizes(60, 50) == ((513, 513),)
    x = torch.zeros(1, 3, 513, 513)
    x[0, :, :60, :50] = torch.from_numpy((picture - MEAN).transpose(2, 0, 1))
    with torch.inference_mode():
        small = net.blobs(data=x)[segmenter.blob]
        assert small.shape[2:] == (65, 65)
        expected = F.interpolate(small, (513, 513), mode="bilinear", align_corners=True)
    (result,) = segmenter([picture])
    assert segmenter.rule.zoom == 8
    assert np.array_equal(result.scores, expected[0, :, :60, :50].numpy())
    # and the part of it that matters gives the same
    part = CaffeNet(scoring_net(net.net))
    part.load_state_dict(net.state_dict())
    assert np.array_equal(segment(part, picture).scores, result.scores)


def with_layers(*layers: str) -> Net:
    return parse_net(
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9 '
        + " ".join(f"layer {{ {layer} }}" for layer in layers)
    )


SCORE = (
    'name: "s" type: "Convolution" bottom: "data" top: "s" '
    "convolution_param { num_output: 4 kernel_size: 1 }"
)


def test_argmax_gives_way_to_its_scores() -> None:
    net = with_layers(
        SCORE, 'name: "a" type: "ArgMax" bottom: "s" top: "a" argmax_param { axis: 1 }'
    )
    assert net.outputs == ["a"]
    assert scoring_net(net).outputs == ["s"]
    assert scoring_net(net, "a").outputs == ["s"]
    assert [layer.name for layer in scoring_net(net).layers] == ["s"]


def test_several_outputs() -> None:
    net = with_layers(
        SCORE,
        'name: "t" type: "Power" bottom: "s" top: "t" power_param { scale: 2 }',
        'name: "u" type: "Power" bottom: "s" top: "u"',
        'name: "r" type: "ReLU" bottom: "u" top: "u"',
        'name: "n" type: "Reduction" bottom: "s" top: "n"',
    )
    with pytest.raises(CaffeImportError, match=r"which blob holds the scores\?; .*one of t, u$"):
        scoring_net(net)
    assert [layer.name for layer in scoring_net(net, "u").layers] == ["s", "u", "r"]
    assert [layer.name for layer in scoring_net(net, "s").layers] == ["s"]
    with pytest.raises(CaffeImportError, match="no blob 'v' can be computed .* t, u, n, "):
        scoring_net(net, "v")


def test_a_layer_in_place_after_the_last_reader_is_left_out() -> None:
    net = with_layers(
        SCORE,
        'name: "t" type: "Power" bottom: "s" top: "t"',
        'name: "r" type: "ReLU" bottom: "s" top: "s"',
    )
    assert [layer.name for layer in scoring_net(net, "t").layers] == ["s", "t"]


# ---------------------------------------------------------------- refused


def test_no_score_map() -> None:
    vector = with_layers(
        'name: "g" type: "Pooling" bottom: "data" top: "g" pooling_param { global_pooling: true }'
    )
    with pytest.raises(CaffeImportError, match="blob 'g' is no score map.* got 1x3x1x1"):
        input_rule(scoring_net(vector))
    with pytest.raises(CaffeImportError, match="the network has no scores"):
        scoring_net(with_layers())


def test_a_network_of_one_size(data: Path) -> None:
    net = scoring_net(
        with_layers(
            'name: "f" type: "InnerProduct" bottom: "data" top: "f" '
            "inner_product_param { num_output: 162 }",
            'name: "s" type: "Reshape" bottom: "f" top: "s" '
            "reshape_param { shape { dim: 0 dim: 2 dim: 9 dim: 9 } }",
        )
    )
    rule = input_rule(net)
    assert (rule.crop, rule.step, rule.classes) == ((9, 9), None, 2)
    assert rule.padded(3, 9) == (9, 9)
    with pytest.raises(InputError, match="only input size; expected at most 9x9, got 3x10"):
        rule.padded(3, 10)
    assert segment(CaffeNet(net), some_picture(4, 9)).labels.shape == (4, 9)


@pytest.mark.parametrize(
    ("picture", "options", "message"),
    [
        ("picture.png", {}, r"expected \(H, W, 3\) uint8, BGR, got str"),
        (np.zeros((4, 4), np.uint8), {}, r"expected \(H, W, 3\) uint8, BGR, got \(4, 4\) uint8"),
        (np.zeros((4, 4, 3), np.float32), {}, "float32"),
        (np.zeros((0, 4, 3), np.uint8), {}, "no pixels"),
        (np.zeros((4, 9, 3), np.uint8), {"pad_to": 8}, "larger than the size to pad to"),
        (np.zeros((4, 4, 3), np.uint8), {"scales": []}, "scales; expected positive"),
        (np.zeros((4, 4, 3), np.uint8), {"scales": [1, -1]}, "scales; expected positive"),
        (np.zeros((4, 4, 3), np.uint8), {"fuse": "min"}, "expected max or mean, got min"),
        (
            np.zeros((4, 4, 3), np.uint8),
            {"accuracy": "quick"},
            "accuracy; expected exact or fast, got quick",
        ),
        (np.zeros((4, 4, 3), np.uint8), {"mean": (float("nan"), 0, 0)}, "scores hold NaN"),
    ],
)
def test_bad_arguments(
    sums: CaffeNet, picture: np.ndarray, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        segment(sums, picture, **options)


def test_the_accuracy_is_the_networks_unless_given(data: Path) -> None:
    net = load_caffe(data / "caffe" / "train_sgd_poly" / "snap_iter_10.caffemodel", accuracy="fast")
    for given, expected in ((None, "fast"), ("exact", "exact"), (None, "exact"), ("fast", "fast")):
        Segmenter(net, accuracy=given)
        assert {m.accuracy for m in net.modules() if isinstance(m, Convolution)} == {expected}


@pytest.mark.filterwarnings("ignore:an input of 100x100 does not suit")
def test_scores_that_do_not_cover_the_input(data: Path) -> None:
    """96 is no 8k + 1: 12 score rows, of which no whole zoom makes 96."""
    net = load_caffe(data / "caffe" / "train_sgd_poly" / "snap_iter_10.caffemodel")
    with pytest.raises(InputError, match="does not cover an input of 100x100.* 8k [+] 1"):
        segment(net, some_picture(60, 50), pad_to=100)
    assert read_net(data / "caffe" / "train_sgd_poly" / "snap_iter_10.caffemodel").inputs["label"]


@pytest.mark.filterwarnings("ignore:an input of 100x100 does not suit")
def test_scores_beyond_the_input_are_cut_off(largefov: CaffeNet) -> None:
    """A size of no rule, as some deploy files state: 100 gives 105 rows of scores."""
    picture = some_picture(99, 98)
    x = torch.zeros(1, 3, 100, 100)
    x[0, :, :99, :98] = torch.from_numpy((picture - MEAN).transpose(2, 0, 1))
    with torch.inference_mode():
        scores = largefov(data=x)["fc8_interp"]
    assert scores.shape[2:] == (105, 105)
    assert np.array_equal(
        segment(largefov, picture, pad_to=100).scores, scores[0, :, :99, :98].numpy()
    )


# ---------------------------------------------------------------- a stream of pictures


def test_a_stream_is_like_one_by_one(largefov: CaffeNet, tmp_path: Path) -> None:
    sizes = [(40, 60), (97, 97), (98, 20), (60, 40), (3, 3)]
    paths = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        cv2.imwrite(str(path), some_picture(*size, seed=i))
    paths.insert(2, tmp_path / "none.png")
    segmenter = Segmenter(largefov, pad_to=97)
    found = list(segmenter.stream(iter(paths), batch=2))
    assert [path for path, _ in found] == paths
    for path, result in found:
        if path.stem == "none":
            assert "No such file" in str(result)
        elif path.stem == "2":
            assert "larger than the size to pad to" in str(result)
        else:
            alone = segment(largefov, cv2.imread(str(path)), pad_to=97)
            np.testing.assert_array_equal(result.labels, alone.labels)
            # A library may add up in another order for another batch size.
            largest = np.abs(alone.scores).max()
            np.testing.assert_allclose(result.scores, alone.scores, rtol=0, atol=1e-5 * largest)


def test_what_is_made_of_the_scores_of_a_stream(sums: CaffeNet) -> None:
    pictures = {"a": some_picture(4, 9), "b": some_picture(7, 5)}
    then = lambda job, picture, scores: (job, picture.shape[:2], tuple(scores.shape))  # noqa: E731
    found = dict(Segmenter(sums).stream(pictures, read=pictures.__getitem__, then=then))
    assert found == {"a": ("a", (4, 9), (3, 4, 9)), "b": ("b", (7, 5), (3, 7, 5))}


# ---------------------------------------------------------------- any module


class Eighth(nn.Module):
    """Scores at every eighth pixel: B, G and R of that pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(x.shape[2:]))
        return x[:, :, ::8, ::8]


def test_any_module() -> None:
    """8k + 1 and 513 by default, as for the networks of the papers."""
    net = Eighth().eval()
    picture = np.zeros((30, 523, 3), np.uint8)
    picture[:, 100:] = (10, 20, 90)
    labels, scores = segment(net, picture, mean=None)
    assert net.seen == [(513, 529)]
    assert scores[:, 0, 104].tolist() == [10, 20, 90]
    # Between the corners that are held: pixel 100 is half way from score 12 to score 13.
    assert scores[2, 0, 96:105:4].tolist() == [0, 45, 90]
    assert labels[0, [0, 400]].tolist() == [0, 2]
    net.seen.clear()
    rule = InputRule((33, 33), 16, None)
    assert Segmenter(net, rule=rule).input_sizes(30, 34) == ((33, 49),)
    same = segment(nn.Sequential(net).eval(), picture, mean=None, rule=rule)
    assert net.seen == [(33, 529)]
    np.testing.assert_array_equal(same.scores, scores)


@pytest.mark.parametrize(
    ("name", "stride", "sizes"),
    [
        ("plain", 8, (514, 522, 513)),
        ("largefov", 8, (513, 521, 514)),
        ("aspp-l", 16, (513, 529, 521)),
        ("resnet101-msc-aspp", 8, (513, 545, 521)),
        ("resnet101-msc-aspp", 16, (513, 577, 545)),
    ],
)
def test_a_module_with_a_table(name: str, stride: int, sizes: tuple[int, int, int]) -> None:
    """The test crop, the size after it, and one that does not suit."""
    net = nn.Identity().eval()
    net.architecture = NETWORKS[name].architecture
    net.options = {"output_stride": stride, "num_classes": 7}
    segmenter = Segmenter(net)
    crop, larger, wrong = sizes
    assert segmenter.input_sizes(1, crop) == ((crop, crop),)
    assert segmenter.input_sizes(crop, crop + 1) == ((crop, larger),)
    assert segmenter.rule.classes == 7
    assert segmenter.rule.suits(crop, larger)
    assert not segmenter.rule.suits(crop, wrong)


def test_a_module_that_cannot_be_used() -> None:
    with pytest.warns(UserWarning, match=r"is in train mode: net.eval\(\)"):
        Segmenter(Eighth())
    for output, got in ((lambda x: {"out": x}, "dict"), (lambda x: x[:, 0], r"\(1, 513, 513\)")):
        net = nn.Identity().eval()
        net.forward = output  # type: ignore[method-assign]
        with pytest.raises(InputError, match=rf"gives no scores; .*\(1, C, H, W\), got {got}"):
            segment(net, some_picture(4, 4))


# ---------------------------------------------------------------- mistakes of other programs


@pytest.fixture(scope="module")
def recorded(data: Path) -> Recorded:
    """What Caffe computed for the recorded network of ``largefov``."""
    return Recorded(data / "caffe" / "largefov_v2_w8", "fc8_interp")


def test_corners_are_aligned(largefov: CaffeNet, recorded: Recorded) -> None:
    """Zoomed here the scores are those of Caffe's Interp; torch's default would shift them."""
    segmenter = Segmenter(largefov, blob="fc8_voc12", pad_to=97)
    assert segmenter.rule.zoom == 8
    (ours,) = segmenter(recorded.pictures())
    assert recorded.distance([ours.scores]) <= 1e-5
    with torch.inference_mode():
        small = largefov.blobs(data=torch.from_numpy(recorded.inputs))["fc8_voc12"]
    size = recorded.inputs.shape[2:]
    shifted = F.interpolate(small, size, mode="bilinear", align_corners=False)[0].numpy()
    assert recorded.distance([shifted]) > 0.01
    assert (shifted.argmax(0) != ours.labels).mean() > 0.001


def test_blue_comes_first(largefov: CaffeNet, recorded: Recorded) -> None:
    (picture,), (labels,) = recorded.pictures(), recorded.labels
    swapped = segment(largefov, picture[:, :, ::-1])
    assert np.array_equal(segment(largefov, picture).labels, labels)
    assert recorded.distance([swapped.scores]) > 0.01
    assert (swapped.labels != labels).mean() > 0.001


def test_a_size_that_does_not_suit_is_said(largefov: CaffeNet) -> None:
    """Scores of a picture that is not padded to 8k + 1 lie beside it."""
    with pytest.warns(UserWarning, match=r"500x375 does not suit .* shifted .* 8k \+ 1"):
        Segmenter(largefov, pad_to=(500, 375))
    with pytest.warns(UserWarning, match=r"512x512 does not suit .* 8k \+ 1"):
        Segmenter(Eighth().eval(), pad_to=512)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (97, 513, (65, 1025)):
            Segmenter(largefov, pad_to=size)
