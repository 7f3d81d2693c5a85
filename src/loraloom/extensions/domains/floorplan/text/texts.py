"""Convert any text about a plan to a `Spec`: structured text or plain words.

In: a text. Out: the spec, and a line for everything that was assumed or not understood.
"""

from collections.abc import Callable
from pathlib import Path

from loraloom.protocols.domain import Unread
from loraloom.utils.errors import UserError

from .spec import Spec, parse_spec
from .words import spec_from_words


def spec_from_text(text: str, say: Callable[[str], None] = lambda line: None, *, strict: bool = False) -> Spec:
    """The spec of a structured text, or of plain words when the text has no `[section]`.

    In: the text. Out: the spec; `say` gets one line with everything that was not understood, one with the choices made
    where the text leaves one, and one with everything that was assumed.

    Raises:
        UserError: A structured text with a mistake, words of which nothing was understood (with `strict`: of which a
            part was not), or the path of a file.
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
    """The parts of a text that are not read as written; none of a structured text, which is read in full or refused."""
    return Unread() if "[" in text else spec_from_words(text).unread


def _refuse_path(text: str) -> None:
    """Refuse a prompt that is the path of an existing file. The disk is read only where the prompt looks like a
    path."""
    line = text.strip()
    if len(line) > 4096 or "\n" in line or not ("/" in line or "\\" in line or line.lower().endswith(_SUFFIXES)):
        return
    try:
        path = Path(line).expanduser()
        what = "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError, RuntimeError):  # too long for a name, a null byte, an unknown home folder
        return
    if what:
        raise UserError(
            f"this text is the path of a {what}",
            got=text[:80],
            fix="give a file of texts with --prompts-file, or write the text itself",
        )
