"""Small pictures, lists and data layers for the tests of feeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from deeplab_repro.train.feeds import Feeds
from prototxt_import import Dialect, Phase, parse_net


def feeds(
    text: str, *, phase: Phase = "TRAIN", dialect: Dialect | None = "dl2", **options: Any
) -> Feeds:
    """Feeds of the layers of a prototxt; the layers' names are added by type."""
    net = parse_net(text, phase=phase, dialect=dialect)
    return Feeds(net.data_layers, **{"seed": 0, **options})


def seg_data(folder: Path, image: str = "", transform: str = "", tops: int = 3) -> str:
    """An ImageSegData layer that reads ``folder/list.txt``, two items at a time unless told."""
    names = ["data", "label", "data_dim"][:tops]
    return (
        'layer { name: "d" type: "ImageSegData" '
        + " ".join(f'top: "{name}"' for name in names)
        + f' image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/"'
        + ("" if "batch_size" in image else " batch_size: 2")
        + ("" if "label_type" in image else " label_type: PIXEL")
        + f" {image} }} transform_param {{ {transform} }} }}"
    )


def write_pictures(
    folder: Path, count: int, size: tuple[int, int] = (6, 8), *, palette: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random pictures and label pictures, and the list of them; their values."""
    rng = np.random.default_rng(5)
    made = []
    for i in range(count):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        labels = rng.integers(0, 21, size, np.uint8)
        write_pair(folder, i, pixels, labels, palette=palette)
        made.append((pixels, labels))
    (folder / "list.txt").write_text("".join(f"{i}.png {i}_l.png\n" for i in range(count)))
    return made


def write_pair(
    folder: Path, i: int, pixels: np.ndarray, labels: np.ndarray, *, palette: bool = False
) -> None:
    cv2.imwrite(str(folder / f"{i}.png"), pixels)
    picture = Image.fromarray(labels)
    if palette:
        picture.putpalette([17 * k % 256 for k in range(768)])
    picture.save(folder / f"{i}_l.png")
