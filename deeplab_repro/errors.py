"""Bad input that is no Caffe file and no network."""

from __future__ import annotations

from prototxt_import.errors import BadInput

__all__ = ["BadInput", "InputError"]


class InputError(BadInput):
    """A picture, scores, a recording, a label list or an option that cannot be used.

    Caffe's files and the networks in them raise :class:`prototxt_import.CaffeImportError`; both are
    :class:`BadInput`, which the command line says in one line with exit code 2.
    """
