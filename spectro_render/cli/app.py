"""The command line: arguments in, library calls, words out.

The main job has no sub-command: `spectro-render song.mid`. What is imported here at module level is
what `--help` waits for, so the heavy packages are imported inside the commands.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from functools import cache, partial
from importlib import import_module
from io import TextIOWrapper
from types import FrameType
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, NoReturn

import typer

from spectro_render.batch.cores import let_idle_threads_sleep
from spectro_render.cli.completion import (
    COMPLETE,
    first_word,
    offer_devices,
    offer_models,
    offer_vocoders,
    read_line_of_bash,
    with_files,
)
from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import OptionError, SpectroRenderError, reason_of
from spectro_render.report import PROGRAM, Reporter, abandon, complain

if TYPE_CHECKING:
    from spectro_render.batch.engine import Engine

SUB_COMMANDS = ("info", "models", "train", "evaluate")
MAX_SEED = 2**63 - 1
CLOSED_PIPE = 128 + 13  # what a shell reports for a program that SIGPIPE ended

Sampler = Literal["ddpm", "ddpm-small", "ddim", "dpm++", "diffusers"]
Format = Literal["wav", "flac", "ogg", "mp3"]
BitDepth = Literal["16", "24", "float"]
NumberFormat = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["local", "ray"]

rendering = typer.Typer(rich_markup_mode=None)

_EPILOG = (
    "Sub-commands: 'info' tells what is in a MIDI file, 'models' lists and fetches models, 'train'"
    " trains a model, 'evaluate' measures one; each has its own --help. A file with such a name is"
    " given as ./info."
)


def _finite(value: float | None) -> float | None:
    """Refuse NaN and infinity, which a range lets through."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number to work with")
    return value


def _positive(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise typer.BadParameter(f"{value} is not above 0")
    return _finite(value)


def _not_negative(value: float) -> float | None:
    if value < 0:
        raise typer.BadParameter(f"{value} is below 0")
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


def _quality(*, fast: bool, best: bool) -> str | None:
    if fast and best:
        raise OptionError("--fast and --best exclude each other", "leave one out")
    return "fast" if fast else "best" if best else None


def _offer_inputs(incomplete: str) -> list[str]:
    """Sub-commands, if nothing stands before; otherwise the shell offers files by itself."""
    return [] if first_word() else with_files(SUB_COMMANDS, incomplete)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # a shell that completes the line wants no answer
        from spectro_render import __version__

        print(f"{PROGRAM} {__version__}")
        raise typer.Exit()


@rendering.command(epilog=_EPILOG)
def render(
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
            help="Audio file, folder, or - for standard output."
            "  [default: song.wav beside song.mid]",
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
    fast: Annotated[
        bool, typer.Option("--fast", help="Render with few denoising steps, as the model suggests.")
    ] = False,
    best: Annotated[
        bool,
        typer.Option("--best", help="Render with many denoising steps, as the model suggests."),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Denoising steps per window of 5.12 s.  [default: the model's]"
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
            callback=_finite,
            help="Weight of classifier-free guidance: above 1 the notes count more; 1 turns it off."
            "  [default: the model's]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MAX_SEED, help="Random seed.")] = 0,
    start: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            callback=_not_negative,
            help="Position in the song at which to begin.",
        ),
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            callback=_positive,
            help="Length of the part to render.  [default: to the end]",
        ),
    ] = None,
    gain: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            min=-60,
            max=60,
            callback=_finite,
            help="Gain in decibels, before the limiter.  [default: the model's]",
        ),
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
        typer.Option(metavar="HZ", help="Sample rate of the output.  [default: the model's 16000]"),
    ] = None,
    bit_depth: Annotated[
        BitDepth | None,
        typer.Option(
            help="Bits per sample of wav, flac (not float) and raw output.  [default: 16]"
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write bare little-endian samples, without a file header.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of songs rendered side by side.  [default: what suits the model]",
        ),
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="Where to render: on this machine, or on a Ray cluster.")
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
        typer.Option(
            metavar="N", min=1, help="Number of Ray workers.  [default: all that there is room for]"
        ),
    ] = None,
    ray_cores: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="CPU cores of a Ray worker without a GPU.  [default: 1; large models: 4]",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Render outputs again that exist already.")
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
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> int:
    """Turn MIDI files into audio.

    INPUT is one or more .mid, .midi, .kar or .rmi files; folders, searched with all folders in
    them; patterns; lists of files; or - for standard input. Outputs that exist already are skipped,
    unless the folder OUT has a record that they were made from another file or with other settings;
    --force renders them again. Only a single output that -o names in full is always replaced.

    Exit codes: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted.
    """
    from spectro_render.audio.encoders import check_format
    from spectro_render.batch.batch import Batch
    from spectro_render.batch.engine import LocalEngine
    from spectro_render.batch.jobs import (
        choose_format,
        common_folder,
        is_batch,
        longest_first,
        plan_jobs,
        read_lists,
    )
    from spectro_render.batch.tasks import Cluster, Settings
    from spectro_render.checkpoints.find import fingerprint_of, resolve_model
    from spectro_render.options import Encoding, ModelChoice, RenderOptions

    if raw and format:
        raise OptionError("--raw and --format exclude each other", "leave one out")
    names, listed = read_lists(inputs or [], files_from)
    several = is_batch(names, listed)
    encoding = Encoding(
        choose_format(output, "raw" if raw else format, batch=several), bit_depth, sample_rate
    )
    check_format(encoding.format, bit_depth, sample_rate or SAMPLE_RATE)
    jobs = plan_jobs(names, output, encoding.format, listed)
    options = RenderOptions(
        quality=_quality(fast=fast, best=best),
        sampler=sampler,
        steps=steps,
        guidance=guidance,
        seed=seed,
        gain=gain,
        start=start,
        duration=duration,
    )
    settings = Settings(ModelChoice(model, vocoder, device, dtype), options, encoding, batch_size)
    if engine == "local" and (ray_address or ray_workers or ray_cores):
        raise OptionError("--ray-... means nothing to the local engine", "add --engine ray")
    cluster = Cluster(ray_address, ray_workers, ray_cores) if engine == "ray" else None
    with _audio_on_stdout() if any(job.is_streamed for job in jobs) else nullcontext() as stream:
        reporter = Reporter(quiet=quiet, json_stream=sys.stdout if json else None)
        find_model = cache(partial(resolve_model, model, vocoder, reporter))
        where: Engine
        if cluster is None:
            where = LocalEngine(settings, len(jobs), find_model)
        else:
            from spectro_render.batch.ray_engine import RayEngine

            where = RayEngine(settings, reporter, cluster, find_model)
        batch = Batch(
            settings,
            where,
            reporter,
            lambda: fingerprint_of(find_model()),
            stream=stream,
            force=force,
            keeps_going=several,
            folder=common_folder(names, output, listed),
        )
        return 1 if batch.run(longest_first(jobs) if cluster else jobs) else 0


