"""Prompts from a text file, or from a set that ships with the package.

In: a name or a path. Out: prompts. A file has one prompt per line; one with lines of `---` has a prompt of any number of
lines between two of them. A new set is a new file in `assets/prompts/`: its name is the name of the set.
"""

import re
from pathlib import Path

from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import check_text, is_file, is_there, read_text

MAX_PROMPTS_BYTES = 64 << 20
_SETS = Path(__file__).parents[1] / "assets" / "prompts"
# Lines as in text editors: `str.splitlines` would also split a prompt at U+2028, U+0085 and form feeds.
_LINE_END = re.compile(r"\r\n|\n|\r")


def set_names() -> list[str]:
    """Names of the built-in sets."""
    return sorted(path.stem for path in _SETS.glob("*.txt"))


def find_prompts(place: str) -> Path:
    """The file that a path, or a name of a built-in set, means; a file of that name comes first.

    Raises:
        UserError: Neither.
    """
    if place in set_names() and not is_file(Path(place)):
        return _SETS / f"{place}.txt"
    if not is_there(Path(place)):
        raise UserError(
            "no such file of prompts, and no built-in set of prompts", got=place, fix=did_you_mean(place, set_names())
        )
    return Path(place)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file; blank ones are skipped.

    Raises:
        UserError: No such file, not UTF-8, or without a prompt.
    """
    lines = _LINE_END.split(read_text(path, "the prompts file", max_bytes=MAX_PROMPTS_BYTES))
    texts = lines
    if any(line.strip() == "---" for line in lines):
        joined = "\n".join("---" if line.strip() == "---" else line for line in lines)
        texts = re.split(r"^---$", joined, flags=re.MULTILINE)
    prompts = [text.strip() for text in texts if text.strip()]
    if not prompts:
        raise UserError("the prompts file is empty", got=str(path))
    for number, prompt in enumerate(prompts, 1):
        check_text(prompt, f"prompt {number} of {path.name}")
    return prompts
