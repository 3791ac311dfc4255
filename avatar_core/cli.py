"""The `avatar` command: speak, personalise, export, voices, ingest, and those of the pipeline (`cli_pipeline`).

Thin: it reads files, calls the library and prints. What the user gave wrong is one line on stderr and exit code 2.
"""

from __future__ import annotations

import os
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from avatar_core.cli_ingest import ingest
from avatar_core.cli_options import (
    Articulation,
    Audio,
    Device,
    Language,
    Model,
    OptionalPortrait,
    PersonNumber,
    Portrait,
    Portraits,
    Seed,
    Text,
    Voice,
    compute_of,
    student_file,
)
from avatar_core.cli_pipeline import add_pipeline_commands
from avatar_core.cli_terminal import bars, end, err_console, say, show_warning
from avatar_core.errors import UserError
from avatar_core.speak.articulation import ARTICULATION

if TYPE_CHECKING:
    import numpy as np

    from avatar_core.device import Compute
    from avatar_core.geometry.camera import Camera
    from avatar_core.particles.canonical import Canonical
    from avatar_core.particles.layout import ParticleLayout
    from avatar_core.personalise.personalise import PortraitFit
    from avatar_core.speak.maker import Maker
    from avatar_core.speak.student import Student

# numpy is imported later, by the commands: one thread of its linear algebra, as in the workers of the stages. Its sums over several
# threads depend on how many there are, and an avatar made here must be, byte for byte, the one that stage fit makes.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Nor do threads spin while they wait for each other: that takes the cores from whatever else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="avatar",
    help="A portrait and a voice in, a talking whole-body avatar out.",
    epilog="Start with:  avatar speak --portrait me.png --text 'Hello there.' --out hello.mp4",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
# the arguments of these commands are those of `python -m stages`, which also prints their --help