@contextmanager
def _audio_on_stdout() -> Iterator[BinaryIO]:
    """Standard output for the sound; whatever else is printed then goes to standard error."""
    if sys.stdout.isatty():
        raise OptionError("sound is not for a terminal to show", "name a file with -o, or a pipe")
    stream = sys.stdout.buffer
    with redirect_stdout(sys.stderr):
        yield stream


def main() -> NoReturn:
    """The console script."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries say to developers; -W brings it back
    let_idle_threads_sleep()
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that its encoding cannot hold
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _exit_on_signal)
    try:
        sys.exit(run(sys.argv[1:]))
    except SystemExit:
        if _signals:  # a code of its own is what Ray makes of an exit inside its calls
            sys.exit(128 + _signals[0])
        raise


_signals: list[int] = []  # that have come


def _replace_closed_streams() -> None:
    """Stand in for standard streams that came closed, or files of ours would get their numbers.

    Reading and writing fail as they would have; what is said to standard error vanishes.
    """
    if sys.stdin is None:
        sys.stdin = open(os.open(os.devnull, os.O_WRONLY))
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def _exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """End by an exception, so that half-written files are removed on the way out."""
    _signals.append(number)
    sys.exit(128 + number)


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit code."""
    try:
        return _flushed(_invoke(list(arguments)))
    except (typer.TyperException, OptionError) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        sub_command = [word for word in arguments[:1] if word in SUB_COMMANDS]
        complain(f"{message.rstrip('.')}; see {' '.join([PROGRAM, *sub_command])} --help")
        return 2
    except SpectroRenderError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        abandon(sys.stdout)
        return CLOSED_PIPE
    except OSError as error:
        complain(f"{error.filename or 'standard output'}: {reason_of(error)}")
        abandon(sys.stdout)
        return 1


def _flushed(code: int) -> int:
    """Write what is still to be written to standard output, whose failure makes success one."""
    try:
        sys.stdout.flush()
    except OSError:
        if not code:
            raise
        abandon(sys.stdout)  # an encoder's last bytes, whose loss has been said
    return code


def _invoke(arguments: list[str]) -> int:
    """Run the sub-command that comes first, or the main job; or answer a shell that completes."""
    if os.environ.get(COMPLETE):
        with suppress(SpectroRenderError):  # of a sub-command whose packages are missing
            read_line_of_bash()
            typer.main.get_command(_program_of(first_word())).main(prog_name=PROGRAM)  # exits
        return 1
    command = typer.main.get_command(_program_of(arguments[0] if arguments else None))
    try:
        with command.make_context(PROGRAM, arguments) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as done:
        return int(done.exit_code)


def _program_of(word: str | None) -> typer.Typer:
    """The program of the sub-command `word`; for any other first word the main job."""
    if word not in SUB_COMMANDS:
        return rendering
    import_module("spectro_render.cli.info")  # adds itself to the program
    from spectro_render.cli.models import program_of

    return program_of(word)
