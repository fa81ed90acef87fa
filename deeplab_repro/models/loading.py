"""Networks from the weights that people have."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from deeplab_repro.errors import InputError
from deeplab_repro.models.architectures import expand
from deeplab_repro.models.caffe_blobs import with_copies
from deeplab_repro.models.catalogue import find
from deeplab_repro.models.create import create_deeplab
from deeplab_repro.models.deeplab import DeepLab
from deeplab_repro.models.identify import identify
from deeplab_repro.models.modules import NormFactory
from deeplab_repro.models.ports import Ported, translate
from deeplab_repro.models.torchvision import (
    TorchvisionDeepLab,
    is_of_torchvision,
    load_torchvision,
)
from deeplab_repro.models.write import write_network
from prototxt_import import DIALECTS, CaffeImportError, Model, read_model
from prototxt_import.files import kind_of
from prototxt_import.text import parse_text
from prototxt_import.words import show

__all__ = ["load", "read_state_dict", "read_torch_file"]

#: Under which key a checkpoint keeps its state dict.
_INNER: Final = ("state_dict", "model_state_dict", "model", "net")

StateDict: TypeAlias = "Mapping[str, Tensor]"


def load(
    source: str | os.PathLike[str] | StateDict,
    name: str | None = None,
    *,
    num_classes: int | None = None,
    output_stride: int | None = None,
    strict: bool = True,
    norm: NormFactory | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> DeepLab | TorchvisionDeepLab:
    """A network with the weights of a file, in train mode.

    Args:
        source: a `.caffemodel`, `.caffemodel.h5` or `.safetensors`; what `deeplab-repro convert`
            wrote as `.pt`; or the state dict, in a file of `torch.save` or given, of a network of
            :func:`create_model` or of a port (see `deeplab_repro.models.ports`).  Files of torch's
            are read with `weights_only=True`.  State dicts of torchvision's `deeplabv3_*` become
            networks that compute what theirs compute (`deeplab_repro.models.torchvision`).
        name: the network, in `NETWORKS` or its full name.  Where None, the layers say it; but some
            networks differ in their rates alone, and a state dict of ours does not hold its name.
        num_classes: other than that of the file; the classifier needs `strict=False` then, and
            starts anew.
        output_stride: other than that of the network in the file.  Where None, it is read from
            there; a `.caffemodel.h5`, a state dict or a file of weights alone holds no network, and
            gets the published one.
        strict: everything in the file finds its place, and all of the network is filled; False as
            in :func:`deeplab_repro.models.caffe_blobs.load_blobs`.
        norm, device, dtype: as of :func:`create_model`.

    Returns:
        the network; its `load_report` says what was copied, missing, unused and reshaped.

    Warns:
        UserWarning: the network in the file has the weights of a known one, but other strides,
            rates or paddings than that has at any output stride, so that it computes other scores.

    Raises:
        InputError, CaffeImportError: a file that cannot be used, or whose network is not clear.

    Example:
        >>> model = load("deeplabv2_resnet101_msc-vocaug.pth").eval()
    """
    theirs = _of_torchvision(source)
    if theirs is not None:
        given = {"name": name, "num_classes": num_classes, "output_stride": output_stride}
        if other := [key for key, value in {**given, "norm": norm}.items() if value is not None]:
            raise InputError(f"{other[0]} of a network of torchvision's", expected="none")
        return theirs.to(device, dtype)
    if isinstance(source, Mapping):
        model, ported = _understood(source, name, None)
    elif kind_of(source) == "torch":
        model, ported = read_torch_file(source, name)
    elif kind_of(source) == "prototxt":
        raise InputError(
            "is a text, which holds no weights",
            file=source,
            expected="a .caffemodel, .caffemodel.h5, .safetensors or .pth",
        )
    else:
        model, ported = read_model(source), None
    identity = identify(model, name if ported is None else ported.network)
    numbers = identity.options()
    if num_classes is not None:
        numbers["num_classes"] = num_classes
    if output_stride is not None:
        numbers["output_stride"] = output_stride
    elif name is None and model.raw is not None and identity.output_stride is None:
        warnings.warn(
            f"{model.weights_file}: the network in the file has the weights of {identity.name}, "
            "but other strides, rates or paddings; those of "
            f"{identity.name} are taken, and scores will differ",
            stacklevel=2,
        )
    net = create_deeplab(identity.name, norm=norm, device=device, dtype=dtype, **numbers)
    try:
        net.load_caffe_weights(model.weights, strict=strict)
    except CaffeImportError as error:
        raise error.with_file(model.weights_file or "the weights") from None
    return net


def read_torch_file(
    path: str | os.PathLike[str], name: str | None = None
) -> tuple[Model, Ported | None]:
    """A network and its weights from a file of `torch.save`, as from a caffemodel.

    Args:
        path: what `deeplab-repro convert` wrote as `.pt`, or a state dict of ours or of a port.
        name: the network, where the keys do not say which it is.

    Returns:
        the model, its weights with the copies for other scales; and, for a port, what went where.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    model, ported = _understood(_torch_content(path), name, os.fspath(path))
    if model.raw is None:
        identity = identify(model, name if ported is None else ported.network)
        numbers = identity.options()
        text = write_network(identity.name, num_labels=numbers.pop("num_classes"), **numbers)
        model.raw, model.net_file = parse_text(text), os.fspath(path)
    return model, ported


