"""A training of the original's as one object, and the two losses of a batch (train.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from torch import Tensor, nn

from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.tensorflow.fields import check_types
from deeplab_repro.tensorflow.loss import LossOptions, cross_entropy, weight_penalty
from deeplab_repro.tensorflow.schedule import LearningRate

__all__ = ["TrainingOptions", "losses"]

_Part = TypeVar("_Part")
_OPTIMIZERS: Final = ("momentum", "adam")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained; names and defaults are those of train.py's flags.

    Attributes:
        learning_rate: the rate of each step.
        loss: how the loss of a batch is made.
        optimizer: ``"momentum"``, or ``"adam"`` with a rate of its own that never changes.
        momentum: share of the last step that stays.
        adam_learning_rate: rate of adam.
        adam_epsilon: keeps adam's divisor from 0.
        weight_decay: see :func:`~deeplab_repro.tensorflow.loss.weight_penalty`.
        last_layer_gradient_multiplier: how much faster learns what stands behind the backbone.
        last_layers_contain_logits_only: of that, the classifiers alone.
        initialize_last_layer: take it from the checkpoint that a training starts from, too.

    Raises:
        InputError: an unknown optimizer, a value of another type, or a negative number.
    """

    learning_rate: LearningRate = field(default_factory=LearningRate)
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: str = "momentum"
    momentum: float = 0.9
    adam_learning_rate: float = 0.001
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.00004
    last_layer_gradient_multiplier: float = 1.0
    last_layers_contain_logits_only: bool = False
    initialize_last_layer: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        if self.optimizer not in _OPTIMIZERS:
            raise InputError("optimizer", expected=" or ".join(_OPTIMIZERS), got=self.optimizer)
        numbers = ("momentum", "adam_learning_rate", "adam_epsilon", "weight_decay")
        for name in (*numbers, "last_layer_gradient_multiplier"):
            if not getattr(self, name) >= 0:
                raise InputError(name, expected="0 or more", got=getattr(self, name))

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> TrainingOptions:
        """The options that flags give, those of the learning rate and of the loss among them.

        Args:
            flags: name -> value, as Python values; lists may stand for tuples.

        Raises:
            InputError: an unknown flag, or a value that cannot be used.
        """
        left = {name: _frozen(value) for name, value in flags.items()}
        rate, loss = _taken(LearningRate, left), _taken(LossOptions, left)
        names = [own.name for own in fields(cls) if own.name not in ("learning_rate", "loss")]
        own = {name: left.pop(name) for name in names if name in left}
        if left:
            raise InputError("unknown flags of a training", got=", ".join(sorted(left)))
        return cls(learning_rate=rate, loss=loss, **own)

    @classmethod
    def from_case(cls, case: Mapping[str, Any]) -> TrainingOptions:
        """The options of a reference case: what stands in it about the loss and the steps.

        Args:
            case: with ``weight_decay``, ``label_weights`` (or in ``options``), ``loss`` and
                ``step`` among its keys, the last two with flags in them; what describes the network
                or the input is not read.

        Raises:
            InputError: an unknown flag, or a value that cannot be used.
        """
        outer = {**case, **(case.get("options") or {})}
        flags = {
            key: outer[key]
            for key in ("weight_decay", "label_weights")
            if outer.get(key) is not None
        }
        for group in ("loss", "step"):
            flags.update(case.get(group) or {})
        flags.pop("start_step", None)  # which is no option, but where a case begins
        return cls.from_flags(flags)


def losses(
    net: DeepLabV3,
    x: Tensor,
    labels: Tensor,
    case: Mapping[str, Any] | TrainingOptions | None = None,
    *,
    global_step: int | None = None,
    quirks: bool = True,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of a batch, and the weight decay of a network: what train.py adds up.

    The network computes in train mode, whatever mode it is in.  Its moving statistics change, once
    for each scale of its ``image_pyramid``, if it is to fine-tune them.  With several scales the
    first loss is the sum of that of each scale and of the merged scores.

    Args:
        net: as :func:`deeplab_repro.tensorflow.load` makes it.
        x: (N, 3, H, W) red, green, blue in 0..255.
        labels: (N, H, W) or (N, 1, H, W), class ids and 255 where a pixel does not count.
        case: the options of a training, or a reference case; by default the defaults.  A case's
            ``fine_tune_batch_norm`` overrules the network's, and ``dropout: "identity"`` leaves
            dropout out.
        global_step: updates done, which hard example mining asks for; by default the case's, or 0.
        quirks: see :func:`~deeplab_repro.tensorflow.loss.cross_entropy`.

    Returns:
        two () float32 with gradients.

    Raises:
        InputError: labels or options that cannot be used.
    """
    has_dropout, fine_tunes = True, net.options.fine_tune_batch_norm
    if isinstance(case, Mapping):
        options = TrainingOptions.from_case(case)
        has_dropout = case.get("dropout") != "identity"
        fine_tunes = case.get("fine_tune_batch_norm", fine_tunes)
        global_step = case.get("global_step") if global_step is None else global_step
    else:
        options = case or TrainingOptions()
    with _train_mode(net, fine_tunes, has_dropout):
        scales = net.multi_scale_logits(x)
    entropy = [
        cross_entropy(scores, labels, options.loss, global_step=global_step or 0, quirks=quirks)
        for scores in scales.values()
    ]
    return sum(entropy[1:], start=entropy[0]), weight_penalty(net.variables, options.weight_decay)


@contextmanager
def _train_mode(net: nn.Module, has_batch_statistics: bool, has_dropout: bool) -> Iterator[None]:
    """Train mode with or without these two, and then every module's own mode again."""
    modes = {module: module.training for module in net.modules()}
    if not net.training:
        net.train()
    try:
        for module in modes:
            if isinstance(module, nn.BatchNorm2d):
                module.training = has_batch_statistics
            elif isinstance(module, nn.Dropout) and not has_dropout:
                module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _taken(kind: type[_Part], flags: dict[str, Any]) -> _Part:
    """One part of the options, made of its own flags, which are taken away."""
    names = [own.name for own in fields(kind) if own.name in flags]  # type: ignore[arg-type]
    return kind(**{name: flags.pop(name) for name in names})
