"""Any text about a plan to a `Spec`: structured, or in plain words.

In: a text. Out: the spec, and a line for whatever was assumed or not understood.
"""

from collections.abc import Callable
from pathlib import Path

from loraloom.protocols.domain import Unread
from loraloom.utils.errors import UserError

from .spec import Spec, parse_spec
from .words import spec_from_words


def spec_from_text(text: str, say: Callable[[str], None] = lambda line: None, *, strict: bool = False) -> Spec:
    """The spec of a structured text, or of plain words where no `[section]` stands in it.

    In: the text. Out: the spec; `say` gets one line with all that was not understood, one with what was taken where the text
    leaves a choice, and one for all that was assumed.

    Raises:
        UserError: A structured text with a mistake, words of which nothing was understood (with `strict`: words of which
            anything was not), or the path of a file.
    """
    _refuse_path(text)
    if "[" in text:
        return parse_spec(text)
    found = spec_from_words(text)
    if not any(words for words, _ in found.understood):
        raise UserError(
            "nothing in this text says plainly what the plan is to have",
            got=text[:80],
            fix="write such as: two bedrooms, kitchen left of the living room",
        )
    if found.unread and strict:
        raise UserError("; ".join(found.unread.lines), fix="say it in other words, or leave --strict out")
    for line in found.unread.lines:
        say(line)
    for words, meaning in found.understood:
        if not words:
            say(meaning)
    return found.spec


_SUFFIXES = (
    ".txt",
    ".md",
    ".json",
    ".jsonl",
    ".csv",
    ".yaml",
    ".yml",
    ".toml",
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".svg",
    ".pdf",
)


def unread_in(text: str) -> Unread:
    """What of a text is not read as it stands; nothing of a structured one, which is read in full or refused."""
    return Unread() if "[" in text else spec_from_words(text).unread


def _refuse_path(text: str) -> None:
    """A prompt that is the path of what exists was meant as a file. The disk is asked only where it looks like a path."""
    line = text.strip()
    if len(line) > 4096 or "\n" in line or not ("/" in line or "\\" in line or line.lower().endswith(_SUFFIXES)):
        return
    try:
        path = Path(line).expanduser()
        what = "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError, RuntimeError):  # too long for a name, a null byte, a home that is unknown
        return
    if what:
        raise UserError(
            f"this text is the path of a {what}",
            got=text[:80],
            fix="give a file of texts with --prompts-file, or write the text itself",
        )
