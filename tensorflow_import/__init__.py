"""TensorFlow's files without TensorFlow: checkpoints in and out, frozen graphs in.

Knows nothing of torch: variables come by name as numpy arrays, in TensorFlow's layout.

    >>> variables = read_variables("model.ckpt-30000")
    >>> variables["MobilenetV2/Conv/weights"].shape
    (3, 3, 3, 32)
    >>> write_checkpoint("copy.ckpt", variables)
"""

from tensorflow_import.arrays import VariableInfo, is_of_tensorflow, read_options
from tensorflow_import.errors import BadInput, TensorFlowImportError
from tensorflow_import.graph import Graph, Node, graph_nodes, read_constants
from tensorflow_import.paths import locate
from tensorflow_import.variables import (
    kind_of_output,
    list_variables,
    other_dtypes,
    read_variables,
    write_variables,
)
from tensorflow_import.write import write_checkpoint

__all__ = [
    "BadInput",
    "Graph",
    "Node",
    "TensorFlowImportError",
    "VariableInfo",
    "graph_nodes",
    "is_of_tensorflow",
    "kind_of_output",
    "list_variables",
    "locate",
    "other_dtypes",
    "read_constants",
    "read_options",
    "read_variables",
    "write_checkpoint",
    "write_variables",
]
