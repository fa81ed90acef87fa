"""Choosing a CRF's parameters by eye: a page that shows at once what each of them does."""

from deeplab_repro.tuning.field import Field, Stale
from deeplab_repro.tuning.server import Tuner, listen
from deeplab_repro.tuning.subject import Subject

__all__ = ["Field", "Stale", "Subject", "Tuner", "listen"]
