"""What the commands that run a dense CRF share: its parameters and its device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab_repro.errors import InputError
from deeplab_repro.processes import local_device
from prototxt_import.files import read_text

if TYPE_CHECKING:
    import torch

    from deeplab_repro.crf import CRFParams

__all__ = ["crf_device", "read_crf_params"]


def read_crf_params(text: str) -> CRFParams:
    """The parameters of a released model, or those in a file.

    Args:
        text: A name that ``CRFParams.named`` knows, or a ``.json`` file with fields of
            ``CRFParams``, such as ``crf-search`` writes.

    Raises:
        InputError: Neither a name nor such a file.
    """
    from deeplab_repro.crf import Bilateral, CRFParams

    if Path(text).suffix != ".json":
        try:
            return CRFParams.named(text)
        except ValueError as error:
            raise InputError(f"{error}, or a .json file of parameters") from None
    try:
        fields = json.loads(read_text(text))
        # A std for each axis or channel is a list in JSON.
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        fields["extra"] = tuple(Bilateral(**kernel) for kernel in fields.get("extra", ()))
        return CRFParams(**fields)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"holds no parameters of a CRF ({error})", file=text, expected="fields of CRFParams"
        ) from None


def crf_device() -> torch.device:
    """A GPU for which there are kernels, or the CPU."""
    import torch

    from deeplab_repro.native.backends import backends

    there = backends()
    has_kernels = there["cuda"].available or there["cupy"].available
    return local_device() if has_kernels else torch.device("cpu")
