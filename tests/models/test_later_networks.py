"""Tables of later networks become modules too: DeepLab v3's head, blocks of one's own, decoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from deeplab_repro.models import DeepLab
from deeplab_repro.models.architectures import Architecture
from deeplab_repro.models.blocks import ConvUnit, Head, Normalization
from deeplab_repro.models.caffe_blobs import read_blobs
from deeplab_repro.models.layers import resize
from deeplab_repro.models.modules import Builder, Named, chain, layers_of, module_of
from tests.models.narrow import picture, randomize
from tests.models.test_architectures import V3, Decoder, Separable, run


@layers_of.register
def _(block: Separable, build: Builder) -> Iterator[Named]:
    yield build.layer(f"{block.name}_depthwise")
    yield build.layer(f"{block.name}_pointwise")


class DecoderModule(nn.Module):
    """Joins the head's map with an earlier one, at the earlier one's size."""

    def __init__(self, block: Decoder, build: Builder) -> None:
        super().__init__()
        self.sources = (block.source,)
        self.head = module_of(block.head, build)
        self.refine = chain((block.unit, ConvUnit("logits", None, 1)), build)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        up = nn.functional.interpolate(
            self.head(x), low.shape[2:], mode="bilinear", align_corners=True
        )
        y: Tensor = self.refine(torch.cat([up, low], 1))
        return y


@module_of.register
def _(block: Decoder, build: Builder) -> nn.Module:
    return DecoderModule(block, build)


SHORT_V3 = replace(V3, backbone=tuple(stage[:2] for stage in V3.backbone))
UNIT = ConvUnit("aspp", 256, 3, rate=6, norm=Normalization("bn", "scale", 1e-3, frozen=False))
SMALL_V3_PLUS = Architecture(
    tuple((Separable(f"s{i}", 64 * 2**i, stride=2),) for i in range(5)),
    Decoder("s1_pointwise", Head(((UNIT,),), "aspp", output_stride=16), Separable("refine", 256)),
    stem="logits",
    output_stride=16,
)


@pytest.mark.parametrize("table", [SHORT_V3, SMALL_V3_PLUS], ids=["v3", "v3+"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_modules_compute_the_steps(table: Architecture, output_stride: int) -> None:
    model = DeepLab(table, num_classes=4, output_stride=output_stride, width=16)
    randomize(model).eval()
    x = picture((65, 97))
    with torch.inference_mode():
        ours = model(x)
        expansion = model.expansion()
        blobs = {layer: list(map(torch.from_numpy, b)) for layer, b in read_blobs(model).items()}
        steps = run(expansion, blobs, x)[expansion.output.name]
    assert ours.shape == (1, 4, 65, 97)
    assert steps.std() > 0
    torch.testing.assert_close(ours, steps, rtol=0, atol=1e-5 * steps.abs().max().item())


def test_normalization_that_is_not_frozen_learns() -> None:
    model = randomize(DeepLab(SMALL_V3_PLUS, num_classes=4, width=16))
    norm = model.get_submodule("head.head.bn")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.eps == 1e-3
    before = norm.running_mean.clone()
    outputs = model(picture((65, 65), 2))
    assert [tuple(scores.shape) for scores in outputs] == [(2, 4, 17, 17)]
    model.loss(outputs, torch.randint(0, 4, (2, 65, 65))).backward()
    assert norm.weight.grad is not None
    assert norm.weight.grad.any()
    assert not torch.equal(norm.running_mean, before)


def test_a_block_without_modules_says_so() -> None:
    class Unknown(Separable):
        pass

    # A block may be a kind of another one; one that nobody knows is refused.
    assert DeepLab(replace(SMALL_V3_PLUS, backbone=((Unknown("s1", 64, 16),),), head=V3.head))
    with pytest.raises(TypeError, match="no modules are known for blocks of the kind object"):
        next(layers_of(object(), Builder(SMALL_V3_PLUS)))


def test_resize_by_hand() -> None:
    """n rows become (n - 1) // shrink * zoom + 1, between corners that stay."""
    assert torch.equal(resize(torch.full((1, 1, 1, 1), 7.0), zoom=8), torch.full((1, 1, 1, 1), 7.0))
    row = torch.tensor([[[[0.0, 8.0, 16.0]]]])
    assert resize(row, zoom=4).flatten().tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    expected = [0, 16 / 3, 32 / 3, 16]
    assert resize(row, zoom=3, shrink=2).flatten().tolist() == pytest.approx(expected)
    square = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert resize(square, shrink=2).flatten().tolist() == [0, 2, 4, 10, 12, 14, 20, 22, 24]
    assert resize(square, shrink=3, skip=1).flatten().tolist() == [6, 9, 21, 24]
