# SPDX-License-Identifier: Apache-2.0
"""``genaccel demo``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genaccel.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from genaccel.eval.demo import CodecMean, Measurement

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Contact sheet to write, a PNG file.")] = Path(
        "out/demo.png"
    ),
    model: options.Model = None,
    json: Annotated[Path | None, typer.Option(help="Also write every figure to this file.")] = None,
    device: options.Device = "cpu",
) -> None:
    """Compress held-out photographs, compare with JPEG, WebP and AVIF of the same size, and draw a sheet.

    Existing results are replaced.
    """
    import torch
    from rich.console import Console

    from genaccel.codec.atomic_file import write_atomically
    from genaccel.codec.image_codec import DEFAULT_MODEL, ImageCodec
    from genaccel.eval.demo import codec_means, contact_sheet, run_demo, to_json
    from genaccel.eval.held_out import held_out_photographs
    from genaccel.eval.st_lpips import StLpipsOfImages
    from genaccel.models.st_lpips import StLpips

    codec = ImageCodec.from_pretrained(model or DEFAULT_MODEL, device=device)
    photographs = held_out_photographs()
    st_lpips = None
    try:
        st_lpips = StLpipsOfImages(StLpips.from_pretrained("vgg").to(torch.device(device)))
    except FileNotFoundError as error:
        typer.echo(f"without the ST-LPIPS column: {error}", err=True)

    console = Console()
    table = _table(
        "Held-out photographs, each codec at the file size nearest to ours", st_lpips is not None
    )
    results = []
    with console.status("measuring") as status:
        for result in run_demo(codec, photographs, st_lpips=st_lpips):
            results.append(result)
            status.update(f"measured {len(results)} of {len(photographs)} photographs")
            for row in result.measurements:
                pixels = f"{row.width}x{row.height}"
                table.add_row(row.photograph, pixels, *_cells(row, st_lpips is not None))
            table.add_section()
    for mean in codec_means(results):
        table.add_row("mean", "", *_cells(mean, st_lpips is not None), style="bold")
    console.print(table)
    if any(row.is_floor for result in results for row in result.measurements):
        console.print("* the smallest file that this format makes")

    png = io.BytesIO()
    contact_sheet(results).save(png, "PNG")
    written = {out: png.getvalue()}
    if json is not None:
        written[json] = to_json(results).encode()
    for path, data in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, overwrite=True)
        console.print(f"wrote {path}")


def _table(title: str, with_st_lpips: bool) -> Table:
    from rich.table import Table

    table = Table(title=title)
    table.add_column("photograph")
    table.add_column("pixels")
    table.add_column("codec")
    names = ["bytes", "bits/pixel", "PSNR dB", "MS-SSIM"]
    names += ["ST-LPIPS"] if with_st_lpips else []
    for name in [*names, "encode ms", "decode ms"]:
        table.add_column(name, justify="right")
    return table


def _cells(row: Measurement | CodecMean, with_st_lpips: bool) -> list[str]:
    mark = "*" if getattr(row, "is_floor", False) else ""
    cells = [
        row.codec + mark,
        f"{row.num_bytes:.0f}",
        f"{row.bits_per_pixel:.3f}",
        f"{row.psnr:.2f}",
        f"{row.ms_ssim:.4f}",
    ]
    if with_st_lpips:
        cells.append("" if row.st_lpips is None else f"{row.st_lpips:.4f}")
    return [*cells, f"{row.encode_ms:.0f}", f"{row.decode_ms:.0f}"]
