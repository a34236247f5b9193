# SPDX-License-Identifier: Apache-2.0
"""Metrics of sets of images: the command that every such metric has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from genaccel.errors import printable
from genaccel.eval._sets.extractors import Extractor
from genaccel.eval._sets.image_sources import (
    ArrayImages,
    FileImages,
    ImageSource,
    PipelineImages,
)
from genaccel.eval._sets.processes import Processes, process_group
from genaccel.eval._sets.set_features import (
    FeatureCache,
    SetFeatures,
    extract_features,
    load_statistics,
)
from genaccel.eval._sets.set_values import SetValue
from genaccel.eval.commands import (
    AsCsv,
    AsJson,
    Convert,
    Label,
    Strict,
    Workers,
    check_output,
    combine,
    exit_if_skipped,
    usage_errors,
    verbatim_console,
)
from genaccel.eval.image_sets import SAMPLES_KEY, SampleArray, npz_arrays
from genaccel.eval.metrics import Metric
from genaccel.eval.results import record, to_json
from genaccel.sampling.calls import parse_object, read_prompts
from genaccel.sampling.pipelines import load_pipeline


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
    Path,
    typer.Argument(
        help="Real images: a folder, a .zip, or an .npz with arr_0; or an .npz of statistics."
    ),
]
Generated = Annotated[
    Path | None, typer.Argument(help="Generated images, or an .npz of their statistics.")
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
    save_features: Annotated[
        Path | None,
        typer.Option(metavar="NPZ", help="The same with the features of each image beside them."),
    ] = None,
    features_cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the features of all images here, and use them."),
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
    saves = [(path, path is save_features) for path in (save_statistics, save_features) if path]
    with usage_errors():
        if (generated is None) == (pipeline is None) and not (saves and not pipeline):
            raise ValueError(
                "give the generated images as a folder, .zip or .npz, or --pipeline with --prompts"
            )
        # All that can be wrong with the request is said before an hour of features.
        if save_statistics is not None and save_statistics == save_features:
            raise ValueError("--save-features holds the statistics too: give one of the two")
        for path, _ in saves:
            check_output(path, overwrite=force, suffix=".npz")
        if features_cache is not None:
            check_output(features_cache / "features.npz", overwrite=True, parents=True)
        request = _pipeline_request(pipeline, prompts, prompt_argument, pipeline_arguments)
        places = [place for place in (reference, generated) if place is not None]
        found = {place: _find(place, strict=strict, convert=convert, tile=tile) for place in places}
        set_metric = load(**own)
        extractor = set_metric.extractor
        keep = set_metric.needs_features or save_features is not None
        with process_group(extractor.device) as processes:

            def extract(source: ImageSource) -> SetFeatures:
                options: dict[str, Any] = {
                    "batch_size": batch_size,
                    "workers": workers,
                    "processes": processes,
                }
                if features_cache is not None and isinstance(source, FileImages | ArrayImages):
                    return FeatureCache(folder=features_cache, tile=tile).extract(
                        source, extractor, **options
                    )
                return extract_features(source, extractor, keep_features=keep, **options)

            sets: dict[Path, SetFeatures | ImageSource] = {
                place: _of_npz(place, set_metric, tile, keep=keep) if source is None else source
                for place, source in found.items()
            }
            made: ImageSource | None = None
            if request is not None:
                made = request(load_pipeline(str(pipeline), device=extractor.device), seed)

            def measure(place: Path) -> SetFeatures:
                known = sets[place]
                if not isinstance(known, SetFeatures):
                    sets[place] = known = extract(known)
                return known

            real = measure(reference)
            for path, with_features in saves:
                _save(real, path, tile, with_features, force, processes)
            if generated is None and made is None:
                return
            fake = measure(generated) if generated is not None else extract(made)  # type: ignore[arg-type]
            if not processes.is_main:
                return
            result = set_metric.function(real, fake)
    notes = [note for source in found.values() for note in getattr(source, "notes", ())]
    _report(set_metric, real, fake, result, label, tile, notes, as_json=as_json, as_csv=as_csv)


def _find(
    place: Path, *, strict: bool, convert: bool, tile: int | None
) -> FileImages | ArrayImages | None:
    """Images at a place; None for an .npz of statistics."""
    if place.suffix.lower() != ".npz" or place.is_dir():
        return FileImages.from_folder(place, strict=strict, convert=convert, tile=tile)
    if {"mu", "sigma"} <= npz_arrays(place):
        return None
    return ArrayImages(array=SampleArray.open(place), tile=tile, strict=strict)


def _of_npz(
    place: Path, set_metric: SetMetric, tile: int | None, *, keep: bool
) -> SetFeatures | ImageSource:
    """The set of an .npz of statistics, which may hold its features or its images too."""
    arrays = npz_arrays(place)
    if not keep or "features" in arrays:
        return load_statistics(
            place, set_metric.extractor, tile, with_features=keep and "features" in arrays
        )
    if SAMPLES_KEY in arrays:
        return ArrayImages(array=SampleArray.open(place), tile=tile)
    raise ValueError(
        f"{place} holds statistics; {set_metric.metric.title} needs the images, or an .npz of --save-features"
    )


def _save(
    features: SetFeatures,
    path: Path,
    tile: int | None,
    with_features: bool,
    overwrite: bool,
    processes: Processes,
) -> None:
    if processes.is_main:
        features.save(path, tile, with_features=with_features, overwrite=overwrite)
        typer.echo(f"wrote {path}", err=True)


def _pipeline_request(
    name: str | None, prompts: Path | None, prompt_argument: str, arguments_json: str
) -> Callable[[Any, int], PipelineImages] | None:
    """What makes the images of a pipeline once it is loaded, from a seed; None without one."""
    if name is None:
        return None
    if prompts is None:
        raise ValueError("--pipeline needs --prompts FILE, with one prompt a line")
    lines: list[Any] = read_prompts(prompts)
    if prompt_argument == "class_labels":
        lines = [int(line) for line in lines]
    arguments = parse_object(arguments_json)

    def images(pipeline: Any, seed: int) -> PipelineImages:
        return PipelineImages(
            pipeline=pipeline,
            prompts=lines,
            prompt_argument=prompt_argument,
            arguments=arguments,
            seed=seed,
            name=name,
        )

    return images


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
    notes: Sequence[str],
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    skipped = {**real.skipped, **fake.skipped}
    counts = [real.statistics.num_images, fake.statistics.num_images]
    metric = set_metric.metric
    warnings = [*set_metric.extractor.warnings, *result.warnings]
    if as_json:
        content = record(
            "set",
            label=label,
            settings={
                **set_metric.extractor.provenance,
                **set_metric.settings,
                **result.settings,
                "tile": tile,
            },
            metric=metric.to_dict(),
            value=result.value,
            num_images=counts,
            sets=[real.name, fake.name],
            details=dict(result.details),
            warnings=warnings,
            notes=list(notes),
            skipped=skipped,
        )
        print(to_json(content))
    elif as_csv:
        print(f"metric,value\n{metric.key},{result.value}")
        for name, value in result.details.items():
            print(f"{name},{'' if value is None else value}")
    else:
        _print_table(set_metric, counts, result)
    for note in (*(f"warning: {warning}" for warning in warnings), *notes):
        typer.echo(printable(note), err=True)
    exit_if_skipped(skipped)


def _print_table(set_metric: SetMetric, counts: Sequence[int | None], result: SetValue) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_row(set_metric.metric.title, f"{result.value:.6g}", style="bold")
    for name, value in result.details.items():
        shown = "-" if value is None else str(value)
        table.add_row(name.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else shown)
    table.add_row("images", " and ".join("?" if n is None else str(n) for n in counts))
    table.add_row("network", set_metric.extractor.name)
    table.add_row("resize", set_metric.extractor.prepare.resize)
    verbatim_console().print(table)
