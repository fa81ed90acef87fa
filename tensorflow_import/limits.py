"""How much of anything a TensorFlow file may hold, checked before memory is taken.

As ``prototxt_import.limits``, from which two limits come: ``MAX_PARAMETER_BYTES`` for the values
of all variables that are read, and ``MAX_FIELDS`` for the protobuf fields of a graph.  Every limit
lies far above any DeepLab, and the error names the environment variable that raises it.
"""

from __future__ import annotations

from typing import Final

from prototxt_import.limits import MAX_FIELDS, MAX_PARAMETER_BYTES, Limit

__all__ = [
    "INT64_MAX",
    "MAX_ATTRIBUTE_BYTES",
    "MAX_AXES",
    "MAX_ENTRY_BYTES",
    "MAX_FIELDS",
    "MAX_GRAPH_BYTES",
    "MAX_INDEX_BYTES",
    "MAX_NAME_BYTES",
    "MAX_PARAMETER_BYTES",
    "MAX_REPEATED_BYTES",
    "MAX_SHARDS",
    "MAX_STATE_BYTES",
    "MAX_STRINGS",
    "MAX_VARIABLES",
    "MAX_VARINT_BYTES",
]

INT64_MAX: Final = 2**63 - 1
#: TensorFlow allows 254 axes, but numpy before its version 2 no more than 32.
MAX_AXES: Final = 32

#: The index of a checkpoint, as stored and with names and compression undone.  Xception-71 with
#: all slots of its optimiser has 0.3 MB.
MAX_INDEX_BYTES: Final = Limit("MAX_INDEX_BYTES", 8 << 20)
#: Variables and slices of variables in a checkpoint.
MAX_VARIABLES: Final = Limit("MAX_VARIABLES", 100_000)
#: What the index says of one variable; each of its slices takes some 20 bytes.
MAX_ENTRY_BYTES: Final = Limit("MAX_ENTRY_BYTES", 1 << 18)
#: Files that the values of a checkpoint are spread over, all of which are open at a time.
MAX_SHARDS: Final = Limit("MAX_SHARDS", 256)
#: The text file `checkpoint`, which names the checkpoints of a folder.
MAX_STATE_BYTES: Final = Limit("MAX_STATE_BYTES", 1 << 18)
#: Strings of one variable: each takes 40 bytes of memory and may take one byte of the file.
MAX_STRINGS: Final = Limit("MAX_STRINGS", 1_000_000)

#: The name of one variable, in UTF-8.
MAX_NAME_BYTES: Final = Limit("MAX_NAME_BYTES", 1 << 16)
#: A frozen graph without the values of its tensors.  Xception-65 has 1 MB.
MAX_GRAPH_BYTES: Final = Limit("MAX_GRAPH_BYTES", 16 << 20)
#: One attribute of a node, when it is taken apart.
MAX_ATTRIBUTE_BYTES: Final = Limit("MAX_ATTRIBUTE_BYTES", 1 << 18)
#: Whole numbers of one constant that are stored in protobuf's form of variable length, where a
#: byte of the file takes 20 of memory on the way.  Graphs have shapes and axes in this form.
MAX_VARINT_BYTES: Final = Limit("MAX_VARINT_BYTES", 1 << 20)
#: Values of a graph's constants that its file does not store because they repeat others.
MAX_REPEATED_BYTES: Final = Limit("MAX_REPEATED_BYTES", 64 << 20)
