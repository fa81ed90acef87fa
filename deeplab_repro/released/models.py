"""What is known of a released model: its network, its files, and what it scores.

There are two kinds: caffemodels of DeepLab v1 and v2, and TensorFlow's checkpoints of v3 and v3+.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from deeplab_repro.errors import InputError
from deeplab_repro.models import NETWORKS, Network

__all__ = [
    "CaffeModel",
    "Download",
    "Published",
    "ReleasedModel",
    "Reported",
    "Score",
    "Source",
    "TensorFlowModel",
    "Use",
    "WeightsFile",
]

Use = Literal["val", "test", "init"]


class Published(TypedDict):
    """What the authors published of a model; mean IoU on VOC 2012 in percent, None where nothing.

    source: table or page.  miou, miou_crf: on val, before and after the dense CRF.  test_miou_crf:
    on test, after the CRF, by the file whose use is "test".  tolerance, tolerance_crf: how far a
    reproduction on val may be off, None where no independent one tells.
    """

    source: str
    miou: float | None
    miou_crf: float | None
    test_miou_crf: float | None
    tolerance: float | None
    tolerance_crf: float | None


@dataclass(frozen=True)
class Reported:
    """What somebody else measured on VOC 2012 val; mean IoU in percent, None where nothing.

    Attributes:
        who: The project or person.
        url: Where it stands.
        miou: Before the CRF.
        miou_crf: After the CRF.
        note: In which words, or from which training.
        same_weights: Whether these are the released weights, and no training of somebody's own.
    """

    who: str
    url: str
    miou: float | None
    miou_crf: float | None
    note: str
    same_weights: bool


@dataclass(frozen=True)
class Source:
    """One address of a file.

    Attributes:
        named_by: A public page or script that gives this address; "" where it follows the pattern
            of the others and is not confirmed.
    """

    url: str
    named_by: str

    @property
    def confirmed(self) -> bool:
        """Whether somebody has named this very address."""
        return bool(self.named_by)


@dataclass(frozen=True)
class Download:
    """A file as it was published: an archive, or the weights themselves.

    Attributes:
        name: Of the file.
        sources: Addresses in the order in which to try them.
        holds: Names of the files in it, where it is an archive.
        bytes: Its length, None where nobody has published it.
        sha256: Its sum in hexadecimal, None where nobody has published it.
    """

    name: str
    sources: tuple[Source, ...]
    holds: tuple[str, ...]
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class WeightsFile:
    """One set of weights of a model.

    Attributes:
        name: Such as train_iter_20000.
        use: "val": to be scored on val; "test": trained on val, too, to be scored on test; "init":
            training starts from it, its classifier does not fit.
        trained_on: The set of images, or what it was trained on before VOC 2012.
        download: What to download.
        member: Its name in the archive, None where it is the download itself.  That of a checkpoint
            is the prefix which its files share.
    """

    name: str
    use: Use
    trained_on: str
    download: Download
    member: str | None

    def saw(self, split: str) -> bool:
        """Whether images of a set (train, val, trainval, train_aug, trainval_aug) were trained on.

        A score on images that a network was trained on says nothing: the released weights for the
        test set reach 85 to 87 on val.
        """
        from deeplab_repro.evaluation.seen import is_known, was_seen

        return is_known(self.trained_on) and bool(was_seen(self.trained_on, split))


@dataclass(frozen=True)
class ReleasedModel:
    """A model as it was released; what computes it is told by the two kinds of it.

    Attributes:
        name: Short name.
        title: Its name in the papers.
        num_classes: Labels.
        crf: A name for `CRFParams.named`, None where there is none.
        released_as: Its name or folder at its authors'.
        pretrained_on: What the network had been trained on before.
        files: Sets of weights, at least one.
        licence: A note on the terms of use.
    """

    name: str
    title: str
    num_classes: int
    crf: str | None
    released_as: str
    pretrained_on: str
    files: tuple[WeightsFile, ...]
    licence: str

    @property
    def default(self) -> WeightsFile:
        """The weights to score on val, or else the first."""
        return next((file for file in self.files if file.use == "val"), self.files[0])

    @property
    def trained_on(self) -> str:
        """The set of images that the default weights were trained on."""
        return self.default.trained_on

    @property
    def downloads(self) -> tuple[Download, ...]:
        """Everything that can be downloaded, each once."""
        return tuple({file.download.name: file.download for file in self.files}.values())

    def weights(self, name: str | None = None) -> WeightsFile:
        """A set of weights by name, with or without the ending .caffemodel.

        Args:
            name: None for the default.

        Raises:
            InputError: There is none of this name.
        """
        if name is None:
            return self.default
        for file in self.files:
            if file.name == name.removesuffix(".caffemodel"):
                return file
        raise InputError(
            f"the model {self.name} has no weights of this name",
            expected=" or ".join(file.name for file in self.files),
            got=name,
        )

    def file(self, name: str | None = None) -> Path:
        """The path of a set of weights in the local store, as safetensors with the network inside.

        Args:
            name: One of `files`, the default where None.

        Raises:
            InputError: There is none of this name, or it has not been fetched; the message names
                the command that does.
        """
        from deeplab_repro.released.store import Store

        return Store().need(self, self.weights(name))


@dataclass(frozen=True)
class CaffeModel(ReleasedModel):
    """A caffemodel of DeepLab v1 or v2.

    Attributes:
        network: A name of `deeplab_repro.models.NETWORKS`.
        width: Divisor of the published channel counts: 1 but in small models for tests.
        exp: What the released prototxts call ${EXP} in the names of layers.
        published: Scores.
        reported: What others measured.
    """

    network: str
    width: int
    exp: str
    published: Published
    reported: tuple[Reported, ...]

    @property
    def definition(self) -> Network:
        """Its network's entry in `NETWORKS`: input size and rule, names of blobs."""
        return NETWORKS[self.network]


