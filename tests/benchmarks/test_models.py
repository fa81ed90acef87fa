"""The table of all models: README.md against the numbers, and the numbers against the networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import models  # noqa: E402

from deeplab_repro.caffe.analysis import analyse  # noqa: E402
from deeplab_repro.models import NETWORKS, list_models, write_network  # noqa: E402
from deeplab_repro.released import names  # noqa: E402
from prototxt_import import parse_net  # noqa: E402


def test_readme_has_the_table() -> None:
    page = models.PAGE.read_text(encoding="utf-8")
    assert models.filled(page) == page, "python benchmarks/models.py --table"


def test_every_network_and_every_released_model_is_in_it() -> None:
    table = models.table()
    for name in list_models():
        assert f"| `{name}` |" in table
    # EdgeTPU-DeepLab's network is not stated anywhere; backbones have no score.
    unknown = {"edgetpu_deeplab", "edgetpu_deeplab_slim"}
    backbones = {name for name in names() if name.endswith(("_imagenet", "65_coco"))}
    for name in set(names()) - unknown - backbones:
        assert f" {name}`" in table


@pytest.mark.parametrize("short", ["largefov", "resnet101-msc-aspp"])
def test_parameters_are_those_of_the_catalogue(short: str) -> None:
    """Which has them from the released files: another way than counting those of a module."""
    sizes = json.loads(models.RESULTS.read_text())
    network = NETWORKS[short]
    assert sizes[network.full_name]["parameters"] == network.parameters


def test_multiply_adds_by_other_ways() -> None:
    """LargeFOV's from Caffe's shapes, those of two checkpoints beside the published ones."""
    sizes = json.loads(models.RESULTS.read_text())
    network = NETWORKS["largefov"]
    shape = {"data": (1, 3, network.test_size, network.test_size)}
    costs = analyse(parse_net(write_network("largefov", phase="DEPLOY")), shape)
    total = sum(cost.multiply_adds or 0 for cost in costs)
    assert sizes[network.full_name]["multiply_adds"] == total
    # g3doc/model_zoo.md: 54.17 and 2.75 billion, which count what follows convolutions, too.
    assert sizes["deeplab_v3plus_xception65"]["multiply_adds"] == pytest.approx(54.17e9, rel=5e-3)
    assert sizes["deeplab_v3_mobilenet_v2"]["multiply_adds"] == pytest.approx(2.75e9, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplab_v2_vgg16", "deeplab_v3_mobilenet_v3_small"])
def test_numbers_are_those_of_the_networks(name: str) -> None:
    stated = json.loads(models.RESULTS.read_text())[name]
    assert {"side": stated["side"], **models.measured(name, stated["side"])} == stated
