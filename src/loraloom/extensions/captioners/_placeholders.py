"""Placeholders of caption templates and of prompts for captioning models: `a photo of {trigger} {folder}`.

In: a template and a source item. Out: the text with names inserted. `{folder}` is the name of the image's folder and `{stem}`
its file name without suffix; in both, underscores and dashes become blanks, and a number of repeats before a name
(`10_dog`) is left out. `{tags}` is the names of all folders below the source, separated by commas. `{text}` is the text
found for the image, `{id}` the unchanged id, `{trigger}` the trigger word.
"""

import re
import string

from loraloom.protocols.data import SourceItem
from loraloom.utils.errors import UserError, did_you_mean

PLACEHOLDERS = ("trigger", "folder", "stem", "tags", "text", "id")
_REPEATS = re.compile(r"\d{1,3}_(?=.)")


def filled(template: str, item: SourceItem, trigger: str, *, flag: str) -> str:
    """`template` with its placeholders replaced; `{{` and `}}` stand for braces.

    Args:
        template: What the user wrote.
        item: Its names are inserted.
        trigger: The trigger word; may be empty.
        flag: Flag of the template, for errors.

    Raises:
        UserError: A placeholder is unknown, a brace has no counterpart, or `{trigger}` is used and there is no trigger.
    """
    values = {
        "trigger": trigger,
        "folder": _words(item.id.split("/")[-2] if "/" in item.id else item.image.parent.name),
        "stem": _words(item.id.split("/")[-1] if item.data else item.image.stem),
        "tags": ", ".join(_words(part) for part in item.id.split("/")[:-1]),
        "text": " ".join((item.caption or "").split()),
        "id": item.id,
    }
    return "".join(literal + (values[name] if name else "") for literal, name in _parts(template, trigger, flag))


def _words(name: str) -> str:
    return " ".join(_REPEATS.sub("", name, count=1).replace("_", " ").replace("-", " ").split()) or name


def _parts(template: str, trigger: str, flag: str) -> list[tuple[str, str | None]]:
    """Literal text and the placeholder after it; `str.format` itself would let a template read attributes of
    objects."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"the text of {flag} has an unmatched brace",
            got=template,
            fix="write {{ and }} for literal braces",
        ) from error
    parts: list[tuple[str, str | None]] = []
    for literal, name, spec, conversion in parsed:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            raise UserError(
                f"the text of {flag} has an unknown placeholder",
                got=f"{{{name}}}",
                expected=", ".join(f"{{{known}}}" for known in PLACEHOLDERS),
                fix=did_you_mean(name, PLACEHOLDERS),
            )
        if name == "trigger" and not trigger:
            raise UserError(
                f"the text of {flag} has {{trigger}}, but there is no trigger word",
                got=template,
                fix=f"name one with --trigger, or write another {flag}: 'a photo of {{folder}}'",
            )
        parts.append((literal, name))
    return parts