@dataclass(frozen=True)
class Score:
    """What a checkpoint scored in one way of running it.

    Attributes:
        output_stride: Of the network.
        scales: Factors of the picture's size, over which probabilities are averaged.
        flip: Each of them mirrored, too.
        split: Of the data set, "val" or "test".
        miou: Mean IoU in percent.
        pixel_accuracy: In percent, None where nobody states it.
    """

    output_stride: int
    scales: tuple[float, ...]
    flip: bool
    split: str
    miou: float
    pixel_accuracy: float | None

    def __str__(self) -> str:
        """Such as "OS 8, scales 0.5 to 1.75, mirrored"."""
        scales = ""
        if self.scales != (1.0,):
            scales = f", scales {min(self.scales):g} to {max(self.scales):g}"
        return f"OS {self.output_stride}{scales}{', mirrored' if self.flip else ''}"


@dataclass(frozen=True)
class TensorFlowModel(ReleasedModel):
    """A checkpoint of DeepLab v3 or v3+.

    Attributes:
        options: What decides the network, under the names of
            :class:`deeplab_repro.models.v3.options.ModelOptions`; for training, at output stride
            16 in general.  None where nobody states them all; the variables tell then.
        data: The data set that it labels: "voc2012", "cityscapes" or "ade20k"; "" for weights to
            start from.
        crop_size: (height, width) that a picture is padded to for evaluation.
        resize: Side that pictures are resized to before, None where they are not.
        source: Where its scores stand.
        scores: Each way of running it whose score is published.
        tolerance: How far a reproduction of these may be off, in percent.
        values: Numbers in its weights, for the listing; None where `options` is None.
    """

    options: Mapping[str, Any] | None
    data: str
    crop_size: tuple[int, int] | None
    resize: int | None
    source: str
    scores: tuple[Score, ...]
    tolerance: float | None
    values: int | None

    def options_for(
        self, num_classes: int | None = None, output_stride: int | None = None
    ) -> dict[str, Any]:
        """Its options, for another number of labels or at another output stride.

        The rates of ASPP keep their field of view, and where the decoder's maps are the scores,
        they have as many channels as there are labels.

        Args:
            num_classes: its own where None.
            output_stride: that of `options` where None.

        Raises:
            InputError: Nobody states its options.
            StrideError: Its rates are no whole numbers at this output stride.
        """
        from deeplab_repro.models.atrous import rates_at

        if self.options is None:
            raise InputError(
                f"nobody has stated what the network of {self.name} is", expected="--options FILE"
            )
        options = {**self.options, "num_classes": num_classes or self.num_classes}
        if options.get("decoder_output_is_logits"):
            options["decoder_filters"] = options["num_classes"]
        if output_stride is not None:
            rates, published = options.get("atrous_rates"), options.get("output_stride", 16)
            options["output_stride"] = output_stride
            if rates:
                options["atrous_rates"] = rates_at(output_stride, tuple(rates), published)
        return options
