"""Floor plans: check and write texts, synthesise, read, verify, tidy and export plans.

In: the arguments after `loraloom plan`. Out: text on stdout, files where requested, a mistake as one or two lines; exit
status 1 when a check found something. `plugins.verbs` finds this module by its name; heavy imports are in the commands.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

    from ..plan import Plan
    from ..text.spec import Spec
    from ..vision.scale import Scale
    from ..vocabulary import Style
    from .inputs import Opened

StyleName = Annotated[str | None, typer.Option("--style", help="colours: sjh or plain [default: as in the image]")]
PaletteFile = Annotated[
    Path | None,
    typer.Option(
        "--palette", help='the image\'s own colours: JSON, {"external": "#ffffff", "wall": "#…", "bedroom": […]}'
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="words that are not understood are an error")]
PlanFile = Annotated[Path, typer.Argument(help="image of a plan, or a .json that `export` wrote")]


def check(
    text: Annotated[str, typer.Argument(help="text, structured or in plain words, or a file with one")],
    strict: Strict = False,
) -> None:
    """Print what a text asks for and what is wrong with it, before an image is generated."""
    from ..text.check import check_spec
    from ..text.spec import print_spec
    from ..text.texts import spec_from_text
    from ..text.words import spec_from_words
    from .inputs import text_of

    words = text_of(text)
    is_structured = "[" in words
    spec = spec_from_text(words, strict=strict)
    if not is_structured:
        found = spec_from_words(words)
        for said, meaning in found.understood:
            typer.echo(f"understood: {said!r} as {meaning}" if said else meaning)
        for line in found.unread.lines:
            typer.echo(line)
        typer.echo("")
    typer.echo(print_spec(spec))
    problems = check_spec(spec)
    for problem in problems:
        typer.echo(f"{problem.kind}: {problem.message}")
    if any(problem.kind == "error" for problem in problems):
        raise typer.Exit(1)
    typer.echo("ok: nothing in this text contradicts itself")


def synthesise(
    out: Annotated[Path, typer.Option(help="folder of the data set")] = Path("data/plans"),
    count: Annotated[int, typer.Option(min=1, help="plans")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="decides every plan")] = 0,
    style: Annotated[str, typer.Option(help="colours and header: sjh or plain")] = "sjh",
    workers: Annotated[int | None, typer.Option(min=1, help="processes [default: one a core]")] = None,
    validation_share: Annotated[float, typer.Option(min=0, max=1, help="share of the validation side")] = 0.1,
    corner_doors: Annotated[
        bool, typer.Option(help="doors at the very ends of walls and around corners too, as in real plans")
    ] = False,
) -> None:
    """Synthesise plans with texts that are true of them; run it again to resume a stopped run."""
    from loraloom.utils.output_paths import check_folder, prepare_line
    from loraloom.utils.processes import usable_cores
    from loraloom.utils.progress import bars

    from ..synthesis.dataset import write_dataset
    from .inputs import style_named

    style_named(style)
    check_folder(out)
    with bars() as make_bar:
        splits = write_dataset(
            out, count, seed, style, make_bar("plans"), workers or usable_cores(), validation_share, corner_doors
        )
    typer.echo(
        f"{counted(count, 'plan')} in {out}: {len(splits['train'])} to learn, {len(splits['validation'])} held out"
    )
    typer.echo(f"next: {prepare_line(out, 'floorplan')}")


def read(
    image: Annotated[Path, typer.Argument(help="image of a plan")],
    json: Annotated[Path | None, typer.Option("--json", help="write all that was read here")] = None,
    style: StyleName = None,
    palette: PaletteFile = None,
) -> None:
    """Write the structured text of an image."""
    from ..text.spec import print_spec, spec_of

    if json is not None:
        _with_suffix(json, ".json")
    opened = _opened(image, style, palette)
    typer.echo(print_spec(spec_of(opened.plan, opened.style)), nl=False)
    if json is not None:
        _export(opened, json)


def verify(
    source_image: PlanFile,
    text: Annotated[str, typer.Option("--text", help="the text, or a file with it")],
    out: Annotated[Path | None, typer.Option(help="folder for the receipt and the image with the verdicts")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the receipt as JSON")] = False,
    style: StyleName = None,
    palette: PaletteFile = None,
    language: Annotated[str, typer.Option(help="of the image's labels: en or ko")] = "en",
    strict: Strict = False,
) -> None:
    """Compare an image with a text, sentence by sentence; exit status 1 when one is not met."""
    import json
    from dataclasses import replace

    from loraloom.utils.atomic_files import write_json
    from loraloom.utils.image_files import write_png
    from loraloom.utils.output_paths import check_folder

    from ..render.lettering import words_of
    from ..render.showing import receipt_table
    from ..text.texts import spec_from_text, unread_in
    from ..verify.verifying import verify as compare
    from .inputs import text_of

    words_of(language)
    if out is not None:
        check_folder(out)
    words = text_of(text)
    spec = spec_from_text(words, lambda line: typer.echo(line, err=True), strict=strict)
    opened = _opened(source_image, style, palette)
    receipt = replace(compare(spec, opened.reading), unread=unread_in(words))
    if as_json:
        typer.echo(json.dumps(receipt.as_json(), indent=2, ensure_ascii=False))
    else:
        _console().print(receipt_table(receipt))
        typer.echo(f"{receipt.count(True)} of {len(receipt.verdicts)} sentences met")
    if out is not None:
        from ..render.overlay import draw_overlay

        image = opened.image or _image_of(opened.plan, opened.style)
        target = out / f"{source_image.stem}.overlay.png"
        write_json(out / f"{source_image.stem}.receipt.json", receipt.as_json())
        write_png(target, draw_overlay(image, opened.reading, receipt, language=language))
        typer.echo(f"see {target}", err=as_json)
    if not receipt.complete:
        raise typer.Exit(1)


def show(
    what: Annotated[str, typer.Argument(help="image, .json, text, or file with a text")],
    style: StyleName = None,
    palette: PaletteFile = None,
    width: Annotated[int | None, typer.Option(min=16, help="columns of the image [default: as many as fit]")] = None,
) -> None:
    """Show a plan in the terminal, with a table of its rooms."""
    from ..render.showing import key_of_letters, plan_table, terminal_image
    from ..text.texts import spec_from_text
    from ..vision.scale import CONVENTION
    from .inputs import is_plan_file, text_of

    console = _console()
    if not is_plan_file(what):
        for name, given in (("--palette", palette), ("--style", style), ("--width", width)):
            if given is not None:
                raise UserError(f"{name} is for an image of a plan, and this is a text", fix=f"leave {name} out")
        _show_text(console, spec_from_text(text_of(what), lambda line: typer.echo(line, err=True)))
        return
    opened = _opened(Path(what), style, palette)
    colour = console.color_system is not None and not console.no_color and console.encoding.startswith("utf")
    columns = width or min(console.width, 80)
    console.print(terminal_image(opened.plan, opened.style, columns, colour=colour), soft_wrap=True)
    if not colour:
        typer.echo(f"\n{key_of_letters()}")
    console.print(plan_table(opened.plan, opened.scale or CONVENTION))


def _show_text(console: "Console", spec: "Spec") -> None:
    from ..render.showing import spec_table

    console.print(spec_table(spec))
    typer.echo("A text has no image until a model generates one: `loraloom plan synthesise` invents plans and takes no")
    typer.echo("text. This is what the text asks for; `loraloom plan check` says whether it is possible.")


def clean(
    image: PlanFile,
    out: Annotated[Path, typer.Option(help="image to write")],
    style: StyleName = None,
    palette: PaletteFile = None,
) -> None:
    """Straighten walls and openings of a plan; all sentences that are true of it stay true."""
    from loraloom.utils.atomic_files import write_bytes

    from ..plan import annotate
    from ..render.painting import png_of
    from ..text.spec import position_sentence
    from ..vision.cleaning import clean as tidied

    _with_suffix(out, ".png")
    opened = _opened(image, style, palette)
    labels = tidied(opened.plan)
    write_bytes(out, png_of(labels, opened.style))
    changed = float((labels != opened.plan.labels).mean())
    typer.echo(f"{out}: {changed:.1%} of the pixels changed" if changed else f"{out}: there was nothing to tidy")
    for position in annotate(labels).positions:
        if position not in opened.plan.positions:  # thick walls: one pixel decides whether two rooms are near
            typer.echo(f"now also listed: {position_sentence(position)}")


def export(
    plan: PlanFile,
    out: Annotated[Path, typer.Option(help="file to write: .svg .dxf .geojson .json .ifc .png")],
    m_per_px: Annotated[float | None, typer.Option(help="metres a pixel [default: .json's, 18 m in 256]")] = None,
    estimate_scale: Annotated[bool, typer.Option("--estimate-scale", help="take the scale from door widths")] = False,
    title: Annotated[str | None, typer.Option(help="title of the plan [default: the .json's, the file's]")] = None,
    style: StyleName = None,
    palette: PaletteFile = None,
) -> None:
    """Write a plan as a file for CAD, for maps or for building models."""
    from ..export import writer_of
    from ..vision.scale import estimate as estimated
    from ..vision.scale import given

    writer_of(out)
    if m_per_px is not None and estimate_scale:
        raise UserError("--m-per-px and --estimate-scale say the same thing twice", fix="leave one of them out")
    opened = _opened(plan, style, palette)
    scale: Scale | None = None
    if m_per_px is not None:
        if not 0.001 <= m_per_px <= 10:
            raise UserError("--m-per-px is out of range", got=m_per_px, expected="0.001 .. 10")
        scale = given(m_per_px)
    elif estimate_scale:
        scale = estimated(opened.plan)
        if scale is None:
            raise UserError("the doors of this plan do not tell its scale", fix="give --m-per-px")
    _export(opened, out, scale, title)
    typer.echo(str(out))


def augment(
    image: Annotated[Path, typer.Argument(help="image of a plan")],
    text: Annotated[str, typer.Argument(help="its text, or a file with it")],
    out: Annotated[Path, typer.Option(help="folder for the pairs")],
    drop: Annotated[str | None, typer.Option(help="also leave sentences out: light or heavy")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the choice")] = 0,
    style: StyleName = None,
    palette: PaletteFile = None,
) -> None:
    """Write a pair in all eight orientations (mirrored and turned), words and room numbers with it."""
    import numpy as np

    from loraloom.utils.atomic_files import write_bytes, write_text
    from loraloom.utils.errors import did_you_mean
    from loraloom.utils.output_paths import check_folder

    from ..augment import DROPPINGS, SYMMETRIES, transformed
    from ..augment import drop as thinned
    from ..render.painting import png_of
    from ..text.spec import parse_spec, print_spec
    from .inputs import text_of

    if drop is not None and drop not in DROPPINGS:
        raise UserError("unknown --drop", got=drop, fix=did_you_mean(drop, DROPPINGS))
    check_folder(out)
    spec = parse_spec(text_of(text))
    opened = _opened(image, style, palette)
    rng = np.random.default_rng(seed)
    for number, symmetry in enumerate(SYMMETRIES):
        moved, labels = transformed(spec, opened.plan.labels, symmetry)
        if drop is not None:
            moved = thinned(moved, rng, DROPPINGS[drop])
        name = f"{image.stem}_{number}"
        write_bytes(out / "label_floorplan" / f"{name}.png", png_of(labels, opened.style))
        write_text(out / "input_text" / f"{name}.txt", print_spec(moved))
    typer.echo(f"{len(SYMMETRIES)} pairs in {out}")


def import_(
    source: Annotated[Path, typer.Argument(help="folder of the dataset, as you unpacked it")],
    out: Annotated[Path, typer.Option(help="folder for the pairs")],
    format: Annotated[str, typer.Option(help="rplan, tell2design, housegan, or auto")] = "auto",  # noqa: A002
    style: Annotated[str, typer.Option(help="colours and header: sjh or plain")] = "sjh",
    words: Annotated[
        str, typer.Option(help="texts: structured, original, or auto: original if there are some")
    ] = "auto",
    windows: Annotated[bool, typer.Option("--windows", help="add windows by the rule of real plans")] = False,
    validation_share: Annotated[float, typer.Option(min=0, max=1, help="share of the validation side")] = 0.1,
    workers: Annotated[int | None, typer.Option(min=1, help="processes [default: one a core]")] = None,
    strict: Strict = False,
) -> None:
    """Import plans of RPLAN, Tell2Design or House-GAN++; run it again to resume a stopped run."""
    from typing import cast

    from loraloom.utils.output_paths import check_folder, prepare_line
    from loraloom.utils.processes import usable_cores
    from loraloom.utils.progress import bars

    from ..importing.run import Job, Words, choose_source, import_plans
    from .inputs import style_named

    style_named(style)
    if words not in {"auto", "original", "structured"}:
        raise UserError("unknown --words", got=words, expected="auto, original or structured")
    check_folder(out)
    found, items = choose_source(source, format)
    typer.echo(f"reading {source} as {found.name}: {counted(len(items), 'plan')}")
    job = Job(out=out, source=found.name, style=style, words=cast("Words", words), windows=windows)
    with bars() as make_bar:
        number = import_plans(
            items,
            job,
            say=typer.echo,
            progress=make_bar("plans"),
            workers=workers or usable_cores(),
            validation_share=validation_share,
            strict=strict,
        )
    typer.echo(
        f"{counted(number, 'plan')} in {out}; licences: RPLAN must not be redistributed, Tell2Design is CC BY-NC 4.0"
    )
    typer.echo(f"next: {prepare_line(out, 'floorplan')}")


COMMANDS = (check, synthesise, read, verify, show, clean, export, augment, import_)
"""The commands of `loraloom plan`, in the order of its help."""


# ------------------------------------------------------------------------------------------------------- helpers


def _console() -> "Console":
    """Console for tables; output to a pipe is not wrapped at a terminal's width."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def _opened(path: Path, style: str | None, palette: Path | None) -> "Opened":
    """A plan from a file; doubts about its colours are printed on stderr."""
    from ..vision.palette_file import load_palette
    from .inputs import open_plan, style_named

    chosen = style_named(style)
    opened = open_plan(path, chosen, load_palette(palette) if palette is not None else None)
    if palette is not None:
        typer.echo(
            f"{path}: read in the colours of {palette}; what is written is in style {opened.style.name!r}", err=True
        )
    if not opened.reading.exact:
        off = opened.reading.off_palette
        typer.echo(f"{path}: colours are not exact ({off:.1%} of it is off); read as well as possible", err=True)
    if opened.foreign:
        listed = ", ".join(f"{each.hex} {each.share:.1%}" for each in opened.foreign)
        typer.echo(f"{path}: areas in colours of no room are read as what is nearest: {listed}", err=True)
    return opened


def _with_suffix(path: Path, suffix: str) -> None:
    from loraloom.utils.output_paths import check_file

    if path.suffix.lower() != suffix:
        raise UserError("the file to write has another suffix", got=path.name, expected=f"a name that ends in {suffix}")
    check_file(path)


def _image_of(plan: "Plan", style: "Style") -> "Image":
    from PIL.Image import fromarray

    from ..render.painting import paint

    return fromarray(paint(plan.labels, style))


def _export(opened: "Opened", out: Path, scale: "Scale | None" = None, title: str | None = None) -> None:
    """Export with values from the file where the flags give none."""
    from ..export import Options
    from ..export import export as write
    from ..vision.scale import CONVENTION

    options = Options(
        scale=scale or opened.scale or CONVENTION,
        title=title or opened.title or opened.path.stem,
        style=opened.style.name,
    )
    write(opened.plan, out, options)
