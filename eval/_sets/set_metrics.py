# SPDX-License-Identifier: Apache-2.0
"""Metrics of sets of images: the command that every such metric has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from genaccel.eval._sets.extractors import Extractor
from genaccel.eval._sets.image_sources import FileImages, ImageSource, PipelineImages
from genaccel.eval._sets.moments import Statistics
from genaccel.eval._sets.processes import process_group
from genaccel.eval._sets.set_features import SetFeatures, extract_features, load_statistics
from genaccel.eval.commands import (
    AsCsv,
    AsJson,
    Convert,
    Label,
    Strict,
    Workers,
    combine,
    exit_if_skipped,
    usage_errors,
)
from genaccel.eval.metrics import Metric
from genaccel.eval.results import record, to_json
from genaccel.sampling.calls import parse_object, read_prompts
from genaccel.sampling.pipelines import load_pipeline


@dataclass(frozen=True, kw_only=True)
class SetValue:
    """A metric's result.

    Attributes:
        value: The number.
        details: Further numbers by name.
        warnings: Sentences that a reader of the number must know.
    """

    value: float
    details: Mapping[str, float | int | str | None] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class SetMetric:
    """A metric that is ready to use.

    Attributes:
        metric: What its values mean.
        extractor: Makes the features.
        function: From the reference and the generated set to the result; raises ValueError for sets that
            it cannot judge.
        needs_features: Whether mean and covariance are not enough.
        settings: What the values depend on beside the extractor.
    """

    metric: Metric
    extractor: Extractor
    function: Callable[[SetFeatures, SetFeatures], SetValue]
    needs_features: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


Reference = Annotated[
    Path, typer.Argument(help="Folder of real images, or an .npz of their statistics.")
]
Generated = Annotated[
    Path | None, typer.Argument(help="Folder of generated images, or an .npz of their statistics.")
]


def _run(
    load: Callable[..., SetMetric],
    own: Mapping[str, Any],
    *,
    reference: Reference,
    generated: Generated = None,
    pipeline: Annotated[
        str | None, typer.Option(help="Generate with this diffusers pipeline: a folder or a name.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with the pipeline's prompts, one a line.")
    ] = None,
    prompt_argument: Annotated[
        str, typer.Option(help="Argument that takes them; numbers go in as class labels.")
    ] = "prompt",
    pipeline_arguments: Annotated[
        str, typer.Option(metavar="JSON", help='Further ones: {"num_inference_steps": 20}.')
    ] = "{}",
    seed: Annotated[int, typer.Option(help="Image i is generated from seed + i.")] = 0,
    tile: Annotated[
        int | None,
        typer.Option(min=64, help="Cut images into tiles of this side, in two shifted grids."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one call.")] = 50,
    workers: Workers = None,
    save_statistics: Annotated[
        Path | None, typer.Option(metavar="NPZ", help="Keep the reference's statistics here.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite existing statistics.")
    ] = False,
    strict: Strict = False,
    convert: Convert = False,
    label: Label = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Body of every command of a set metric."""
    with usage_errors():
        if (generated is None) == (pipeline is None) and not (save_statistics and not pipeline):
            raise ValueError(
                "give the generated images as a folder or .npz, or --pipeline with --prompts"
            )
        set_metric = load(**own)
        extractor = set_metric.extractor
        with process_group(extractor.device) as processes:

            def measure(path: Path) -> SetFeatures:
                if path.suffix == ".npz":
                    if set_metric.needs_features:
                        raise ValueError(
                            f"{path} holds statistics; {set_metric.metric.title} needs the images"
                        )
                    return load_statistics(path, extractor, tile)
                source = FileImages.from_folder(path, strict=strict, convert=convert, tile=tile)
                return extract(source)

            def extract(source: ImageSource) -> SetFeatures:
                return extract_features(
                    source,
                    extractor,
                    keep_features=set_metric.needs_features,
                    batch_size=batch_size,
                    workers=workers,
                    processes=processes,
                )

            real = measure(reference)
            if save_statistics is not None and processes.is_main:
                _save(real, save_statistics, tile, overwrite=force)
            if generated is not None:
                fake = measure(generated)
            elif pipeline is not None:
                fake = extract(
                    _pipeline_source(
                        pipeline, prompts, prompt_argument, pipeline_arguments, seed, extractor
                    )
                )
            else:
                return
            if not processes.is_main:
                return
            result = set_metric.function(real, fake)
    _report(set_metric, real, fake, result, label, tile, as_json=as_json, as_csv=as_csv)


def _save(features: SetFeatures, path: Path, tile: int | None, *, overwrite: bool) -> None:
    statistics = features.statistics
    Statistics(
        mean=statistics.mean,
        covariance=statistics.covariance,
        provenance={**statistics.provenance, "tile": tile, "source": features.name},
    ).save(path, overwrite=overwrite)
    typer.echo(f"wrote {path}", err=True)


def _pipeline_source(
    name: str,
    prompts: Path | None,
    prompt_argument: str,
    arguments_json: str,
    seed: int,
    extractor: Extractor,
) -> PipelineImages:
    if prompts is None:
        raise ValueError("--pipeline needs --prompts FILE, with one prompt a line")
    lines: list[Any] = read_prompts(prompts)
    if prompt_argument == "class_labels":
        lines = [int(line) for line in lines]
    arguments = parse_object(arguments_json)
    loaded = load_pipeline(name, device=extractor.device)
    return PipelineImages(
        pipeline=loaded,
        prompts=lines,
        prompt_argument=prompt_argument,
        arguments=arguments,
        seed=seed,
        name=name,
    )


def set_command(load: Callable[..., SetMetric]) -> Callable[..., None]:
    """Make the command of a metric from the function that loads it.

    Args:
        load: Its keywords, with typer's annotations and defaults, are the metric's own options; its
            docstring is the help text.
    """
    return combine(load, _run)


def _report(
    set_metric: SetMetric,
    real: SetFeatures,
    fake: SetFeatures,
    result: SetValue,
    label: str,
    tile: int | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    skipped = {**real.skipped, **fake.skipped}
    counts = [real.statistics.num_images, fake.statistics.num_images]
    metric = set_metric.metric
    if as_json:
        content = record(
            "set",
            label=label,
            settings={**set_metric.extractor.provenance, **set_metric.settings, "tile": tile},
            metric=metric.to_dict(),
            value=result.value,
            num_images=counts,
            sets=[real.name, fake.name],
            details=dict(result.details),
            warnings=list(result.warnings),
            skipped=skipped,
        )
        print(to_json(content))
    elif as_csv:
        print(f"metric,value\n{metric.key},{result.value}")
        for name, value in result.details.items():
            print(f"{name},{value}")
    else:
        _print_table(set_metric, counts, result)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    exit_if_skipped(skipped)


def _print_table(set_metric: SetMetric, counts: Sequence[int | None], result: SetValue) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_row(set_metric.metric.title, f"{result.value:.6g}", style="bold")
    for name, value in result.details.items():
        table.add_row(
            name.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value)
        )
    table.add_row("images", " and ".join("?" if n is None else str(n) for n in counts))
    table.add_row("network", set_metric.extractor.name)
    table.add_row("resize", set_metric.extractor.prepare.resize)
    Console().print(table)
