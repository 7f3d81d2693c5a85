"""Prepare the folders of several styles in one call: a dataset for each, its trigger word first in every caption.

In: texts NAME=FOLDER:TRIGGER and one set of settings. Out: OUT/NAME for each style, one table, and a counted line for what
a user should look at. All styles are checked before anything is written; one that fails later is named, and the others are
prepared.

    NAME     up to the first `=`: letters, digits, `.`, `_` and `-`; the name of the dataset, and of its LoRA in a blend
    FOLDER   up to the last `:`, so `C:\\raw\\anime` needs no quotes
    TRIGGER  after the last `:`: a word without `/` and `\\`
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.prompts.triggers import has_trigger
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import check_folder
from loraloom.utils.progress import Progress, table

FORM = "NAME=FOLDER:TRIGGER, such as anime=raw/anime:anistyle"
MAX_TRIGGER = 80
_NAME = re.compile(r"[A-Za-z0-9_][\w.\-]*", re.ASCII)
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(1, 10))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One style to prepare.

    Attributes:
        name: Name of its dataset.
        folder: As it was typed: a folder of images and captions.
        trigger: Its trigger word.
    """

    name: str
    folder: str
    trigger: str

    def __str__(self) -> str:
        return f"{self.name}={self.folder}:{self.trigger}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStyle:
    """What became of a style: a report, or the reason why there is none."""

    style: Style
    dataset: Path
    report: PrepareReport | None = None
    error: UserError | None = None


def parse_style(text: str) -> Style:
    """A style of its text form.

    Raises:
        UserError: A part is missing or cannot be used; names the part.
    """
    name, equals, rest = text.partition("=")
    folder, colon, trigger = rest.rpartition(":")
    name, folder, trigger = name.strip(), folder.strip(), trigger.strip()
    if not equals or not name:
        raise UserError("a style without a name", got=text, expected=FORM)
    if not _NAME.fullmatch(name) or name.endswith(".") or name.split(".")[0].lower() in _WINDOWS_DEVICES:
        expected = "a name that can be a folder: letters, digits, '.', '_' and '-'"
        raise UserError("the name of a style cannot be used", got=name, expected=expected)
    if not colon or "/" in trigger or "\\" in trigger:  # the colon was that of a drive: C:\raw
        fix = f"write it after the last colon: {name}={rest or 'FOLDER'}:{name}style"
        raise UserError(f"the style {name} has no trigger word", got=text, expected=FORM, fix=fix)
    if not trigger or len(trigger) > MAX_TRIGGER or not trigger.isprintable() or re.search(r"[,()<>\[\]{}|]", trigger):
        expected = f"a word of at most {MAX_TRIGGER} characters without commas and brackets"
        raise UserError(f"the trigger word of the style {name} cannot be used", got=trigger, expected=expected)
    if not folder:
        raise UserError(f"the style {name} has no folder", got=text, expected=FORM)
    return Style(name=name, folder=folder, trigger=trigger)


def parse_styles(texts: Sequence[str]) -> list[Style]:
    """Styles that can be used together.

    Raises:
        UserError: A text is none, or two styles share their name, trigger or folder. Letter case makes no difference: two
            names would be one folder on Windows and macOS.
    """
    styles = [parse_style(text) for text in texts]
    for what, values in (
        ("name", [style.name.casefold() for style in styles]),
        ("trigger word", [style.trigger.casefold() for style in styles]),
        ("folder", [str(Path(style.folder)) for style in styles]),
    ):
        value, count = Counter(values).most_common(1)[0] if values else ("", 0)
        if count > 1:
            names = ", ".join(style.name for style, one in zip(styles, values, strict=True) if one == value)
            raise UserError(
                f"{count} styles have the same {what}", got=value, fix=f"change it in all but one of: {names}"
            )
    return styles


