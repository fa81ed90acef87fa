"""What reports in HTML share: one file each that needs nothing but itself."""

from deeplab_repro.pages.page import png_address, render_page, write_page
from deeplab_repro.pages.svg import BAD, FIRST, GRID, SECOND, TEXT, page_svg

__all__ = [
    "BAD",
    "FIRST",
    "GRID",
    "SECOND",
    "TEXT",
    "page_svg",
    "png_address",
    "render_page",
    "write_page",
]
