"""A network as a graph of boxes: what belongs together folded into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prototxt_import import Net, Shape, infer_net

__all__ = ["Box", "boxes_of"]

#: Layers of one branch of a residual block; a longer branch is no block.
_LONGEST_BRANCH: Final = 4


@dataclass
class Box:
    """One or several layers, drawn as one.

    Attributes:
        key: the blob that it makes, or the layer's name.
        kind: type of the first layer, ``"input"`` or ``"block"``.
        title: what it is called.
        lines: what it is.
        shape: of what it makes.
        layers: names of all layers in it.
        below: keys of the boxes that it reads.
        signature: equal for boxes that do the same at the same size.
        times: how many equal boxes in a row it stands for.
        last: key of the last of them; "" if it is the only one.
    """

    key: str
    kind: str
    title: str
    lines: list[str]
    shape: Shape
    layers: list[str]
    below: list[str]
    signature: tuple[object, ...]
    times: int = 1
    last: str = ""


def boxes_of(net: Net, inputs: dict[str, Shape] | None = None) -> dict[str, Box]:
    """The boxes of a network, in running order.

    In-place layers join the layer whose top they overwrite; a residual block (two branches from one
    blob, or one and a shortcut, that meet in an Eltwise) becomes one box; equal blocks in a row
    become one that says how many.

    Args:
        net: the network.
        inputs: input sizes in place of the declared ones.
    """
    boxes = _one_per_blob(net, inputs)
    boxes = _fold_blocks(boxes)
    return _fold_repeats(boxes)


def _one_per_blob(net: Net, inputs: dict[str, Shape] | None) -> dict[str, Box]:
    shapes = infer_net(net, inputs)
    boxes: dict[str, Box] = {}
    made_by: dict[str, str] = {}  # blob -> key of its box
    for name, declared in net.inputs.items():
        shape = tuple((inputs or {}).get(name, declared.shape))
        boxes[name] = Box(name, "input", name, ["input"], shape, [], [], ("input", shape))
        made_by[name] = name
    for item in shapes.layers:
        layer = item.layer
        below = list(dict.fromkeys(made_by[bottom] for bottom in layer.bottoms))
        kind = layer.describe()
        in_place = bool(layer.tops) and all(layer.is_in_place(i) for i in range(len(layer.tops)))
        owner = boxes[made_by[layer.tops[0]]] if in_place else None
        if owner is not None and owner.kind != "input":
            owner.layers.append(layer.name)
            owner.lines[-1] += f" + {kind}"
            owner.signature += (kind,)
            owner.below += [key for key in below if key != owner.key and key not in owner.below]
            continue
        key = layer.tops[0] if layer.tops and layer.tops[0] not in boxes else layer.name
        while key in boxes:
            key += "'"
        shape = item.shapes.tops[0] if item.shapes.tops else ()
        signature = (layer.type, kind, tuple(item.shapes.tops))
        boxes[key] = Box(key, layer.type, layer.name, [kind], shape, [layer.name], below, signature)
        made_by.update(dict.fromkeys(layer.tops, key))
    return boxes


def _readers(boxes: dict[str, Box]) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {key: [] for key in boxes}
    for key, box in boxes.items():
        for below in box.below:
            readers[below].append(key)
    return readers


def _fold_blocks(boxes: dict[str, Box]) -> dict[str, Box]:
    """Each residual block as one box that takes the place of its Eltwise."""
    readers = _readers(boxes)
    gone: set[str] = set()
    for box in list(boxes.values()):
        if box.kind != "Eltwise" or len(box.below) != 2:
            continue
        branches = [_branch(boxes, readers, end) for end in box.below]
        starts = [start for _, start in branches]
        if starts[0] is None or starts[0] != starts[1]:
            continue
        start = starts[0]
        members = [key for branch, _ in branches for key in branch]
        heads = {branch[0] if branch else box.key for branch, _ in branches}
        if set(readers[start]) != heads or not members:
            continue
        gone.update(members)
        longest = max((branch for branch, _ in branches), key=len)
        shortest = min((branch for branch, _ in branches), key=len)
        kinds = [boxes[key].lines[0].split(" + ")[0] for key in longest]
        side = " + ".join(boxes[key].lines[0].split(" + ")[0] for key in shortest)
        box.lines = [
            "block: " + " → ".join(_short(kind) for kind in kinds),
            f"shortcut: {_short(side) or 'identity'} → {box.lines[0]}",
        ]
        box.signature = (
            "block",
            *(boxes[key].signature for key in (*longest, "", *shortest) if key),
            len(shortest),
            box.signature,
        )
        box.layers = [name for key in members for name in boxes[key].layers] + box.layers
        box.kind, box.below = "block", [start]
    return {key: box for key, box in boxes.items() if key not in gone}


def _short(kind: str) -> str:
    return kind.replace("Convolution ", "")


def _branch(
    boxes: dict[str, Box], readers: dict[str, list[str]], end: str
) -> tuple[list[str], str | None]:
    """Boxes of a plain chain up to ``end``, and the box that forks above it."""
    chain: list[str] = []
    key = end
    while len(readers[key]) == 1 and len(boxes[key].below) == 1 and len(chain) < _LONGEST_BRANCH:
        chain.insert(0, key)
        key = boxes[key].below[0]
    return chain, key if len(readers[key]) > 1 else None


def _fold_repeats(boxes: dict[str, Box]) -> dict[str, Box]:
    """Equal blocks, each reading nothing but the one before, as one box."""
    readers = _readers(boxes)
    kept: dict[str, Box] = {}
    renamed: dict[str, str] = {}
    for key, box in boxes.items():
        box.below = [renamed.get(below, below) for below in box.below]
        before = kept.get(box.below[0]) if len(box.below) == 1 else None
        if (
            before is not None
            and box.kind == before.kind == "block"
            and box.signature == before.signature
            and all(reader == key for reader in readers[before.last or before.key])
        ):
            before.layers += box.layers
            before.times += 1
            before.title = f"{before.title.split(' … ')[0]} … {box.title}"
            before.last = key
            renamed[key] = before.key
        else:
            kept[key] = box
    return kept
