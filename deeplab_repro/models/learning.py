"""How fast each parameter learns."""

from __future__ import annotations

from typing import Any

from torch import nn

from deeplab_repro.models.layers import Convolution

__all__ = ["parameter_groups"]

#: Caffe's `decay_mult` of weights and of biases, the same in every released file.
_DECAY = (1, 0)


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """The parameters that learn, in groups for an optimizer of torch's.

    In the released files biases learn twice as fast as weights and are not decayed, classifiers ten
    times as fast as the rest, and what DeepLab-MSc starts from not at all.

    Args:
        model: the network, or a part of it.
        lr: base learning rate, for `lr_mult: 1`.
        weight_decay: for `decay_mult: 1`.

    Returns:
        A dictionary with `params`, `names`, `lr`, `weight_decay`, `lr_mult` and `decay_mult` for
        each pair of multipliers.  What is no convolution of the tables
        (normalization that is not frozen, a head of one's own) has the multipliers 1 and 1; what
        asks for no gradient is left out.

    Example:
        >>> torch.optim.SGD(parameter_groups(model, 2.5e-4, 5e-4), lr=2.5e-4, momentum=0.9)
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            multipliers: tuple[float, float] = 1, 1
            if isinstance(module, Convolution):
                is_bias = name == "bias"
                multipliers = module.lr_mults[is_bias], _DECAY[is_bias]
            lr_mult, decay_mult = multipliers
            group = groups.setdefault(
                multipliers,
                {
                    "params": [],
                    "names": [],
                    "lr": lr * lr_mult,
                    "weight_decay": weight_decay * decay_mult,
                    "lr_mult": lr_mult,
                    "decay_mult": decay_mult,
                },
            )
            group["params"].append(parameter)
            group["names"].append(f"{path}.{name}" if path else name)
    return list(groups.values())
