"""What is raised for TensorFlow's files that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError

from prototxt_import.errors import BadInput
from prototxt_import.wire import WireError

__all__ = ["BadInput", "Damaged", "TensorFlowImportError", "naming"]


class TensorFlowImportError(BadInput):
    """A checkpoint or a frozen graph of TensorFlow that cannot be used."""


class Damaged(ValueError):
    """Bytes that are not what they should be; the message says what and where."""


@contextmanager
def naming(file: object, kind: str) -> Iterator[None]:
    """Whatever goes wrong in the block is said of ``file``, as a TensorFlowImportError.

    Limits, the opening of files and the walk over protobuf's wire format are shared with the
    readers of Caffe's files and raise errors of their own.

    Args:
        file: named in the message, unless the error names a file already.
        kind: what ``file`` should be, for bytes that are nothing of the kind.

    Raises:
        TensorFlowImportError: in place of any error about the input.
    """
    try:
        yield
    except TensorFlowImportError as error:
        raise error.with_file(file) from None
    except BadInput as error:
        raise TensorFlowImportError(
            error.message,
            file=error.file or file,
            layer=error.layer,
            expected=error.expected,
            got=error.got,
        ) from None
    except (Damaged, WireError, DecodeError) as error:
        raise TensorFlowImportError(f"is no {kind}, or damaged ({error})", file=file) from None
