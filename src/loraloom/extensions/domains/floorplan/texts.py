"""Any text about a plan to a `Spec`: structured, or in plain words.

In: a text. Out: the spec, and a line for whatever was assumed or not understood.
"""

from collections.abc import Callable

from loraloom.errors import UserError

from .spec import Spec, parse_spec
from .words import spec_from_words


def spec_from_text(text: str, say: Callable[[str], None] = lambda line: None) -> Spec:
    """The spec of a structured text, or of plain words where no `[section]` stands in it.

    Raises:
        UserError: A structured text with a mistake, or words of which nothing was understood.
    """
    if "[" in text:
        return parse_spec(text)
    found = spec_from_words(text)
    for clause in found.ignored:
        say(f"not understood: {clause}")
    if found.spec.counts is None:
        raise UserError(
            "nothing in this text says what the plan is to have", got=text[:80],
            fix="write such as: two bedrooms, kitchen left of the living room",
        )  # fmt: skip
    return found.spec
