"""The main command: renders a batch of songs, with the options of the command line.

Imports at module level slow down `--help`, so heavy packages are imported inside the command.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from spectro_render.cli import changes
from spectro_render.cli.completion import (
    SUB_COMMANDS,
    first_word,
    offer_devices,
    offer_models,
    offer_vocoders,
    with_files,
)
from spectro_render.cli.help import GroupedCommand, is_given, short_help
from spectro_render.cli.values import hertz, model_name, seconds
from spectro_render.cli.words import check_first_word
from spectro_render.constants import FULL_RATE, SAMPLE_RATE
from spectro_render.errors import EngineError, OptionError
from spectro_render.options import FULL_BAND_RATE, MAX_GUIDANCE, MAX_HOURS, MAX_STEPS
from spectro_render.report import PROGRAM, Reporter, abandon

if TYPE_CHECKING:
    from spectro_render.batch.tasks import Engine
    from spectro_render.cli.watch import Watch
    from spectro_render.serve.client import ServerEngine


MAX_SEED = 2**63 - 1
MAX_WORKERS = 256
Sampler = Literal["ddpm", "ddpm-small", "ddim", "dpm++", "diffusers"]
Format = Literal["wav", "flac", "aiff", "ogg", "opus", "mp3"]
BitDepth = Literal["16", "24", "float"]
Channels = Literal["auto", "mono", "stereo"]
StemsBy = Literal["track", "channel", "program", "bus"]
NumberFormat = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["local", "ray"]
Switch = Literal["on", "off"]
rendering = typer.Typer(rich_markup_mode=None)


def _finite(value: float | None) -> float | None:
    """Refuse NaN and infinity, which Typer's ranges accept."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def _positive(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise typer.BadParameter(f"{value} is not above 0")
    return _finite(value)


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N, mps")
    return value


def _vocoder(value: str | None) -> str | None:
    from spectro_render.checkpoints.find import is_vocoder
    from spectro_render.checkpoints.manifest import VOCODERS

    if value is not None and not is_vocoder(value):
        kinds = ", ".join(VOCODERS)
        raise typer.BadParameter(f"{value!r} is none of {kinds}, a model or an ONNX file")
    return value


def _offer_inputs(incomplete: str) -> list[str]:
    """Offer sub-commands for the first word; for others the shell offers files by itself."""
    return [] if first_word() else with_files(SUB_COMMANDS, incomplete)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # not while a shell completes
        from spectro_render import __version__

        if context.params.get("verbose"):
            from spectro_render.cli.doctor import versions

            for name, value in versions().items():
                print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
        else:
            print(f"{PROGRAM} {__version__}")
        raise typer.Exit()


