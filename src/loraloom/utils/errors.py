"""The error that a user sees: what happened, what was given, what was expected, what to do.

In: four short texts. Out: an exception that the command line prints as one or two lines, never as a traceback.
Our own bugs are `assert`s and are allowed to show their traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_MOST, _MOST_GOT = 4000, 1000
"""Letters of a text and of a value in an error line: a file may hold a value of a megabyte."""


class UserError(Exception):
    """A mistake that its user can repair.

    Args:
        what: What is wrong, one short clause that names the setting, file or image.
        got: The offending value as it was given.
        expected: What would have been accepted.
        fix: What to do next, an imperative.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        line = _short(self.what, _MOST)
        if self.got is not None:
            line += f": got {_short(self.got, _MOST_GOT)!r}" if isinstance(self.got, str) else f": got {self.got}"
        if self.expected is not None:
            line += f", expected {_short(str(self.expected), _MOST)}"
        return f"{line}\n  {self.fix}" if self.fix else line

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by their positional arguments only; workers send ours back whole.
        return _rebuild, (type(self), self.what, self.got, self.expected, self.fix)


class LostRankError(UserError):
    """A collective failed because another process of the run ended or does not answer: the fault is that process's."""


def _rebuild(kind: type[UserError], what: str, got: object, expected: object, fix: str | None) -> UserError:
    return kind(what, got=got, expected=expected, fix=fix)


def _short(text: str, most: int) -> str:
    """`text`, the middle of a very long one left out."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`word` was not found among `known`: the nearest names as a hint, or the whole list when none is near."""
    names = sorted(known)
    near = get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    return "known: " + ", ".join(names)
