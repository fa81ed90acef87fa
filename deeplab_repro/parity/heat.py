"""Maps of values as pictures, small enough to be written into a page."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from deeplab_repro.pages import png_address

__all__ = ["difference_picture", "plane_of", "value_picture"]

Array = np.ndarray[Any, Any]
#: Longest side of a picture in a page; larger maps are halved.
_LONGEST: Final = 640
_NOT_A_NUMBER: Final = (200, 0, 200)  # BGR; in neither colour map
_NEGATIVE: Final = np.array([172, 102, 33], np.float32)  # BGR of -1, 0 and 1 in a difference
_ZERO: Final = np.array([247, 247, 247], np.float32)
_POSITIVE: Final = np.array([43, 24, 178], np.float32)


def plane_of(values: Array, picture: int, channel: int) -> Array:
    """One map (H, W) of a blob (N, C, H, W); blobs with fewer axes are laid out in rows."""
    if values.ndim >= 4:
        plane: Array = values.reshape(*values.shape[:2], -1, values.shape[-1])[picture, channel]
        return plane
    flat = values.reshape(-1)
    width = max(1, int(np.ceil(np.sqrt(flat.size))))
    filled = np.full(-(-flat.size // width) * width, np.nan, np.float32)
    filled[: flat.size] = flat
    return filled.reshape(-1, width)


def value_picture(plane: Array, low: float, high: float) -> str:
    """``plane`` (H, W) from dark (``low``) to bright (``high``), as a data: address of a PNG."""
    share = (_finite(plane) - low) / ((high - low) or 1.0)
    levels = (np.clip(share, 0, 1) * 255).astype(np.uint8)
    return _address(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), plane)


def difference_picture(plane: Array, largest: float) -> str:
    """``plane`` (H, W) from blue (``-largest``) over white (0) to red, as :func:`value_picture`."""
    share = np.clip(_finite(plane) / (largest or 1.0), -1, 1)[..., None]
    end = np.where(share < 0, _NEGATIVE, _POSITIVE)
    return _address((_ZERO + (end - _ZERO) * np.abs(share)).astype(np.uint8), plane)


def _finite(plane: Array) -> Array:
    return np.nan_to_num(plane.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _address(colours: Array, plane: Array) -> str:
    colours = np.ascontiguousarray(colours)
    colours[~np.isfinite(plane)] = _NOT_A_NUMBER
    shrink = max(1, -(-max(colours.shape[:2]) // _LONGEST))
    if shrink > 1:
        size = max(1, colours.shape[1] // shrink), max(1, colours.shape[0] // shrink)
        colours = cv2.resize(colours, size, interpolation=cv2.INTER_AREA)
    return png_address(colours)