@rendering.command(cls=GroupedCommand)
def render(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            autocompletion=_offer_inputs,
            help="MIDI files, folders of them, patterns such as 'songs/**/*.mid', @LIST for a list"
            " of files, or - for standard input.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Audio file, folder, or - for standard output; or a name with fields, such as"
            " 'out/{stem}-{seed}.{format}'.  [default: song.wav beside song.mid]",
        ),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Render the files named in the file LIST, one per line or ended by null bytes;"
            " - reads the list from standard input.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            callback=model_name,
            autocompletion=offer_models,
            help="Model: a name that 'models list' prints, a directory, or OWNER/REPO of the"
            " Hugging Face Hub.",
        ),
    ] = "default",
    vocoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=_vocoder,
            autocompletion=offer_vocoders,
            help="Vocoder, which turns spectrograms into sound: melgan, onnx or griffin-lim,"
            " another model, or an .onnx file.  [default: the model's]",
        ),
    ] = None,
    timbre: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INSTRUMENT=FILE",
            help="Give an instrument, by General MIDI name or number, the timbre of a sound (with"
            " its MIDI file beside it, or one note at a time) or of a file that 'models timbre'"
            " made. Can be repeated.",
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Use the number of denoising steps that the model sets for speed."
        ),
    ] = False,
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="Use the number of denoising steps that the model sets for quality."
        ),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_STEPS,
            help="Denoising steps per window of 5.12 s; not together with --fast or --best."
            "  [default: the model's]",
        ),
    ] = None,
    sampler: Annotated[
        Sampler | None,
        typer.Option(help="Sampling method of the diffusion model.  [default: the model's]"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="W",
            min=-MAX_GUIDANCE,
            max=MAX_GUIDANCE,
            callback=_finite,
            help="Weight of classifier-free guidance: above 1 the notes count more; 1 turns it off;"
            " with 0 they do not count.  [default: the model's]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MAX_SEED, help="Random seed.")] = 0,
    start: Annotated[
        float,
        typer.Option(
            metavar="TIME",
            parser=seconds,
            callback=_finite,
            help="Position in the song at which to begin: seconds, or 1:30.",
        ),
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=seconds,
            callback=_positive,
            help="Length of the part to render.  [default: to the end]",
        ),
    ] = None,
    tail: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=seconds,
            callback=_finite,
            help="Time that the sound continues after the last note.  [default: 2.5, or as long as"
            " it rings, at most 10]",
        ),
    ] = None,
    to_end_of_track: Annotated[
        bool,
        typer.Option(
            "--to-end-of-track",
            help="Render the rests at the end of a file, too, and a file of rests as silence.",
        ),
    ] = False,
    max_hours: Annotated[
        float,
        typer.Option(
            metavar="HOURS",
            callback=_positive,
            help="Longest sound that a song may have. Longer ones are refused; with 25, none is.",
        ),
    ] = MAX_HOURS,
    gain: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            min=-60,
            max=60,
            callback=_finite,
            help="Gain in decibels, before the limiter; not together with --normalize."
            "  [default: the model's]",
        ),
    ] = None,
    program: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=INSTRUMENT",
            help="Play a part with another instrument: a MIDI channel (1 to 16) or the name of a"
            " track, and a General MIDI name or number (1 to 128), or drums. Can be repeated.",
        ),
    ] = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Leave out --program for parts that a song does not have, as for several songs.",
        ),
    ] = False,
    drums: Annotated[Switch | None, typer.Option(help="Play the drums.  [default: on]")] = None,
    transpose: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=-127,
            max=127,
            help="Transpose all parts but drums by N semitones.  [default: 0]",
        ),
    ] = None,
    tempo: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR",
            callback=changes.tempo,
            help="Play this many times as fast; 0.9 is a tenth slower.  [default: 1]",
        ),
    ] = None,
    velocity: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR",
            callback=changes.velocity,
            help="Play all notes this many times as hard, at most with velocity 127.  [default: 1]",
        ),
    ] = None,
    bars: Annotated[
        str | None,
        typer.Option(
            metavar="FROM-TO",
            callback=changes.bars,
            help="Bars to render, such as 40-48, 40 or 40-; a pickup is bar 0.",
        ),
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Read such changes from a TOML file, for all songs or for some; options of the"
            " command line win.",
        ),
    ] = None,
    channels: Annotated[
        Channels,
        typer.Option(help="Mono or stereo sound; auto is stereo if the file pans."),
    ] = "auto",
    stems: Annotated[
        bool,
        typer.Option(
            "--stems",
            help="Write a file for each part, too: song/01 Violin.wav and others beside song.wav.",
        ),
    ] = False,
    stems_by: Annotated[
        StemsBy, typer.Option(help="What a part is, for --stems, --solo and --mute.")
    ] = "track",
    solo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Render this part alone, by its number, name or instrument; may be repeated.",
        ),
    ] = None,
    mute: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Leave this part out; may be repeated."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            callback=_device,
            autocompletion=offer_devices,
            help="Device to compute on: auto, cpu, cuda, cuda:N or mps.",
        ),
    ] = "auto",
    dtype: Annotated[
        NumberFormat, typer.Option(help="Number format of the network's arithmetic.")
    ] = "auto",
    format: Annotated[
        Format | None,
        typer.Option(help="Output format.  [default: what the suffix of OUT says, else wav]"),
    ] = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(
            metavar="HZ",
            parser=hertz,
            help="Sample rate of the output, such as 44100 or 44.1k.  [default: 16000, and 48000"
            " with --full-band]",
        ),
    ] = None,
    full_band: Annotated[
        bool | None,
        typer.Option(
            "--full-band/--no-full-band",
            help="Add the band from 8 to 20 kHz, which is made up, not rendered.  [default: on for"
            f" sample rates of {FULL_BAND_RATE} and more, if the model can]",
        ),
    ] = None,
    bit_depth: Annotated[
        BitDepth | None,
        typer.Option(
            help="Bits per sample of wav, aiff, flac (not float) and raw output.  [default: 16]"
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            metavar="Q",
            min=0,
            max=10,
            callback=_finite,
            help="Quality of ogg, opus and mp3, from 0 (small files) to 10."
            "  [default: the encoder's]",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write bare little-endian samples, without a file header.")
    ] = False,
    normalize: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="Bring sound to a level when it is complete: none, peak, lufs (loudness by EBU"
            " R 128) or album (the loudness of all songs together), with a target as in peak:-1"
            " (dBTP) or lufs:-16.  [default: none]",
            show_default=False,
        ),
    ] = "none",
    no_dither: Annotated[
        bool,
        typer.Option("--no-dither", help="Round samples of 16 bits without dither (noise)."),
    ] = False,
    no_tags: Annotated[
        bool,
        typer.Option("--no-tags", help="Write no title, artist and settings into the file."),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of songs rendered side by side, by each worker if there are several."
            "  [default: what suits the model]",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_WORKERS,
            help="Number of processes that render, if there are several songs.",
        ),
    ] = 1,
    engine: Annotated[
        EngineName,
        typer.Option(help="Place to render: this machine (local) or a Ray cluster (ray)."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the Ray cluster.  [default: RAY_ADDRESS, else one on this machine]",
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of Ray workers.  [default: as many as fit]"),
    ] = None,
    ray_cores: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="CPU cores of a Ray worker without a GPU.  [default: 1; large models: 4]",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of a server ('spectro-render serve') that renders, such as"
            " http://localhost:8000.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Render outputs again even if they exist.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            "--no-clobber",
            help="Keep outputs that exist, however they were made.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what would be rendered and where, and write nothing."
        ),
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="PNG",
            help="Draw notes, spectrogram and waveform into a PNG file; for several songs, into a"
            " folder of them.",
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="HTML",
            help="Write a page with a player, the notes, the spectrogram and all settings; for"
            " several songs, a folder of pages.",
        ),
    ] = None,
    play: Annotated[
        bool,
        typer.Option(
            "--play",
            help="Play songs on this machine while they are rendered; without -o they are only"
            " played, and nothing is written.",
        ),
    ] = False,
    play_device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Device to play on: its number, or a part of its name ('spectro-render doctor'"
            " lists them).  [default: the system's]",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Render songs again whenever they are saved, and new ones in folders, until"
            " Ctrl-C.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print a JSON object per file on standard output (on standard error if the sound"
            " goes to standard output).",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            allow_from_autoenv=False,
            callback=_print_version,
            help="Print the version and exit.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            allow_from_autoenv=False,
            is_eager=True,
            help="With --version: print all versions and devices, for reports of faults.",
        ),
    ] = False,
) -> int:
    """Turn MIDI files into audio.

    INPUT is one or more .mid, .midi, .kar or .rmi files; folders, searched with all folders in
    them; patterns; lists of files; or - for standard input.

    An output that exists already is skipped if it is up to date, and rendered again if it was made
    from another file, with other settings or with another model. One of which that is not known is
    not replaced: it is skipped among several songs, and an error for a single one. A single output
    that -o names in full is always replaced.

    Exit codes: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted.
    """
    if watch:
        arguments = {**locals(), "watch": False}
        return _watch(context, inputs or [], files_from, partial(render, **arguments))
    from spectro_render.audio.encoders import BIT_DEPTHS, LOSSY, check_format
    from spectro_render.audio.normalize import MOST_OF_ALBUM, parse_level
    from spectro_render.batch.batch import Batch
    from spectro_render.batch.engine import LocalEngine
    from spectro_render.batch.jobs import (
        choose_format,
        common_folder,
        is_batch,
        longest_first,
        plan_jobs,
        plan_playing,
        read_lists,
    )
    from spectro_render.batch.mapping import map_jobs, read_mapping
    from spectro_render.batch.tasks import Cluster, Settings
    from spectro_render.checkpoints.find import fingerprint_of, require_at_hand, resolve_model
    from spectro_render.cli.play import check_playing, playing
    from spectro_render.cli.timbre import timbre_files
    from spectro_render.midi.changes import changes_of
    from spectro_render.options import Encoding, ModelChoice, RenderOptions

    try:
        os.getcwd()
    except OSError:  # oneMKL would end the program
        message = "the working folder does not exist any more"
        raise EngineError(message, "change to another folder") from None
    if verbose:
        raise OptionError("--verbose is for --version", "add --version, or leave it out")
    if fast and best:
        raise OptionError("--fast and --best exclude each other", "leave one out")
    if steps is not None and (fast or best):
        message = f"{'--fast' if fast else '--best'} and --steps both set the number of steps"
        raise OptionError(message, "leave one out")
    if gain is not None and normalize != "none":
        raise OptionError("--gain and --normalize both set the level", "leave one out")
    if is_given(context, "stems_by") and not (stems or solo or mute):
        raise OptionError("--stems-by is for --stems, --solo and --mute", "add one of them")
    if raw and format:
        raise OptionError("--raw and --format exclude each other", "leave one out")
    if force and skip_existing:
        raise OptionError("--force and --skip-existing exclude each other", "leave one out")
    if not (inputs or files_from or any(is_given(context, name) for name in context.params)):
        print(short_help(), file=sys.stderr)
        return 2
    check_first_word(inputs or [])
    names, listed = read_lists(inputs or [], files_from)
    several = is_batch(names, listed)
    file_format = choose_format(output, "raw" if raw else format, batch=several)
    if not is_given(context, "quality") and file_format not in LOSSY:
        quality = None
    if not is_given(context, "bit_depth") and bit_depth not in BIT_DEPTHS[file_format]:
        bit_depth = None
    encoding = Encoding(
        file_format,
        bit_depth,
        sample_rate,
        quality,
        parse_level(normalize),
        not no_dither,
        not no_tags,
    )
    if full_band and sample_rate is not None and sample_rate < FULL_BAND_RATE:
        hint = f"choose a --sample-rate of {FULL_BAND_RATE} or more, or leave out --full-band"
        raise OptionError(f"a sample rate of {sample_rate} has no room for the full band", hint)
    rate = FULL_RATE if full_band else SAMPLE_RATE  # unless another is chosen
    out_rate = rate if sample_rate is None else sample_rate
    check_format(encoding.format, bit_depth, out_rate, quality)
    shared = {  # fields of a template that are the same for all songs
        "seed": seed,
        "model": os.path.basename(os.path.normpath(model)),
        "quality": "fast" if fast else "best" if best else "default",
        "steps": steps or "default",
        "start": start,
    }
    if play:
        check_playing(context, output)
        batch_size = 1
    elif play_device is not None:
        raise OptionError("--play-device is for --play", "add --play")
    if play and output is None:
        jobs = plan_playing(names, listed)
    else:
        jobs = plan_jobs(names, output, encoding.format, listed, shared)
    round_of: Watch | None = context.obj
    if round_of is not None:
        jobs = [job for job in jobs if round_of.wants(job)]
        if not jobs:
            return 0
    given: dict[str, Any] = {
        "programs": changes.programs(program),
        "drums": None if drums is None else drums == "on",
        "transpose": transpose,
        "tempo": tempo,
        "velocity": velocity,
        "bars": bars,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if stems and any(job.is_streamed for job in jobs):
        raise OptionError("--stems writes a folder beside the output", "name a file with -o")
    if stems and encoding.level is not None:
        raise OptionError("--stems and --normalize exclude each other", "leave one out")
    if stems:
        jobs = [replace(job, has_stems=True) for job in jobs]
    options = RenderOptions(
        quality="fast" if fast else "best" if best else None,
        sampler=sampler,
        steps=steps,
        guidance=guidance,
        seed=seed,
        gain=gain,
        start=start,
        duration=duration,
        tail=tail,
        to_end_of_track=to_end_of_track,
        full_band=full_band,
        max_hours=max_hours,
        skip_missing=several or skip_missing,
        **given,
        channels=channels,
        stems=stems,
        stems_by=stems_by,
        solo=tuple(solo or ()),
        mute=tuple(mute or ()),
    )
    if bars is not None and (start or duration is not None):
        raise OptionError("--bars excludes --start and --duration", "give one of them")
    changes_of(options)  # so that wrong values are refused before any work
    file = None if mapping is None else read_mapping(mapping)
    jobs = map_jobs(file, jobs, options, given) if file else jobs
    timbres = timbre_files(timbre or (), model, Reporter(quiet=quiet))
    choice = ModelChoice(model, vocoder, device, dtype, timbres)
    settings = Settings(choice, options, encoding, batch_size)
    if engine == "local" and (ray_address or ray_workers or ray_cores):
        raise OptionError("--ray-... options are only for a Ray cluster", "add --engine ray")
    if engine == "ray" and workers > 1:
        raise OptionError("--workers is for this machine", "use --ray-workers for a Ray cluster")
    is_album = encoding.level is not None and encoding.level.kind == "album"
    if is_album and (engine == "ray" or workers > 1):
        raise OptionError("--normalize album is for one process", "leave out --workers or --engine")
    if is_album and len(jobs) > MOST_OF_ALBUM:
        message = f"--normalize album is for at most {MOST_OF_ALBUM} songs"
        raise OptionError(message, "use --normalize lufs")
    if server is not None and (
        (model, vocoder, device, dtype, timbre or None) != ("default", None, "auto", "auto", None)
        or (batch_size, workers, engine) != (None, 1, "local")
    ):
        message = "a server has its own model and device, and renders all songs of its clients"
        raise OptionError(message, "give --server without options of the model and the machine")
    cluster = Cluster(ray_address, ray_workers, ray_cores) if engine == "ray" else None
    folder = None if play and output is None else common_folder(names, output, listed)
    pages = None
    if plot is not None or report is not None:
        from spectro_render.page.pages import Pages, Wanted

        pages = Pages(Wanted(plot, report), settings, jobs, several=several, folder=folder)
    with ExitStack() as stack:
        is_streamed = any(job.is_streamed for job in jobs)
        stream = stack.enter_context(_audio_on_stdout()) if is_streamed else None
        reporter = Reporter(quiet=quiet, json_stream=sys.stdout if json else None)
        player = None
        if play and not dry_run:
            stops = None if round_of is None else round_of.has_news
            player = stack.enter_context(playing(play_device, reporter, stops))
        for line in file.unused(job.name for job in jobs) if file else ():
            reporter.say(line)
        if encoding.level and stream:
            reporter.say("the sound is written when the song is complete: its level is measured")
        files = [(each.program, each.file) for each in timbres]
        find_model = cache(partial(resolve_model, model, vocoder, reporter, files))
        remote: ServerEngine | None = None

        def fingerprint() -> str:
            if dry_run:
                require_at_hand(model, vocoder)
            return fingerprint_of(find_model())

        where: Engine
        if server is not None:
            from spectro_render.serve.client import ServerEngine

            where = remote = ServerEngine(settings, server, player)
        elif cluster is None and (len(jobs) == 1 or workers == 1 or play):
            where = LocalEngine(settings, len(jobs), find_model, player, reporter.loading)
            if round_of is not None:
                round_of.lend_model(where)
        elif cluster is None:
            from spectro_render.batch.process_engine import ProcessEngine

            where = ProcessEngine(settings, reporter, workers, len(jobs), find_model)
        else:
            from spectro_render.batch.ray_engine import RayEngine

            where = RayEngine(settings, reporter, cluster, find_model)
        batch = Batch(
            settings,
            where,
            reporter,
            remote.fingerprint if remote else fingerprint,
            stream=stream,
            force=force or is_album,  # its songs have one gain
            skip_existing=skip_existing,
            is_played=play,
            keeps_going=several,
            folder=folder,
            has_records=output is not None,
            draw=pages.draw if pages else None,
        )
        if dry_run:
            return 1 if batch.preview(jobs) else 0
        failures = batch.run(longest_first(jobs) if cluster else jobs)
        if round_of is not None:
            round_of.is_fatal = batch.is_fatal
        return 1 if failures else 0


def _watch(
    context: typer.Context,
    inputs: list[str],
    files_from: str | None,
    render_again: Callable[[], int],
) -> int:
    """Render the inputs now and whenever they are saved. Raises OptionError for other options."""
    from spectro_render.cli.watch import keep_rendering

    values = context.params
    usual = {"dry_run": False, "skip_existing": False, "workers": 1, "engine": "local"}
    for name, value in usual.items():
        if values[name] != value:
            option = f"--{name.replace('_', '-')}"
            raise OptionError(f"--watch and {option} exclude each other", "leave one out")
    if values["normalize"].startswith("album"):
        message = "--watch and --normalize album exclude each other"
        raise OptionError(message, "use --normalize lufs")
    if values["output"] == "-":
        raise OptionError("--watch cannot write to standard output", "name a file with -o")

    def render_round(watch: Watch) -> int:
        context.obj = watch
        return render_again()

    return keep_rendering(inputs, files_from, Reporter(quiet=values["quiet"]), render_round)


@contextmanager
def _audio_on_stdout() -> Iterator[BinaryIO]:
    """Standard output, for the sound; other output is redirected to standard error."""
    if sys.stdout.isatty():
        raise OptionError(
            "sound cannot be written to a terminal", "name a file with -o, or use a pipe"
        )
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):
        try:
            yield stdout.buffer
        except (KeyboardInterrupt, SystemExit):
            abandon(stdout)  # the end of the program does not wait for a reader that is slow
            raise
