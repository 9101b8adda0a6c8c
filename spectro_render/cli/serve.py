"""The command `spectro-render serve`: renders songs for others, on a page and over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from spectro_render.cli.completion import offer_devices, offer_models
from spectro_render.cli.values import model_name
from spectro_render.report import Reporter
from spectro_render.serve.limits import Limits

USUAL = Limits()


def serve(
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on. Others than this need a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET",
            envvar="SPECTRO_RENDER_TOKEN",
            help="Secret that every request must have, of 16 characters or more. In the variable,"
            " other users of this machine do not see it.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Name under which the server is reached, such as that of a proxy."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            callback=model_name,
            autocompletion=offer_models,
            help="Model that renders all songs.",
        ),
    ] = "default",
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=offer_devices,
            help="Device to compute on: auto, cpu, cuda, cuda:N or mps.",
        ),
    ] = "auto",
    max_megabytes: Annotated[
        float, typer.Option(metavar="MB", min=0.001, max=64, help="Largest MIDI file.")
    ] = USUAL.upload / 1e6,
    max_minutes: Annotated[
        float, typer.Option(metavar="MIN", min=0.01, max=1500, help="Longest sound of a song.")
    ] = USUAL.song / 60,
    max_steps: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Most denoising steps.")
    ] = USUAL.steps,
    max_jobs: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Most songs that wait or are rendered; half from one address."
        ),
    ] = USUAL.jobs,
    max_age: Annotated[
        float,
        typer.Option(metavar="MIN", min=0.01, help="Time after which a song is removed."),
    ] = USUAL.age / 60,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> int:
    """Render songs for others, on a page to drop MIDI files on and for programs over HTTP.

    Without options, only this machine can reach the server. It keeps the model in memory, and
    renders several songs at once.

    Exit codes: 1 something failed, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM.
    """
    from spectro_render.checkpoints.find import fingerprint_of, resolve_model
    from spectro_render.serve.run import check_address, run_server

    check_address(host, token)

    from spectro_render.render.renderer import Renderer

    reporter = Reporter(quiet=quiet)
    files = resolve_model(model, None, reporter)
    renderer = Renderer.load_found(lambda: files, device=device)
    limits = Limits(
        upload=round(max_megabytes * 1e6),
        song=max_minutes * 60,
        steps=max_steps,
        jobs=max_jobs,
        jobs_of_client=-(-max_jobs // 2),
        kept=max_jobs,
        age=max_age * 60,
    )
    run_server(
        renderer,
        fingerprint_of(files),
        limits,
        reporter,
        host=host,
        port=port,
        token=token,
        hosts=tuple(allow_host or ()),
    )
    return 0
