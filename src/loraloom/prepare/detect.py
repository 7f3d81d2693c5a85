"""Which layout a raw folder has.

In: a folder and what the user said about it. Out: the format that reads it and the reason for the choice, in words for
the user.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom import plugins
from loraloom.config.extending import options_of
from loraloom.config.prepare import PrepareConfig
from loraloom.protocols.data import Format
from loraloom.utils.errors import UserError

_SEEN_AT_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Choice:
    """A format, and why it was taken, such as `412 images, 410 with a .txt of the same name`."""

    format: Format
    reason: str


def format_options(config: PrepareConfig) -> dict[str, Any]:
    """The options that every `Format` is given: what all formats declare as their settings, by key."""
    return options_of(config, (plugins.load("formats", name) for name in plugins.names("formats")))


def choose_format(folder: Path, name: str, options: Mapping[str, Any]) -> Choice:
    """The format called `name`, or for `auto` the first that recognises the folder, the least mistakable first.

    Raises:
        UserError: The folder is missing or empty, the name is unknown, or no layout fits; then what was seen and what
            each format expects are listed.
    """
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "nothing there"
        raise UserError("the source is not a folder", got=f"{folder} ({kind})", fix="name the folder with the images")
    if name != "auto":
        chosen: Format = plugins.load("formats", name)
        return Choice(chosen, chosen.sniff(folder, options) or "as asked for")
    formats: list[Format] = [plugins.load("formats", known) for known in plugins.names("formats")]
    formats.sort(key=lambda known: (-known.priority, known.name))
    for known in formats:
        if reason := known.sniff(folder, options):
            return Choice(known, reason)
    raise UserError(
        f"{folder} has none of the known layouts",
        got=describe(folder),
        fix="arrange it as one of these:\n"
        + "\n".join(f"    {known.name}: {known.expects}" for known in formats)
        + "\n  or name the layout with --format",
    )


def describe(folder: Path) -> str:
    """What a folder holds, in a few words: `12 .txt, 3 .pdf; folders a, b`."""
    suffixes: Counter[str] = Counter()
    for number, path in enumerate(folder.rglob("*")):
        if number >= _SEEN_AT_MOST:
            break
        if path.is_file():
            suffixes[path.suffix.lower() or "files without suffix"] += 1
    files = ", ".join(f"{number:,} {suffix}" for suffix, number in suffixes.most_common(6)) or "no files"
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not folders:
        return files
    more = ", ..." if len(folders) > 6 else ""
    return f"{files}; folders {', '.join(folders[:6])}{more}"
