"""MODEL as a network of DeepLab v3 or v3+: a checkpoint, and the options that go with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deeplab_repro.cli.common import placeholders_of
from deeplab_repro.cli.variables import is_tensorflow, refuse_options
from deeplab_repro.errors import BadInput, InputError
from prototxt_import.files import read_text

if TYPE_CHECKING:
    from deeplab_repro.models.v3.network import DeepLabV3
    from deeplab_repro.models.v3.options import ModelOptions

__all__ = ["checkpoint_of", "load_checkpoint", "network_options", "refuse_given"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def network_options(command: _Command) -> _Command:
    """``--options FILE`` and ``--network NAME``, for :func:`load_checkpoint`."""
    for decorate in reversed(
        [
            click.option(
                "--options",
                "options_file",
                type=click.Path(),
                help="Of a TensorFlow checkpoint: JSON with the original's options of its network,"
                " or the flag file that it was trained by; --set NAME=VALUE changes one.",
            ),
            click.option(
                "--network",
                metavar="NAME",
                help="Of a TensorFlow checkpoint: its network, such as deeplab_v3plus_xception65;"
                " by default what its variables tell.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def checkpoint_of(
    model: str, options_file: str | None = None, network: str | None = None
) -> str | None:
    """The path of a MODEL that holds TensorFlow's variables; None for a Caffe model.

    Where there is no file of this name, it may be that of a released model in the local store.

    Raises:
        InputError: a Caffe model with an option of :func:`network_options`; a released model that
            has not been fetched.
    """
    if is_tensorflow(model):
        return model
    if not Path(model).exists():
        from deeplab_repro.released import resolve

        found = resolve(model)
        if found is not None and is_tensorflow(str(found)):
            return str(found)
    for option, value in {"--options": options_file, "--network": network}.items():
        if value is not None:
            raise InputError(
                f"does not go with {option}", file=model, expected="a TensorFlow checkpoint"
            )
    return None


def refuse_given(context: click.Context, model: str, names: Mapping[str, str]) -> None:
    """Raise InputError for options that were given and mean nothing for a checkpoint.

    Args:
        context: of the command.
        model: for the message.
        names: of the parameters -> the options as they are written.
    """
    source = click.core.ParameterSource.DEFAULT
    given = {
        option: context.get_parameter_source(name) not in (None, source)
        for name, option in names.items()
    }
    refuse_options(model, given)


def load_checkpoint(
    path: str,
    options_file: str | None,
    network: str | None,
    settings: Sequence[str],
    *,
    quirks: bool = True,
    algorithm: str = "auto",
    accuracy: str = "exact",
) -> DeepLabV3:
    """The network whose variables lie in a file, in evaluation mode.

    Its options are those of a file, of a name, or of the ``.safetensors`` that holds the variables;
    where none of these gives them, what the variables tell, and a warning says what they do not.

    Args:
        path: what :func:`checkpoint_of` gave.
        options_file, network: what :func:`network_options` was given.
        settings: NAME=VALUE of single options, with JSON values.  Where the output stride is among
            them, and the rates are not, the rates follow it.
        quirks, algorithm, accuracy: as everywhere.

    Raises:
        BadInput: options or variables that cannot be used, or do not fit each other.
    """
    from deeplab_repro.ops import AtrousConv2d, set_accuracy
    from deeplab_repro.tensorflow import load

    changes = {name: _value(text) for name, text in placeholders_of(settings).items()}
    stated, assumed = _options(path, options_file, network)
    try:
        options = _changed(stated, changes)
    except InputError as error:
        raise error if changes else error.with_file(path) from None
    net = load(options, path, quirks=quirks)
    _warn_of_assumed(path, options, [name for name in assumed if name not in changes])
    for module in net.modules():
        if isinstance(module, AtrousConv2d) and module.groups == 1:
            module.algorithm = algorithm
    set_accuracy(net, accuracy)
    return net


def _options(
    path: str, options_file: str | None, network: str | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The options of a checkpoint's network, and the names of those that nobody has stated.

    Those of a file are checked, and have the names of the fields of ModelOptions.
    """
    from deeplab_repro.tensorflow import infer_options
    from tensorflow_import import list_variables, read_options

    if options_file is not None:
        if network is not None:
            raise InputError("--options", expected="no --network beside it")
        return _options_in(options_file), ()
    if network is None and path.endswith(".safetensors"):
        stored = read_options(path)
        if stored is not None:
            return _fields(stored, path), ()
    infos = list_variables(path)
    try:
        inferred = infer_options({name: info.shape for name, info in infos.items()})
    except BadInput as error:
        raise error.with_file(path) from None
    if network is not None:
        return _of_network(network, inferred.options["num_classes"]), ()
    return inferred.options, inferred.assumed


def _warn_of_assumed(path: str, options: ModelOptions, assumed: Sequence[str]) -> None:
    """Name the options that are as in the released networks, because no variable tells them."""
    if not assumed:
        return
    long = "dense_prediction_cell_config"  # its name says enough
    values = [
        name if name == long else f"{name} {json.dumps(getattr(options, name))}" for name in assumed
    ]
    click.echo(
        f"deeplab-repro: warning: {path}: no variable tells {', '.join(values)}; taken from the"
        " released networks (--options FILE or --set NAME=VALUE says otherwise)",
        err=True,
    )


def _options_in(file: str) -> dict[str, Any]:
    """The options in a JSON file, or in the flag file of a training.

    Raises:
        BadInput: it cannot be read, or they are no options of a network.
    """
    text = read_text(file)
    if not text.lstrip().startswith(("{", "[")):
        from deeplab_repro.tensorflow.flags import read_flags

        # The crop in it is what the network was trained on, and not all that it can be given.
        return {**asdict(read_flags(file).network), "crop_size": None}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON ({error})", file=file) from None
    # The reference data of a network have them under this key, among others.
    options = content.get("case", content) if isinstance(content, dict) else content
    if not isinstance(options, dict):
        raise InputError("--options", file=file, expected="an object with options")
    return _fields(options, file)


def _fields(options: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Options in any form that a file may have -> the fields of ModelOptions."""
    from deeplab_repro.models.v3.options import ModelOptions

    try:
        return asdict(ModelOptions.from_case(options))
    except InputError as error:
        raise error.with_file(file) from None


def _of_network(name: str, num_classes: int) -> dict[str, Any]:
    from deeplab_repro.models.catalogue import hint
    from deeplab_repro.models.v3.catalogue import NETWORKS_V3

    if name not in NETWORKS_V3:
        known = ", ".join(NETWORKS_V3)
        got = f"{name!r}{hint(name, NETWORKS_V3)}"
        raise InputError("--network", expected=f"one of {known}", got=got)
    return asdict(NETWORKS_V3[name].options(num_classes))


def _changed(options: Mapping[str, Any], changes: Mapping[str, Any]) -> ModelOptions:
    """The options with others in their place; rates keep the field of view."""
    from deeplab_repro.models.atrous import rates_at
    from deeplab_repro.models.v3.options import ModelOptions

    changed = {**options, **changes}
    if changes.get("dpc") is False:
        changed["dense_prediction_cell_config"] = None
    rates = options.get("atrous_rates")
    if rates and "output_stride" in changes and "atrous_rates" not in changes:
        stride = ModelOptions.from_case(changed).output_stride  # one that the network can have
        changed["atrous_rates"] = rates_at(stride, tuple(rates), options["output_stride"])
    return ModelOptions.from_case(changed)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # such as the name of a variant
