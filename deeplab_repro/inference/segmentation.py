"""Pictures to label maps, as the released test networks and their Matlab scripts made them.

>>> from deeplab_repro import load_caffe
>>> from deeplab_repro.inference.segmentation import segment
>>> net = load_caffe("test.prototxt", "train_iter_20000.caffemodel")
>>> labels, scores = segment(net, cv2.imread("picture.jpg"))
>>> for path, result in Segmenter(net).stream(Path("pictures").iterdir()):
...     print(path, result.labels.shape)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplab_repro.caffe.graph import GraphModule
from deeplab_repro.caffe.scoring import InputRule, input_rule, scoring_net, zoom_between
from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.errors import InputError
from deeplab_repro.inference.stages import Stages
from deeplab_repro.models.architectures import Architecture
from deeplab_repro.ops import ACCURACIES, set_accuracy
from deeplab_repro.pictures.reading import Preparation, read_picture, resize_picture
from deeplab_repro.pictures.voc import VOC_MEAN
from prototxt_import import CaffeImportError

__all__ = ["DEFAULT_RULE", "Segmentation", "Segmenter", "check_picture", "refine", "segment"]

Fuse = Literal["max", "mean"]
Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
Job = TypeVar("Job")
#: What suits a network whose scores lie at every eighth pixel, or zoomed from there to all: sides
#: of 8k + 1, and 513 for the test crop.
DEFAULT_RULE = InputRule((513, 513), 8, None)


class Segmentation(NamedTuple):
    """What a network says about a picture.

    Attributes:
        labels: (H, W) class ids; uint8 up to 256 classes, int16 beyond.
        scores: (C, H, W) float32, what the labels are the first maximum of; marginals of the CRF
            where there is one.
    """

    labels: NDArray[np.uint8] | NDArray[np.int16]
    scores: Array


class Segmenter:
    """Labels pictures with one network.

    Every picture is prepared as the released test networks do: BGR minus the mean, padded right
    and bottom to the test crop; the scores are cropped to the picture's rows and columns from the
    top left, and the label is the first maximum (matlab/my_script/EvalSegResults.m).

    Args:
        net: a network from :func:`~deeplab_repro.load_caffe` in the TEST phase, as it is or
            fused (``net.fuse()``, which is faster), or any module that maps (N, 3, H, W) float32,
            BGR minus the mean, to scores (N, C, H', W').  Of a CaffeNet only what the scores need
            is kept in memory while it runs if it was made from a
            :func:`~deeplab_repro.caffe.scoring.scoring_net`.
        rule: the input sizes that suit the network.  A CaffeNet's follow from its layers, and
            those of a network of :mod:`deeplab_repro.models` from its table; of another module
            it is :data:`DEFAULT_RULE` unless given.
        blob: the scores of a CaffeNet, see :func:`~deeplab_repro.caffe.scoring.scoring_net`.
        mean: subtracted; three numbers (blue, green, red), a (3, H, W) picture, or None.
        pad_to: pad to this side, or (H, W), instead of that of the rule.
        scales: multi-scale testing: the picture is resized by each factor (sizes are cut to whole
            pixels; OpenCV's bilinear), the scores are resized back the same way.
        fuse: over the scales, ``"max"`` as DeepLab v2 does (section 4.1.2), or ``"mean"``.
        crf: refine the scores by a dense CRF over the picture, as DeepLab's programs do.
        accuracy: sets that of the network's convolutions, ``"exact"`` or ``"fast"``, see
            :func:`~deeplab_repro.ops.set_accuracy`; None leaves them as they are.

    Scores that the network does not zoom to the picture's size (a train network's) are zoomed here
    by Interp's rule: bilinear, the corners held in place.

    Warns:
        UserWarning: ``pad_to`` is no size that suits the network, so that its scores are shifted
            against the picture; or a module in train mode.

    Raises:
        CaffeImportError: a CaffeNet without scores for a picture.
        InputError: scales, a way to fuse them or an accuracy that there are not.
    """

    #: Whether each scale is also looked at in a mirror, as eval.py of v3 does if asked to.
    flip = False

    def __init__(
        self,
        net: nn.Module,
        *,
        rule: InputRule | None = None,
        blob: str | None = None,
        mean: tuple[float, float, float] | Array | None = VOC_MEAN,
        pad_to: int | tuple[int, int] | None = None,
        scales: Sequence[float] = (1.0,),
        fuse: Fuse = "max",
        crf: CRFParams | None = None,
        accuracy: str | None = None,
    ) -> None:
        if not scales or not all(0 < scale < float("inf") for scale in scales):
            raise InputError("scales", expected="positive numbers", got=list(scales))
        if fuse not in ("max", "mean"):
            raise InputError("fuse", expected="max or mean", got=fuse)
        if accuracy not in (None, *ACCURACIES):
            raise InputError("accuracy", expected=" or ".join(ACCURACIES), got=accuracy)
        if accuracy is not None:
            set_accuracy(net, accuracy)
        self.net = net
        self.mean, self.scales, self.fuse = mean, tuple(scales), fuse
        self.pad_to = (pad_to, pad_to) if isinstance(pad_to, int) else pad_to
        self.crf = crf
        if isinstance(net, GraphModule):
            self._scores_of, self.blob, found = _caffe_scores(net, blob)
            self.rule = rule or found
        else:
            self._scores_of, self.blob = net, blob or "scores"
            self.rule = rule or _stated_rule(net)
            if net.training:
                warnings.warn(
                    "the network is in train mode: net.eval() gives its scores", stacklevel=2
                )
        if self.pad_to and not self.rule.suits(*self.pad_to):
            height, width = self.pad_to
            warnings.warn(
                f"an input of {height}x{width} does not suit the network: its scores would be"
                f" shifted against the picture (sides of {self.rule.words()} suit it)",
                stacklevel=2,
            )

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are; the CPU if it has none."""
        parameter = next(chain(self.net.parameters(), self.net.buffers()), None)
        return parameter.device if parameter is not None else torch.device("cpu")

    def input_sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The padded size of a picture at each scale; pictures alike in it fit in one batch."""
        sizes = (self._scaled(height, width, scale) for scale in self.scales)
        return tuple(self.pad_to or self.rule.padded(*size) for size in sizes)

    def __call__(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        """Label pictures in one batch.

        Args:
            pictures: each (H, W, 3) uint8, BGR; alike in :meth:`input_sizes`.

        Raises:
            InputError: pictures of another form, or larger than ``pad_to``; scores with NaN.
        """
        scores = self.scores(pictures)
        return [self.label(one, picture) for one, picture in zip(scores, pictures, strict=True)]

    def stream(
        self,
        jobs: Iterable[Job],
        *,
        read: Callable[[Job], Picture] = read_picture,  # type: ignore[assignment]
        then: Callable[[Job, Picture, Tensor], Any] | None = None,
        batch: int = 1,
        readers: int = 2,
        finishers: int | None = None,
    ) -> Generator[tuple[Job, Any], None, None]:
        """Label any number of pictures: the next are read, and the last refined, meanwhile.

        The network runs in the thread that asks for the results.  A few pictures are in memory at
        a time, however many there are; one that fails does not stop the others.

        Args:
            jobs: one for each picture; paths, unless ``read`` is given.
            read: job -> (H, W, 3) uint8, BGR; called in several threads.
            then: (job, picture, scores) -> result: what to do behind the network with what
                :meth:`scores` gave, such as :meth:`label` and to write it; in ``finishers``
                threads.  By default :meth:`label`.
            batch: pictures alike in :meth:`input_sizes` that go through the network together.
            readers: threads that read.
            finishers: threads that call ``then``, each with its share of torch's threads.  By
                default one, which was fastest beside a network on the CPU, or four beside a GPU.

        Yields:
            (job, result) in the order of the jobs, the result a :class:`Segmentation` or what
            ``then`` returned; of a picture that failed, in its place the error, one of
            :data:`~deeplab_repro.inference.stages.FAILURES`.
        """
        if finishers is None:
            finishers = 4 if self.device.type == "cuda" else 1
        stages = Stages[Job, Picture, Tensor, Any](
            read=read,
            run=self.scores,
            finish=then or (lambda job, picture, scores: self.label(scores, picture)),
            alike=lambda picture: self.input_sizes(picture.shape[0], picture.shape[1]),
            batch=batch,
            readers=readers,
            finishers=finishers,
        )
        return stages(jobs)

    def scores(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """The network's part of the work: (C, H, W) float32 of each picture, where the network is.

        Args:
            pictures: as for a call.

        Raises:
            InputError: pictures of another form, or larger than ``pad_to``.
        """
        for picture in pictures:
            check_picture(picture)
        if not pictures:
            return []
        sizes = {self.input_sizes(picture.shape[0], picture.shape[1]) for picture in pictures}
        if len(sizes) > 1:
            raise InputError("pictures of one batch", expected="one padded size", got=sizes)
        fused: list[Tensor] = []
        for scale, size in zip(self.scales, sizes.pop(), strict=True):
            there = self._run(pictures, scale, size, self.mean)
            fused = (
                [self._fused(a, b) for a, b in zip(fused, there, strict=True)] if fused else there
            )
        if self.fuse == "mean":
            fused = [scores / len(self.scales) for scores in fused]
        return fused

    def part_scores(
        self, picture: Picture, part: tuple[slice, slice], size: tuple[int, int]
    ) -> list[Tensor]:
        """The network's scores of a part of a picture, which :func:`score_tiles` puts together.

        Args:
            picture: (H, W, 3) uint8, BGR.
            part: its rows and columns; what lies beyond the picture is padding.
            size: of the network's input.

        Returns:
            One tensor (C, h, w), of the part's pixels in the picture.

        Raises:
            InputError: a picture of another form.
        """
        check_picture(picture)
        mean = self.mean
        if isinstance(mean, np.ndarray) and mean.ndim == 3:
            mean = mean[:, part[0], part[1]]
        return self._run([picture[part]], 1.0, size, mean)

    def label(self, scores: Tensor, picture: Picture) -> Segmentation:
        """The rest of it: refine by the CRF, if there is one, and take the first maximum.

        Args:
            scores: (C, H, W), of :meth:`scores`.
            picture: (H, W, 3) uint8, BGR.

        Raises:
            InputError: scores with NaN, or that the CRF cannot use.
        """
        if self.crf:
            scores = refine(scores, picture, self.crf)
        return first_maximum(scores)

    def _fused(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b) if self.fuse == "max" else a + b

    def _scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Truncated, as data_transformer.cpp scales pictures."""
        return max(1, int(height * scale)), max(1, int(width * scale))

    def _run(
        self,
        pictures: Sequence[Picture],
        scale: float,
        size: tuple[int, int],
        mean: tuple[float, float, float] | Array | None,
    ) -> list[Tensor]:
        """Scores (C, H, W) of each picture at its own size, from one scale."""
        prepared, shown = [], []
        for picture in pictures:
            height, width = self._scaled(picture.shape[0], picture.shape[1], scale)
            if (height, width) != picture.shape[:2]:
                picture = resize_picture(picture, (height, width))
            shown.append((height, width))
            prepared.append(Preparation(mean, pad_to=size).apply(picture))
        values = torch.from_numpy(np.concatenate(prepared)).to(self.device)
        with torch.inference_mode():
            scores = self._scores_of(values)
            if not isinstance(scores, Tensor) or scores.dim() != 4 or len(scores) != len(values):
                got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise InputError(
                    "the network gives no scores", expected=f"({len(values)}, C, H, W)", got=got
                )
            scores = _full_size(scores, size, self.blob)
            found = []
            for picture, one, (height, width) in zip(pictures, scores, shown, strict=True):
                one = one[:, :height, :width]
                if one.shape[1:] != picture.shape[:2]:
                    # Pixel centres stay where OpenCV's resize has put them.
                    one = F.interpolate(one[None], picture.shape[:2], mode="bilinear")[0]
                found.append(one)
        return found