def read_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """The tensors in a file of `torch.save`, or in the checkpoint that it holds, by their keys.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    return _state_dict(_torch_content(path), os.fspath(path))


def _of_torchvision(
    source: str | os.PathLike[str] | StateDict,
) -> TorchvisionDeepLab | None:
    """The network of a state dict of torchvision's; None for anything else."""
    file = None if isinstance(source, Mapping) else os.fspath(source)
    if file is not None and kind_of(file) != "torch":
        return None
    content = source if file is None else _torch_content(file)
    if isinstance(content, Mapping) and isinstance(content.get("prototxt"), str):
        return None
    state = _state_dict(content, file)
    return load_torchvision(state, file) if is_of_torchvision(state) else None


def _torch_content(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot be read as a file of tensors ({reason})", file=path, expected="a state dict"
        ) from None


def _understood(content: Any, name: str | None, file: str | None) -> tuple[Model, Ported | None]:
    if isinstance(content, Mapping) and isinstance(content.get("prototxt"), str):
        return _converted(content, file), None
    state = _state_dict(content, file)
    if any(".stage1." in f".{key}" for key in state):
        return _own(state, name, file), None
    try:
        ported = translate(state)
    except InputError as error:
        raise error.with_file(file or "the state dict") from None
    if ported is None:
        raise InputError(
            "is not the state dict of a known network",
            file=file,
            expected="keys of kazuto1011, isht7, speedinghzl, wangleihitcs or of create_model",
            got=", ".join([*list(state)[:3], "..."]),
        )
    network = find(name or ported.network)
    identity = identify(Model(weights=ported.weights, weights_file=file), network.full_name)
    weights = with_copies(expand(network.architecture, **identity.options()), ported.weights)
    return Model(weights=weights, weights_file=file), replace(ported, network=identity.name)


def _state_dict(content: Any, file: str | None) -> StateDict:
    """The state dict in a checkpoint, or the content itself."""
    for key in _INNER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError("holds no state dict", file=file, got=type(content).__name__)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                "holds no state dict",
                file=file,
                expected="tensors by name",
                got=f"{type(value).__name__} under {key!r}",
            )
    return content


def _converted(content: Mapping[str, Any], file: str | None) -> Model:
    """What `deeplab-repro convert` writes: blobs as LAYER.i, and the prototxt."""
    weights: dict[str, list[Any]] = {}
    for key, value in _state_dict(content, file).items():
        layer, _, number = key.rpartition(".")
        blobs = weights.setdefault(layer, [])
        if number != str(len(blobs)):
            raise InputError(
                "its blobs are not in order", file=file, expected=f"{layer}.{len(blobs)}", got=key
            )
        blobs.append(value.numpy())
    dialect = content.get("dialect")
    raw = parse_text(
        content["prototxt"], forced=dialect if dialect in DIALECTS else None, file=file
    )
    return Model(raw, content.get("filtered") is True, weights, file, file)


def _own(state: StateDict, name: str | None, file: str | None) -> Model:
    """A state dict of `create_model`'s network."""
    if name is None:
        raise InputError(
            "is the state dict of a network of create_model, which does not say of which",
            file=file,
            expected="the network's name, too",
        )
    firsts = {
        path.rpartition(".")[2]: [value.numpy()]
        for key, value in state.items()
        for path, _, tensor in [key.rpartition(".")]
        if tensor == "weight"
    }
    identity = identify(Model(weights=firsts, weights_file=file), name)
    model = create_deeplab(identity.name, **identity.options())
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    for key in sorted(shapes.keys() | state.keys()):
        found = state[key].shape if key in state else None
        if found != shapes.get(key):
            raise InputError(
                f"is not a state dict of {identity.name}: {key} does not fit",
                file=file,
                expected=show(shapes[key]) if key in shapes else "no such tensor",
                got="none" if found is None else show(found),
            )
    model.load_state_dict(state)
    return Model(weights=model.caffe_weights(), weights_file=file)