def prepare_styles(
    styles: Sequence[Style],
    out: Path,
    config: PrepareConfig,
    *,
    count_tokens: Callable[[str], int] | None = None,
    console: Callable[[str], None] = print,
    bar: Callable[[str], Progress] | None = None,
) -> list[PreparedStyle]:
    """Prepare every style; what `prepare` says of one has its name in front.

    Args:
        styles: From `parse_styles`.
        out: Folder of all datasets. A dataset of an earlier call is continued.
        config: Settings of all styles; trigger and position of the trigger are replaced.
        count_tokens, console: As of `prepare`.
        bar: Makes a progress callback for a titled piece of work.

    Raises:
        UserError: A folder is missing, lies in `out`, or `out` cannot be written; raised before anything is written.
    """
    _check(styles, out, config)
    done: list[PreparedStyle] = []
    for style in styles:
        dataset = out / style.name
        own = config.model_copy(update={"style": (), "trigger": style.trigger, "trigger_first": True})

        def say(line: str, name: str = style.name) -> None:
            console("\n".join(f"{name}: {part.strip()}" for part in line.split("\n")))

        try:
            report = prepare(
                Path(style.folder),
                dataset,
                own,
                count_tokens=count_tokens,
                console=say,
                progress=bar(f"{style.name}: images") if bar else None,
            )
            done.append(PreparedStyle(style=style, dataset=dataset, report=report))
        except UserError as error:
            console(f"{style.name}: failed: {error.what}")
            done.append(PreparedStyle(style=style, dataset=dataset, error=error))
    return done


def _check(styles: Sequence[Style], out: Path, config: PrepareConfig) -> None:
    check_folder(out)
    if config.trigger:
        fix = "leave out --trigger: it follows the last colon of --style"
        raise UserError("each style has a trigger word of its own", got=config.trigger, fix=fix)
    there = out.resolve()
    for style in styles:
        source = Path(style.folder)
        if not source.is_dir():
            what = "is a file" if source.is_file() else "is not there"
            fix = "name the folder of its images; the trigger word follows the last colon"
            raise UserError(f"the folder of the style {style.name} {what}", got=style.folder, fix=fix)
        here = source.resolve()
        if here == there or here.is_relative_to(there):
            raise UserError(
                f"the folder of the style {style.name} lies in the output", got=style.folder, fix="name another"
            )


def foreign_triggers(done: Sequence[PreparedStyle]) -> list[str]:
    """One line for each trigger word that stands in captions of another style: both LoRAs would learn it."""
    lines: list[str] = []
    for owner in done:
        for other in done:
            if owner is other or other.report is None:
                continue
            examples = other.report.manifest.examples
            count = sum(has_trigger(example.caption, owner.style.trigger) for example in examples)
            if count:
                lines.append(
                    f"{count:,} of {len(examples):,} captions of {other.style.name} have the trigger word of "
                    f"{owner.style.name}, {owner.style.trigger!r}: both styles learn it"
                )
    return lines


def summary(done: Sequence[PreparedStyle]) -> str:
    """One table of all styles."""
    header = ("style", "trigger", "train", "held out", "no caption", "not used", "dataset")
    rows: list[tuple[str, ...]] = []
    for one in done:
        if one.report is None:
            rows.append((one.style.name, one.style.trigger, "", "", "", "", "failed"))
            continue
        report = one.report
        counts = (
            len(report.manifest.split("train")),
            len(report.manifest.split("validation")),
            report.num_without_caption,
            len(report.problems),
        )
        rows.append((one.style.name, one.style.trigger, *(f"{count:,}" for count in counts), str(one.dataset)))
    return table(header, rows)


def failures(done: Sequence[PreparedStyle]) -> UserError | None:
    """The error that a call ends with where styles failed; None where none did."""
    failed = [one for one in done if one.error is not None]
    if not failed:
        return None
    first = failed[0].error
    assert first is not None
    names = ", ".join(one.style.name for one in failed)
    got = first.what if first.got is None else f"{first.what}: {first.got}"
    fix = f"{first.fix}; then run the same command again: what is done is kept" if first.fix else None
    return UserError(f"{len(failed)} of {len(done)} styles could not be prepared ({names})", got=got, fix=fix)