def segment(net: nn.Module, picture: Picture, **options: Any) -> Segmentation:
    """Label one picture; for several make a :class:`Segmenter`, whose options these are.

    Args:
        net: the network, in the TEST phase.
        picture: (H, W, 3) uint8, BGR.
        options: ``rule``, ``blob``, ``mean``, ``pad_to``, ``scales``, ``fuse``, ``crf``,
            ``accuracy``.

    Returns:
        labels (H, W) uint8 (int16 beyond 256 classes) and scores (C, H, W) float32.

    Raises:
        CaffeImportError: a network without scores.
        InputError: a picture that does not fit.
    """
    return Segmenter(net, **options)([picture])[0]


def check_picture(picture: Any) -> None:
    """Raise InputError unless a picture is (H, W, 3) uint8 with pixels in it."""
    is_array = isinstance(picture, np.ndarray)
    if not is_array or picture.shape[2:] != (3,) or picture.dtype != np.uint8:
        got = f"{picture.shape} {picture.dtype}" if is_array else type(picture).__name__
        raise InputError("picture", expected="(H, W, 3) uint8, BGR", got=got)
    if not picture.size:
        raise InputError("the picture has no pixels", got=picture.shape)


def _caffe_scores(
    net: GraphModule, blob: str | None
) -> tuple[Callable[[Tensor], Tensor], str, InputRule]:
    """What maps a batch of pictures to the scores, their blob, and the sizes that suit."""
    part = scoring_net(net.net, blob)
    scores = part.outputs[0]
    picture = next(iter(net.net.inputs))
    others = [name for name in part.inputs if name != picture]
    if others or picture not in part.inputs:
        raise CaffeImportError(
            f"blob '{scores}' does not come from the picture alone",
            file=net.net.file,
            expected=f"input '{picture}'",
            got=", ".join(part.inputs) or "no input",
        )

    def scores_of(values: Tensor) -> Tensor:
        run = net if net.outputs == [scores] else net.blobs
        found: Tensor = run(**{picture: values})[scores]
        return found

    return scores_of, scores, input_rule(part)


