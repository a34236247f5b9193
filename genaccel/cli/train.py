# SPDX-License-Identifier: Apache-2.0
"""``genaccel train``: train the package's models. A recipe's options are made of its configurations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from functools import reduce
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer

from genaccel.cli.lazy_group import Subcommand, lazy_group


class Choice(NamedTuple):
    """An option of a command, and where its value goes.

    Attributes:
        name: In words with underscores.
        target: A parameter of the recipe, and fields in it.
        kind: Type of the value.
        default: What the recipe has without it; ``inspect.Parameter.empty`` if it must be given.
        help: What it says.
        option: How it is marked.
    """

    name: str
    target: tuple[str, ...]
    kind: Any
    default: Any
    help: str
    option: Any

    def parameter(self) -> inspect.Parameter:
        """The parameter that typer makes the option of."""
        kind, default, flag = self.kind, self.default, f"--{self.name}"
        if get_origin(kind) is tuple:
            kind, default = str, ",".join(map(str, default))
        elif get_origin(kind) in (Union, UnionType):  # str | os.PathLike[str]
            kind = Path
        if self.option.off:
            flag += f"/--{self.option.off}"
        option = typer.Option(flag.replace("_", "-"), help=self.help)
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind if default is not None else kind | None, option],
        )

    def value(self, given: Any) -> Any:
        """The recipe's value for a typed one."""
        if get_origin(self.kind) is tuple:
            kind = get_args(self.kind)[0]
            try:
                return tuple(kind(part) for part in given.split(","))
            except ValueError as error:
                option = self.name.replace("_", "-")
                raise ValueError(
                    f"--{option} must be numbers with commas between them, got {given!r}"
                ) from error
        return None if given == self.option.none else given


def command_of(recipe: Callable[..., Any], help: str) -> Callable[..., None]:
    """The command that trains a recipe.

    The recipe's parameters become options: of configurations the fields that are marked so, all others themselves.

    Args:
        recipe: Makes a ``TrainingLoop``: a class, or a method of one.
        help: Of the command.
    """
    from genaccel.training.options import hints_of, split

    hints = hints_of(recipe.__init__ if isinstance(recipe, type) else recipe)  # type: ignore[misc]
    signature = inspect.signature(recipe).parameters
    configs = {
        name: split(hints[name])[0]() if parameter.default is parameter.empty else parameter.default
        for name, parameter in signature.items()
        if is_dataclass(split(hints[name])[0])
    }
    choices = list(_choices(recipe, signature, hints, configs))

    def train(**given: Any) -> None:
        from genaccel.training.loop import NonFiniteLossError

        try:
            arguments: dict[str, Any] = {name: {} for name in configs}
            for choice in choices:
                *path, last = choice.target
                reduce(lambda branch, name: branch.setdefault(name, {}), path, arguments)[last] = (
                    choice.value(given[choice.name])
                )
            for name, config in configs.items():
                arguments[name] = _changed(config, arguments[name])
            training = recipe(**arguments)
            training.train()
        except NonFiniteLossError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except ModuleNotFoundError as error:
            raise _missing_extra(error) from error
        except (ValueError, OSError) as error:
            raise typer.BadParameter(str(error)) from error
        if training.accelerator.is_main_process:
            typer.echo(training.export())

    # Two fields of one name, such as the seed, are one option.
    parameters = {choice.name: choice.parameter() for choice in choices}.values()
    train.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters, key=lambda parameter: parameter.default is not parameter.empty)
    )
    train.__doc__ = help
    return train


def _choices(
    recipe: Any, signature: Mapping[str, inspect.Parameter], hints: Any, configs: Any
) -> Iterator[Choice]:
    from genaccel.training.options import Option, documented, split

    helps = documented(recipe)
    for name, parameter in signature.items():
        kind, annotations = split(hints[name])
        option = next((a for a in annotations if isinstance(a, Option)), Option())
        if name in configs:
            yield from _fields(configs[name], (name,), option.fields)
        else:
            text = helps.get(name, "")
            yield Choice(option.name or name, (name,), kind, parameter.default, text, option)


