"""The page that `make demo` ends with."""

from deeplab_repro.demo.page import Demo, demo_page, write_demo

__all__ = ["Demo", "demo_page", "write_demo"]