def _stated_rule(net: nn.Module) -> InputRule:
    """The sizes that suit a module: as its table of the papers' networks has them, if it has one.

    The test crop is the first of them from 513 on, as in the released files.
    """
    table = getattr(net, "architecture", None)
    if not isinstance(table, Architecture):
        return DEFAULT_RULE
    options = getattr(net, "options", {})
    step, rest = table.input_rule(options.get("output_stride"))
    side = rest - (rest - 513) // step * step
    return InputRule((side, side), step, None, classes=options.get("num_classes"))


def _full_size(scores: Tensor, size: tuple[int, int], blob: str) -> Tensor:
    """Scores (N, C, h, w) of an input of ``size`` at that size."""
    height, width = scores.shape[2:]
    if zoom_between((height, width), size):
        if (height, width) == size:
            return scores
        return F.interpolate(scores, size, mode="bilinear", align_corners=True)
    if height >= size[0] and width >= size[1]:
        return scores  # what is beyond the input is cut off with the padding, as Matlab did
    raise InputError(
        f"blob '{blob}' of {height}x{width} does not cover an input of {size[0]}x{size[1]}",
        expected="an input size that suits the network's strides, such as 8k + 1",
    )


def refine(scores: Tensor, picture: Picture, params: CRFParams) -> Tensor:
    """Marginals of a dense CRF over scores and their picture, as DeepLab's programs compute them.

    Args:
        scores: (C, H, W) float, on any device; the CRF runs there.
        picture: (H, W, 3) uint8, BGR.
        params: of the CRF.

    Returns:
        (C, H, W), like the scores.

    Raises:
        InputError: scores that the CRF cannot use.
    """
    rgb = torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1)))
    try:
        q: Tensor = dense_crf(-scores[None], rgb[None].to(scores.device), params)
    except ValueError as error:
        raise InputError(str(error)) from None
    return q[0]


def first_maximum(scores: Tensor) -> Segmentation:
    """The label of each pixel: the first of its largest scores, as Matlab's ``max`` takes it.

    Args:
        scores: (C, H, W).

    Raises:
        InputError: scores with NaN.
    """
    values: Array = scores.cpu().numpy()
    if np.isnan(values).any():
        raise InputError("the scores hold NaN")
    kind = np.uint8 if len(values) <= 256 else np.int16
    # numpy's argmax is the first maximum, like Matlab's; torch does not promise which.
    return Segmentation(values.argmax(0).astype(kind), values)
