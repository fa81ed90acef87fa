"""Filling a page's template, and writing it with its pictures inside."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

import deeplab_repro
from prototxt_import.files import replacing

__all__ = ["png_address", "render_page", "write_page"]


def render_page(
    room: str, template: str, filters: Mapping[str, Callable[..., Any]], **values: Any
) -> str:
    """The text of a page.

    Args:
        room: the package in whose folder ``page`` the template lies; ``page.css`` is shared.
        template: file name.
        filters: that the template uses.
        values: that the template names.  All of them are escaped, whatever is in them; what is
            markup already comes as ``markupsafe.Markup``.
    """
    page = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader(room, "page"),
                jinja2.PackageLoader("deeplab_repro.pages", "shared"),
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= filters
    return page.get_template(template).render(version=deeplab_repro.__version__, **values)


def write_page(path: str | os.PathLike[str], text: str) -> None:
    """Write a page; whatever was at ``path`` is replaced when all is done."""
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def png_address(pixels: np.ndarray[Any, Any]) -> str:
    """(H, W, 3) uint8, BGR, as a ``data:`` address of a PNG."""
    _, encoded = cv2.imencode(".png", pixels)
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