def _fields(config: Any, path: tuple[str, ...], names: Mapping[str, str]) -> Iterator[Choice]:
    from genaccel.training.options import Option, Within, documented, hints_of, split

    helps = documented(type(config))
    for name, hint in hints_of(type(config)).items():
        value, (kind, annotations) = getattr(config, name), split(hint)
        if is_dataclass(value):
            yield from _fields(value, (*path, name), {})
            continue
        if name in names:
            annotations = (Option(name=names[name]),)
        text = helps.get(name, "")
        for within in annotations:
            if isinstance(within, Within):
                text = f"{text.removesuffix('.')}; {within}."
        for option in annotations:
            if isinstance(option, Option):
                yield Choice(option.name or name, (*path, name), kind, value, text, option)


def _changed(config: Any, values: Mapping[str, Any]) -> Any:
    """A configuration with other values, in nested ones too."""
    nested = {k: _changed(getattr(config, k), v) for k, v in values.items() if isinstance(v, dict)}
    return replace(config, **{**values, **nested})


def _missing_extra(error: ModuleNotFoundError) -> typer.BadParameter:
    """The error of an installation that cannot train."""
    return typer.BadParameter(f"training needs {error.name}: pip install 'genaccel[train]'")


def export(
    run: Annotated[
        Path, typer.Argument(help="Run folder of `genaccel train codec`, `entropy` or `joint`.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    data: Annotated[Path, typer.Option(help="Folder of images to measure index tables on.")],
    max_images: Annotated[int, typer.Option(help="Images to measure on.")] = 1000,
    entropy_precision: Annotated[
        Literal["fp16", "fp32"], typer.Option(help="Of the entropy model's stored weights.")
    ] = "fp32",
) -> None:
    """Write the model of a run's last checkpoint; the run may still be going on."""
    try:
        import torch

        from genaccel.codec.training.export import export_model
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[entropy_precision]
    try:
        report = export_model(run, out, data=data, max_images=max_images, entropy_dtype=dtype)
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(
        f"{report.rates()} on {data}; "
        f"code words used per scale, coarse to fine: {report.codes_used}"
    )


def _recipe(name: str, where: str, help: str) -> Subcommand:
    module, attribute = where.split(":")
    text = f"{help}; the same command resumes."
    return Subcommand(name, module, text, attribute=attribute, make=command_of)


SUBCOMMANDS = (
    _recipe(
        "codec",
        "genaccel.codec.training.autoencoder:AutoencoderTraining.from_preset",
        "Train the image codec, on several GPUs by accelerate launch",
    ),
    _recipe(
        "entropy",
        "genaccel.codec.training.entropy:EntropyTraining.from_start",
        "Train an entropy model for a codec, which stays as it is",
    ),
    _recipe(
        "joint",
        "genaccel.codec.training.joint:JointTraining.from_start",
        "Train codec and entropy model together for rate and distortion",
    ),
    Subcommand(
        "export",
        __name__,
        "Write the model of a run's last checkpoint; the run may still be going on.",
        attribute="export",
    ),
    _recipe(
        "vae",
        "genaccel.training.recipes.latent_autoencoder:LatentAutoencoderTraining",
        "Train the autoencoder of a latent diffusion model",
    ),
    _recipe(
        "vq",
        "genaccel.training.recipes.vector_quantized_autoencoder:VectorQuantizedAutoencoderTraining",
        "Train the tokens of an autoregressive model, a `VQModel`",
    ),
    _recipe(
        "ar",
        "genaccel.training.recipes.token_transformer:TokenTransformerTraining",
        "Train an autoregressive generator of image tokens, a `LlamaForCausalLM`",
    ),
    _recipe(
        "drafter",
        "genaccel.skip_decoding.drafts.training:DrafterTraining",
        "Train a drafter for an autoregressive generator",
    ),
    _recipe(
        "dit",
        "genaccel.training.recipes.class_dit:ClassDitTraining",
        "Train a class-conditional diffusion transformer, a `DiTPipeline`",
    ),
    _recipe(
        "restoration",
        "genaccel.training.recipes.restoration:RestorationTraining",
        "Train the restoration of coded base layers",
    ),
    _recipe(
        "super-resolution",
        "genaccel.speculative_sr.training.base:SuperResolutionTraining",
        "Train the base of super-resolution by four",
    ),
    _recipe(
        "super-resolution-draft",
        "genaccel.speculative_sr.training.draft:SuperResolutionDraftTraining",
        "Train the draft of a base of super-resolution",
    ),
)

app = typer.Typer(cls=lazy_group(SUBCOMMANDS), help="Train models.", no_args_is_help=True)


@app.callback()
def train_command() -> None:
    """Train models."""
