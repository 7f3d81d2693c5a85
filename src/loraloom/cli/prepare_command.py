"""`loraloom prepare`: one folder to a dataset, a part of one, or the folders of several styles to a dataset each.

In: settings and places as they were typed. Out: datasets, and the next command.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from loraloom.config.prepare import PrepareConfig
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import COMMAND
from loraloom.utils.progress import bars

_NOT_COUNTED = "caption tokens were not counted: add --model, or run `loraloom tokens`"
Say = Callable[[str], None]


def prepare_folder(settings: PrepareConfig, source: Path | None, out: Path | None, model: str | None, say: Say) -> None:
    """Prepare one folder.

    Raises:
        UserError: The source or the output was not named, or whatever `prepare` refuses.
    """
    from loraloom.prepare import run as room

    source, out = _places(source, out)
    count = _counter(model)
    with bars() as bar:
        room.prepare(source, out, settings, count_tokens=count, console=say, progress=bar("images"))
    if not model:
        say(_NOT_COUNTED)
    say(f"next: {COMMAND} train --dataset {out}")


def prepare_part(
    settings: PrepareConfig, source: Path | None, out: Path | None, part: str, model: str | None, say: Say
) -> None:
    """Prepare one part of a folder.

    Raises:
        UserError: As `prepare_folder`, or `part` is none.
    """
    from loraloom.prepare import parts as room
    from loraloom.utils.parts import Part

    if settings.style:
        fix = "give each style's folder a command of its own, with --trigger and --trigger-first"
        raise UserError("--part cannot be used with --style", fix=fix)
    source, out = _places(source, out)
    chosen = Part.read(part)
    with bars() as bar:
        room.prepare_part(source, out, chosen, settings, model=model, console=say, progress=bar("images"))
    say(
        f"when all {chosen.of} parts are done: {COMMAND} dataset join {shlex.quote(str(source))} --out {shlex.quote(str(out))}"
    )


def join_parts(source: Path, out: Path, places: list[Path], model: str | None, say: Say) -> None:
    """Join the parts of a dataset.

    Raises:
        UserError: As `joining.join_parts`.
    """
    from loraloom.prepare import joining as room

    with bars() as bar:
        room.join_parts(
            source, out, places, model=model, counter=_counter, console=say, progress=bar("prepared images")
        )
    say(f"next: {COMMAND} train --dataset {shlex.quote(str(out))}")


def _places(source: Path | None, out: Path | None) -> tuple[Path, Path]:
    """The source and the dataset.

    Raises:
        UserError: One was not named.
    """
    if source is None:
        fix = f"{COMMAND} prepare FOLDER --out DATASET; several styles: --style NAME=FOLDER:TRIGGER"
        raise UserError("no folder of images was named", fix=fix)
    if out is None:
        raise UserError("no dataset was named", fix=f"{COMMAND} prepare {shlex.quote(str(source))} --out DATASET")
    return source, out


def prepare_several(settings: PrepareConfig, place: Path | None, out: Path | None, model: str | None, say: Say) -> None:
    """Prepare every `--style`; the folder to write is `--out` or the one argument.

    Raises:
        UserError: A style cannot be read, or could not be prepared; the others are prepared.
    """
    from loraloom.prepare import styles as room

    styles = room.parse_styles(settings.style)
    if out is None and place is None:
        raise UserError("no folder to write was named", fix=f"{COMMAND} prepare --style {styles[0]} ... OUT")
    if out is not None and place is not None:
        fix = "with --style each folder of images is part of its --style; keep one of the two"
        raise UserError("two folders to write", got=f"{place} and --out {out}", fix=fix)
    folder = out or place
    assert folder is not None
    count = _counter(model)
    with bars() as bar:
        done = room.prepare_styles(styles, folder, settings, count_tokens=count, console=say, bar=bar)
    say("")
    say(room.summary(done))
    shared = room.foreign_triggers(done)
    for line in shared:
        say(f"note: {line}")
    if not model:
        say(_NOT_COUNTED)
    if error := room.failures(done):
        raise error
    if shared and settings.strict:
        raise UserError(f"{shared[0]}, and --strict is on", fix="take it out of those captions, or leave out --strict")
    for one in done:
        say(
            f"next: {COMMAND} train --dataset {shlex.quote(str(one.dataset))} --out {shlex.quote(f'runs/{one.style.name}')}"
        )


def _counter(model: str | None) -> Callable[[str], int] | None:
    """Counts the tokens of a caption with a model's tokenizer; None without a model."""
    if model is None:
        return None
    from loraloom.models.loading import open_model
    from loraloom.protocols.model import ModelSource

    text = open_model(ModelSource(location=model)).text
    return lambda caption: len(text.tokenizer.tokenize(caption))
