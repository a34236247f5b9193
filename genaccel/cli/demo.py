# SPDX-License-Identifier: Apache-2.0
"""``genaccel demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genaccel.cli import options
from genaccel.cli.distance import load_st_lpips
from genaccel.cli.streams import shown
from genaccel.cli.tables import compact_table
from genaccel.files.atomic import check_target, write_atomically

if TYPE_CHECKING:
    from rich.table import Table

    from genaccel.eval.demo import CodecMean, Measurement

app = typer.Typer()


@app.command(context_settings=options.renamed({"json": "figures"}))
def demo(
    out: Annotated[Path, typer.Option(help="Contact sheet to write, a PNG file.")] = Path(
        "out/demo.png"
    ),
    model: options.Model = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write every figure to this file.")
    ] = None,
    device: options.Device = "cpu",
) -> None:
    """Compress held-out photographs, compare with JPEG, WebP and AVIF of the same size, and draw a sheet.

    Existing results are replaced.
    """
    for target in (out, figures):
        if target is not None:
            check_target(target, overwrite=True, parents=True)
    from rich.console import Console

    from genaccel.codec.image_codec import DEFAULT_MODEL, ImageCodec
    from genaccel.eval.demo import codec_means, contact_sheet, run_demo, to_json
    from genaccel.eval.held_out import held_out_photographs
    from genaccel.files.image_writer import encode_image

    codec = ImageCodec.from_pretrained(model or DEFAULT_MODEL, device=device)
    photographs = held_out_photographs()
    st_lpips = load_st_lpips(None, device)

    console = Console(markup=False, emoji=False)
    table = compact_table(
        ["photograph", "codec"],
        [
            *("bytes", "bits/\npixel", "PSNR\ndB", "MS-SSIM"),
            *(["ST-LPIPS\nvgg"] if st_lpips is not None else []),
            *("encode\nms", "decode\nms"),
        ],
        "Held-out photographs, each codec at the file size nearest to ours",
    )
    results = []
    with console.status("measuring") as status:
        for result in run_demo(codec, photographs, st_lpips=st_lpips):
            results.append(result)
            status.update(f"measured {len(results)} of {len(photographs)} photographs")
            first = result.measurements[0]
            _add_section(
                table, (first.photograph, f"{first.width}x{first.height}"), result.measurements
            )
    _add_section(table, ("mean",), codec_means(results))
    console.print(table)
    if any(row.is_floor for result in results for row in result.measurements):
        console.print("* the smallest file that this format makes")

    written = {out: encode_image(contact_sheet(results), "png")}
    if figures is not None:
        written[figures] = to_json(results).encode()
    for path, data in written.items():
        write_atomically(path, data, overwrite=True, parents=True)
        typer.echo(shown(f"wrote {path}"))


def _add_section(
    table: Table, names: Sequence[str], rows: Sequence[Measurement | CodecMean]
) -> None:
    """One line a codec; the names stand at the beginning of the first lines."""
    for line, row in enumerate(rows):
        table.add_row(names[line] if line < len(names) else "", *_cells(row))
    table.add_section()


def _cells(row: Measurement | CodecMean) -> list[str]:
    mark = "*" if getattr(row, "is_floor", False) else ""
    distance = [] if row.st_lpips is None else [f"{row.st_lpips:.4f}"]
    return [
        row.codec + mark,
        f"{row.num_bytes:.0f}",
        f"{row.bits_per_pixel:.3f}",
        f"{row.psnr:.2f}",
        f"{row.ms_ssim:.4f}",
        *distance,
        f"{row.encode_ms:.0f}",
        f"{row.decode_ms:.0f}",
    ]
