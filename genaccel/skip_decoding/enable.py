# SPDX-License-Identifier: Apache-2.0
"""``genaccel.enable``: speculative decoding of a pipeline's, or a model's, image tokens."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from genaccel.hooks.binding import AlreadyEnabledError, unwrapped
from genaccel.hooks.clock import PipelineRun, current_run
from genaccel.hooks.handle import Acceleration, Printed
from genaccel.hooks.pipeline_runs import PipelineRuns
from genaccel.hooks.unhook import new_instance
from genaccel.skip_decoding.config import SkipDecodingConfig
from genaccel.skip_decoding.decoding import Decoded
from genaccel.skip_decoding.generation.generate import (
    GenerationReport,
    speculative_generate,
    warn_of_plain,
)
from genaccel.skip_decoding.generation.janus import (
    codebook_of_janus,
    generate_janus_images,
    is_janus,
)
from genaccel.skip_decoding.preparation import PreparedDecoding, prepare

# Where a model keeps what accelerates its generate, and a pipeline that decodes itself what was enabled on it.
_NAME = "_genaccel_generations"
_DECODING = "_genaccel_decoding"

# Arguments of generate that the functions of a caller do not get, and why the call is then plain.
_PLAIN_ARGUMENTS = {
    "custom_generate": "a custom_generate is passed",
    "assistant_model": "assisted generation is asked for",
    "stop_strings": "strings end it, which need a tokenizer",
    "tokenizer": "a tokenizer is passed",
}


class AcceleratedGeneration:
    """``generate`` of one model, decoded speculatively.

    Args:
        name: Name in the pipeline.
        model: A language model of transformers.
        config: What the user asked for.
        claims: Whether a call that begins now is to be accelerated.
        folder: Of the pipeline, in which the drafter may be.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        config: SkipDecodingConfig,
        claims: Callable[[], bool],
        *,
        folder: str | None = None,
    ) -> None:
        self.name, self.model, self._claims = name, model, claims
        self._config, self._folder = config, folder
        self.prepared = self._prepared()
        self.report = GenerationReport(plain_because="it has not generated yet")
        self.is_paused = False

    def claims(self) -> bool:
        """Whether a call that begins now is to be accelerated."""
        return not self.is_paused and self._claims()

    def generate(self, stock: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Make a call of ``generate``."""
        if not self.prepared.is_for(self.model):
            self.prepared = self._prepared()
        for name, reason in _PLAIN_ARGUMENTS.items():
            if kwargs.get(name) is not None:
                return self._plain(reason, stock, args, kwargs)
        config = kwargs.get("generation_config", getattr(self.model, "generation_config", None))
        if getattr(config, "stop_strings", None) is not None:
            return self._plain(_PLAIN_ARGUMENTS["stop_strings"], stock, args, kwargs)
        if is_janus(self.model) and kwargs.get("generation_mode") == "image":
            return generate_janus_images(
                self.model, stock, args, kwargs, prepared=self.prepared, on_report=self._keep
            )
        # generate shows a streamer the prompts and nothing else if a function of the caller's decodes.
        streamer = kwargs.pop("streamer", None)

        def decoding(
            model: Any,
            input_ids: Tensor,
            logits_processor: Any,
            stopping_criteria: Any,
            generation_config: Any,
            **others: Any,
        ) -> Any:
            if streamer is not None:
                streamer.put(input_ids.cpu())
            return speculative_generate(
                model,
                input_ids,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                streamer=streamer,
                skip_decoding=self.prepared,
                on_report=self._keep,
                **others,
            )

        return stock(*args, custom_generate=decoding, **kwargs)

    def _prepared(self) -> PreparedDecoding:
        codebook = _codebook(self.model)
        return prepare(self._config, self.model, codebook=codebook, folder=self._folder)

    def _plain(self, reason: str, stock: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        warn_of_plain(self.model, reason)
        self._keep(GenerationReport(plain_because=reason))
        return stock(*args, **kwargs)

    def _keep(self, report: GenerationReport) -> None:
        self.report = report


class PipelineDecoding:
    """Speculative decoding of a pipeline that decodes itself, and asks for what was enabled on it.

    Args:
        pipeline: It has ``decoding_parts()``: its model, and the code words of that model's tokens.
        config: What the user asked for.
    """

    def __init__(self, pipeline: Any, config: SkipDecodingConfig) -> None:
        self._config = config
        self.prepared = self._prepared(pipeline)
        self.report = GenerationReport(plain_because="it has not generated yet")
        self.is_paused = False

    @classmethod
    def of(cls, pipeline: Any) -> PipelineDecoding | None:
        """What is enabled on a pipeline and not paused."""
        made = vars(pipeline).get(_DECODING)
        return made if isinstance(made, cls) and not made.is_paused else None

    def _prepared(self, pipeline: Any) -> PreparedDecoding:
        model, codebook = pipeline.decoding_parts()
        folder = getattr(pipeline, "name_or_path", None)
        return prepare(self._config, model, codebook=codebook, folder=folder)

    def decode(
        self, pipeline: Any, prompts: Tensor, *, seed: int | None, row_length: int, **arguments: Any
    ) -> Decoded:
        """Draw tokens of one call, with its seed or else the config's, or 0 as without it if there is none.

        See :meth:`~genaccel.skip_decoding.preparation.PreparedDecoding.decode` for the arguments.
        """
        model, _ = pipeline.decoding_parts()
        if not self.prepared.is_for(model):
            self.prepared = self._prepared(pipeline)
        own = self.prepared.config.seed
        decoded = self.prepared.decode(
            model,
            prompts,
            options=self.prepared.options.with_seed((own or 0) if seed is None else seed),
            row_length=row_length,
            measured=model,
            **arguments,
        )
        self.report = GenerationReport(decoding=decoded.report)
        return decoded


class SkipDecodingHandle(Acceleration):
    """Speculative decoding of one pipeline or model, until ``disable``.

    Args:
        generations: What is decoded, by the models' names.
        ended: Called once when it is disabled.
    """

    def __init__(
        self,
        generations: Mapping[str, AcceleratedGeneration | PipelineDecoding],
        ended: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(ended)
        self.generations = dict(generations)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Generate plainly within the ``with``, for comparison."""
        before = {name: made.is_paused for name, made in self.generations.items()}
        for made in self.generations.values():
            made.is_paused = True
        try:
            yield
        finally:
            for name, made in self.generations.items():
                made.is_paused = before[name]

    def report(self) -> dict[str, GenerationReport]:
        """The report of each model's last generation, by name: what it cost, or why it was plain."""
        return Printed({name: made.report for name, made in self.generations.items()})

    def doctor(self) -> dict[str, str]:
        """What drafts for each model, and what may differ from its own tokens, by name."""
        return Printed({name: _diagnosis(made.prepared) for name, made in self.generations.items()})

    def run(
        self,
        pipeline: Any,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Make a call of the pipeline an accelerated one, for flags of the call itself."""
        if vars(pipeline).get(_DECODING) is not None:
            return call(*args, **kwargs)
        runs = PipelineRuns.of(pipeline)
        try:
            return runs.run(call, args, kwargs)
        finally:
            runs.release()


def enable_skip_decoding(
    target: Any, config: SkipDecodingConfig, *, num_inference_steps: int | None = None
) -> SkipDecodingHandle:
    """Decode the image tokens of a pipeline, or of a model, speculatively.

    Args:
        target: A pipeline that draws tokens, or a language model of transformers.
        config: What is wanted.
        num_inference_steps: Not used: tokens have no steps.

    Raises:
        ValueError: If there is no language model in it, it is accelerated already, or the config does not fit it.
    """
    if isinstance(target, nn.Module):
        model = unwrapped(target)
        if not _can_generate(model):
            raise ValueError(f"{type(model).__name__} generates no tokens")
        made = AcceleratedGeneration("model", model, config, lambda: True)
        return SkipDecodingHandle({"model": made}, _attach(model, made))
    if hasattr(target, "decoding_parts"):
        if vars(target).get(_DECODING) is not None:
            raise AlreadyEnabledError(_already(target))
        decoding = PipelineDecoding(target, config)
        vars(target)[_DECODING] = decoding
        return SkipDecodingHandle(
            {"transformer": decoding}, lambda: vars(target).pop(_DECODING, None)
        )
    components: Mapping[str, Any] = getattr(target, "components", {})
    models = {
        name: unwrapped(module)
        for name, module in components.items()
        if isinstance(module, nn.Module) and _can_generate(unwrapped(module))
    }
    if not models:
        raise ValueError(
            f"{type(target).__name__} has no language model that generates; VVS accelerates drawing of tokens"
        )
    runs = PipelineRuns.of(target)

    def claims() -> bool:
        run = current_run()
        return isinstance(run, PipelineRun) and run.pipeline is target

    generations: dict[str, AcceleratedGeneration] = {}
    detachers: list[Callable[[], None]] = []

    def ended() -> None:
        for detach in detachers:
            detach()
        if SkipDecodingHandle in runs.kinds:
            runs.kinds.remove(SkipDecodingHandle)
        runs.release()

    try:
        if SkipDecodingHandle in runs.kinds:
            raise AlreadyEnabledError(_already(target))
        folder = getattr(target, "name_or_path", None)
        for name, model in models.items():
            made = AcceleratedGeneration(name, model, config, claims, folder=folder)
            generations[name] = made
            detachers.append(_attach(model, made))
    except BaseException:
        for detach in detachers:
            detach()
        runs.release()
        raise
    runs.kinds.append(SkipDecodingHandle)
    return SkipDecodingHandle(generations, ended)


def _already(target: Any) -> str:
    return f"{type(target).__name__} is accelerated already; call disable() on its handle first"


def _can_generate(model: Any) -> bool:
    return callable(getattr(model, "generate", None)) and bool(
        getattr(model, "can_generate", lambda: False)()
    )


def _codebook(model: Any) -> Tensor | None:
    """Code words of a model of transformers whose tokens are their numbers."""
    return codebook_of_janus(model) if is_janus(model) else None


def _diagnosis(prepared: PreparedDecoding) -> str:
    config, drafter = prepared.config, prepared.prototype
    who = "nothing drafts" if drafter is None else f"{type(drafter).__name__} drafts"
    if config.is_exact:
        return f"{who}; the tokens are the model's own"
    what = [
        *([f"acceptance={config.acceptance!r}"] if config.acceptance != "exact" else []),
        *([f"skip={config.skip!r}"] if config.skip != "none" else []),
        *(["is_stochastic"] if config.is_stochastic else []),
    ]
    return f"{who}; the tokens may differ from the model's own by {', '.join(what)}"


def _attach(model: Any, made: AcceleratedGeneration) -> Callable[[], None]:
    """Let a model's ``generate`` ask for what accelerates it; returns what undoes that.

    The model's class becomes a subclass of itself, as that of an accelerated pipeline does: of one instance alone.
    """
    attached: list[AcceleratedGeneration] | None = vars(model).get(_NAME)
    if attached is None:
        attached = vars(model)[_NAME] = []
        model.__class__ = _with_generations(type(model))
    elif made.name == "model" and any(other.name == "model" for other in attached):
        raise AlreadyEnabledError(_already(model))
    attached.append(made)

    def detach() -> None:
        attached.remove(made)
        if not attached and vars(model).get(_NAME) is attached:
            del vars(model)[_NAME]
            model.__class__ = type(model).__mro__[1]

    return detach


def _with_generations(stock: Any) -> type:
    """A subclass of a model's class whose ``generate`` asks the instance; it goes by the same name."""

    @functools.wraps(stock.generate)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = functools.partial(stock.generate, self)
        for made in vars(self).get(_NAME, ()):
            if made.claims():
                return made.generate(bound, args, kwargs)
        return bound(*args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        # A copy is a plain model.
        state = {k: value for k, value in vars(self).items() if not k.startswith("_genaccel")}
        return new_instance, (stock,), state

    return type(
        stock.__name__,
        (stock,),
        {
            "generate": generate,
            "__reduce_ex__": reduce,
            "__module__": stock.__module__,
            "__qualname__": stock.__qualname__,
            "__doc__": stock.__doc__,
        },
    )
