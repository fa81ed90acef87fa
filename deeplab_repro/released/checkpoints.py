"""TensorFlow's checkpoints as released weights: which variables they have, and reading them.

To the rest of this package a variable is a layer with one blob, in TensorFlow's layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplab_repro.released.archive import Archive
from deeplab_repro.released.models import ReleasedModel, TensorFlowModel, WeightsFile
from prototxt_import import Weights

if TYPE_CHECKING:
    from deeplab_repro.models.v3.network import DeepLabV3

__all__ = [
    "backbone_variables",
    "checkpoint_members",
    "files_of",
    "index_of",
    "is_checkpoint",
    "of_same_kind",
    "read_checkpoint",
    "variable_shapes",
    "write_variables_of",
]

_INDEX: Final = ".index"
_DATA: Final = re.compile(r"\.data-\d{5}-of-\d{5}")
_GRAPH: Final = "frozen_inference_graph.pb"


def is_checkpoint(path: Path) -> bool:
    """Whether a path is that of a checkpoint, by its prefix or one of its files, or of a .pb.

    So is a .safetensors that was made of one.
    """
    if path.suffix == ".safetensors" and path.is_file():
        from tensorflow_import import is_of_tensorflow

        return is_of_tensorflow(path)
    index = path.with_name(path.name + _INDEX)
    is_part = path.suffix == _INDEX or _DATA.fullmatch(path.suffix) is not None
    return is_part or path.suffix == ".pb" or (not path.exists() and index.exists())


def index_of(path: Path) -> Path:
    """The file whose sum stands for all of a checkpoint; of anything else the path itself."""
    if path.suffix in (".pb", ".safetensors") or not is_checkpoint(path):
        return path
    prefix = path.name.removesuffix(_INDEX) if path.suffix == _INDEX else path.name
    return path.with_name(_DATA.sub("", prefix) + _INDEX)


def files_of(path: Path) -> list[Path]:
    """Every file of a checkpoint; of anything else the path alone."""
    index = index_of(path)
    if index.suffix != _INDEX:
        return [path]
    prefix = index.name.removesuffix(_INDEX)
    beside = (file for file in index.parent.iterdir() if file.name.startswith(prefix))
    return [index, *(file for file in beside if _DATA.fullmatch(file.name.removeprefix(prefix)))]


def of_same_kind(path: Path, models: Sequence[ReleasedModel]) -> list[ReleasedModel]:
    """Those models that a file may hold: TensorFlow's of a checkpoint, Caffe's of anything else."""
    wanted = is_checkpoint(path)
    return [model for model in models if isinstance(model, TensorFlowModel) == wanted]


def read_checkpoint(path: Path) -> Weights:
    """Variable -> its values alone in a list, floating-point ones only.

    Raises:
        TensorFlowImportError: It cannot be read, or is damaged.
    """
    from tensorflow_import import read_variables

    variables = read_variables(path)
    return {name: [array] for name, array in variables.items() if array.dtype.kind == "f"}


def write_variables_of(
    target: Path, weights: Weights, model: TensorFlowModel, file: WeightsFile
) -> None:
    """Write the variables of a network as safetensors, with its options inside.

    Of weights to start from, and where nobody has stated the network, all variables are written
    and no options.

    Raises:
        TensorFlowImportError: The file cannot be written.
    """
    from tensorflow_import import write_variables

    options = None
    names = list(weights)
    if model.options is not None and file.use != "init":
        options = model.options_for()
        names = list(variable_shapes(model, model.num_classes))
    variables = {name: weights[name][0] for name in names}
    write_variables(target, variables, options=options)


def checkpoint_members(archive: Archive, member: str) -> dict[str, str]:
    """The files of a checkpoint in an archive, or of a frozen graph where it holds none.

    Args:
        archive: The archive.
        member: Prefix of the checkpoint.  Where the archive has but one, it may have any: released
            ones were named after the step, too.

    Returns:
        Name in the archive -> ending of a file of that kind; empty where there is neither.
    """
    prefixes = [name.removesuffix(_INDEX) for name in archive.names if name.endswith(_INDEX)]
    named = [prefix for prefix in prefixes if prefix.rpartition("/")[2] == member]
    if len(named or prefixes) == 1:
        (prefix,) = named or prefixes
        endings = {name: name.removeprefix(prefix) for name in archive.names}
        parts = {name: ending for name, ending in endings.items() if _DATA.fullmatch(ending)}
        return {prefix + _INDEX: _INDEX, **parts}
    graph = archive.find(_GRAPH) if not prefixes else None
    return {} if graph is None else {graph: ".pb"}


def variable_shapes(
    model: TensorFlowModel, num_classes: int
) -> Mapping[str, tuple[tuple[int, ...]]]:
    """Variable -> its shape, in TensorFlow's layout."""
    return _variable_shapes(json.dumps(model.options_for(num_classes), default=list))


def backbone_variables(model: TensorFlowModel) -> set[str]:
    """The variables of the backbone, which training starts from."""
    from deeplab_repro.models.v3.variables import variables_of

    options = json.dumps(model.options_for(), default=list)
    return set(variables_of(_network(options).backbone))


@cache
def _variable_shapes(options: str) -> dict[str, tuple[tuple[int, ...]]]:
    from deeplab_repro.models.v3.variables import shape_in_tensorflow

    variables: Mapping[str, Any] = _network(options).variables
    return {name: (shape_in_tensorflow(name, tensor.shape),) for name, tensor in variables.items()}


@cache
def _network(options: str) -> DeepLabV3:
    """The network of options in JSON, without memory for its weights."""
    import torch

    from deeplab_repro.models.v3.network import DeepLabV3
    from deeplab_repro.models.v3.options import ModelOptions

    with torch.device("meta"):
        return DeepLabV3(ModelOptions.from_case(json.loads(options)))