@app.command()
def speak(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The video to write: .mp4; .webm or .mov if transparent.")
    ],
    portrait: OptionalPortrait = None,
    person: PersonNumber = 1,
    avatar: Annotated[
        Path | None,
        typer.Option("--avatar", help="A folder made by `avatar personalise`, instead of --portrait."),
    ] = None,
    audio: Audio = None,
    text: Text = None,
    language: Language = "en",
    voice: Voice = None,
    model: Model = None,
    articulation: Articulation = ARTICULATION,
    seed: Seed = 0,
    size: Annotated[int, typer.Option(min=64, max=2048, help="Longest side of the video in px.")] = 512,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Diffusion steps. Default: the model's.")
    ] = None,
    gestures: Annotated[
        Literal["auto", "full", "off"],
        typer.Option(
            help="Arms: as far as the portrait's stance allows, as learnt (from hanging arms), or still."
        ),
    ] = "auto",
    background: Annotated[
        str,
        typer.Option(
            help="keep: the portrait's room; plain: its colour; a colour (white, #a0b0c0); an image file; alpha: none, "
            "for a video in .webm or .mov."
        ),
    ] = "keep",
    preview: Annotated[
        float | None, typer.Option(min=0.04, help="Only the first so many seconds of the sound.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Make a video of the person in a portrait, speaking.

    Give the voice as a recording (--audio) or as a sentence (--text).
    """
    from avatar_core.speak.behind import read_background
    from avatar_core.speak.render import output_camera
    from avatar_core.speak.sound import read_sound
    from avatar_core.speak.speak import speak as make_video
    from avatar_core.speak.student import load_student

    behind = read_background(background)
    _check_out(out, (".webm", ".mov") if behind.transparent else (".mp4",), portrait, audio)
    # the cheap checks first: nobody waits half a minute for a typo
    compute = compute_of(device)
    sound = read_sound(audio, text, language, voice, preview)
    if portrait is not None and avatar is None:
        image = _portrait(portrait)
        student = load_student(student_file(model)).to(compute.device)
        ((layout, canonical, camera, _),) = _personalise([image], [portrait], student, person, compute)
    elif avatar is not None and portrait is None:
        from avatar_core.speak.avatar import load_avatar

        _use_all_cores()
        student = load_student(student_file(model)).to(compute.device)
        layout, canonical, camera = load_avatar(avatar)
    else:
        found = "neither" if portrait is None else "both"
        raise UserError(f"person: expected one of --portrait and --avatar, found {found}")
    with bars() as show:
        report = make_video(
            canonical,
            layout,
            output_camera(camera, size),
            student,
            sound.samples,
            out,
            gestures=gestures,
            track=sound.track,
            behind=behind,
            articulation=articulation,
            seed=seed,
            steps=steps,
            progress=show,
        )
    say(
        f"{out}: {report.video_s:.2f} s of video ({report.frames} frames); motion {report.generate_s:.1f} s, "
        f"rendering {report.render_s:.1f} s; real-time factor {report.real_time_factor:.2f}"
    )


@app.command()
def personalise(
    portrait: Portraits,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The folder to write: avatar.safetensors, avatar.ply, camera.json, preview.png; of several portraits, a folder "
            "of each named after it.",
        ),
    ],
    person: PersonNumber = 1,
    model: Model = None,
    device: Device = "cpu",
) -> None:
    """Build the avatar of the person in a portrait: Gaussians for splat viewers (.ply) and for this program."""
    from avatar_core.io.atomic import check_writable
    from avatar_core.speak.avatar import check_avatar_folder, save_avatar
    from avatar_core.speak.maker import load_maker

    folders = [out] if len(portrait) == 1 else [out / path.stem for path in portrait]
    if twice := next((f for f in folders if folders.count(f) > 1), None):
        raise UserError(f"--portrait: expected names that differ, found {twice.name} twice")
    for folder in folders:
        check_avatar_folder(folder)
        check_writable(folder, portrait)
    compute = compute_of(device)
    images = [_portrait(path) for path in portrait]
    maker = load_maker(student_file(model))
    made = _personalise(images, portrait, maker, person, compute)
    for folder, path, (_, canonical, camera, fit) in zip(folders, portrait, made, strict=True):
        save_avatar(folder, canonical, camera, maker.personalise.particles, fit)
        whose = f"{path}: " if len(portrait) > 1 else ""
        say(
            f"{whose}found {(fit.confidence > 0.5).sum()} of {len(fit.confidence)} points, off by {fit.keypoint_error_px:.1f} px; "
            f"person {fit.psnr_foreground:.1f} dB, face {fit.psnr_face:.1f} dB; {fit.outside:.2%} of the opacity beside the outline"
        )
        say(
            f"{folder}: avatar.safetensors, avatar.ply ({len(canonical)} Gaussians), camera.json, preview.png"
        )


@app.command()
def export(
    portrait: Portrait,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .ply file, or the folder of a sequence.")],
    person: PersonNumber = 1,
    format: Annotated[
        Literal["ply", "ply-sequence"], typer.Option(help="One avatar at rest, or one .ply a frame.")
    ] = "ply",
    audio: Audio = None,
    text: Text = None,
    language: Language = "en",
    voice: Voice = None,
    model: Model = None,
    articulation: Articulation = ARTICULATION,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Write an avatar as Gaussians in the INRIA .ply layout, at rest or speaking."""
    from avatar_core.io.atomic import check_writable
    from avatar_core.particles.canonical import write_ply
    from avatar_core.particles.stance import to_stance
    from avatar_core.speak.sequence import check_sequence_folder, posed_canonicals, write_sequence
    from avatar_core.speak.sound import read_sound
    from avatar_core.speak.student import load_student

    if format == "ply":
        _check_out(out, (".ply",), portrait, audio)
    else:
        check_sequence_folder(out)
        check_writable(out, [path for path in (portrait, audio) if path])
    compute = compute_of(device)
    sound = read_sound(audio, text, language, voice) if format == "ply-sequence" else None
    image = _portrait(portrait)
    student = load_student(student_file(model)).to(compute.device)
    ((layout, canonical, _, _),) = _personalise([image], [portrait], student, person, compute)
    if sound is None:
        write_ply(out, to_stance(canonical, layout))
        say(f"{out}: {len(canonical.means)} Gaussians")
        return
    count = write_sequence(
        out, posed_canonicals(student, canonical, layout, sound.samples, seed, articulation)
    )
    say(f"{out}: {count} frames at 25 fps, {len(canonical.means)} Gaussians each")


@app.command()
def voices(
    split: Annotated[str | None, typer.Option(help="Only train, val, test or critics.")] = None,
    sex: Annotated[str | None, typer.Option(help="Only male or female.")] = None,
) -> None:
    """List the voices and languages of --text."""
    from avatar_core.speech.voices import DEFAULT_VOICE, LANGUAGES, VOICES, voice_names

    names = voice_names(split, sex)
    print(
        f"{len(names)} {'voice' if len(names) == 1 else 'voices'} of the speech backend espeak, for every language"
    )
    print("\nvoice   sex     heard in")
    for name in names:
        default = "   (the default)" if name == DEFAULT_VOICE else ""
        print(f"{name:6}  {VOICES[name].sex:6}  {VOICES[name].split:7}{default}".rstrip())
    print("critics: heard only by the networks of the metrics, in their training")
    print("\nlanguage         its text is written in")
    for code, language in LANGUAGES.items():
        print(f"{code:3}  {language.name:10}  {language.text}")
    found = "installed" if find_spec("espeakng_loader") else "not installed: pip install espeakng-loader"
    print(f"\nAll need the package espeakng-loader ({found}).")
    print("In the pipeline a language also needs sentences: data/scripts/<language>.txt")


app.command()(ingest)


add_pipeline_commands(app)


def _check_out(path: Path, suffixes: tuple[str, ...], *inputs: Path | None) -> None:
    from avatar_core.io.atomic import check_writable

    if path.suffix.lower() not in suffixes:
        wanted = " or ".join(suffixes)
        raise UserError(f"{path}: expected a name ending in {wanted}, found {path.suffix or 'no ending'}")
    check_writable(path, [given for given in inputs if given])
    if path.is_dir():
        raise UserError(f"{path}: expected a file name, found a folder")


def _portrait(path: Path) -> np.ndarray:
    from avatar_core.io.images import read_image

    return read_image(path)


def _personalise(
    images: list[np.ndarray], paths: list[Path], how: Student | Maker, person: int, compute: Compute
) -> list[tuple[ParticleLayout, Canonical, Camera, PortraitFit]]:
    """(layout, canonical, camera, fit) of each with a word on the time; errors name the portrait's file."""
    from avatar_core.io.lens import field_of_view
    from avatar_core.personalise.personalise import Portrait
    from avatar_core.speak.avatar import make_avatars

    start = time.monotonic()
    _use_all_cores()
    with err_console.status("personalising: finding the person, fitting the body, placing Gaussians ..."):
        portraits = [
            Portrait(image, person, field_of_view(path), str(path))
            for image, path in zip(images, paths, strict=True)
        ]
        made = make_avatars(portraits, how.personalise, how.perception, compute)
    for path, (*_, fit) in zip(paths, made, strict=True):
        if fit.faces > 1:
            where = "the portrait" if len(paths) == 1 else str(path)
            err_console.print(
                f"{fit.faces} faces in {where}: number {person} by size is taken (--person for another)"
            )
    err_console.print(f"personalised in {time.monotonic() - start:.1f} s")
    return made


def _use_all_cores() -> None:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)


def main() -> None:
    """Entry point of the `avatar` command."""
    warnings.showwarning = show_warning
    try:
        app()
    except UserError as error:
        end(str(error))
    except OSError as error:
        end(
            f"{error.filename or 'disk'}: expected that it can be read and written, found: {error.strerror or error}"
        )
    except MemoryError:
        end("memory: expected enough for this, found no more")
    except RuntimeError as error:
        from avatar_core.device import too_little_memory

        if (line := too_little_memory(error)) is None:
            raise
        end(str(line))


if __name__ == "__main__":
    main()
