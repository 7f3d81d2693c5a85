"""Lines of `prepare` for terminal and report: what is counted, and what `--strict` makes an error of.

In: numbers and lists of a run. Out: one line each.
"""

from collections.abc import Sequence

from loraloom.data.manifest import JOURNAL_FILE
from loraloom.prepare.duplicates import SPLITS_FILE
from loraloom.prepare.journal import Journal
from loraloom.prepare.report import Problem
from loraloom.protocols.data import Example
from loraloom.utils.counted import counted


def unread_lines(journal: Journal) -> list[str]:
    """A line where lines of the journal are no rows."""
    number = journal.num_unread
    if not number:
        return []
    return [f"{counted(number, 'line')} of {JOURNAL_FILE} cannot be read: what they were about is done again"]


def no_caption(number: int, all_images: int) -> str:
    """How many images have no caption."""
    if all_images == 1:
        return "the only image has no caption"
    return f"{number:,} of {all_images:,} images {'has' if number == 1 else 'have'} no caption"


def to_look_at(notes: Sequence[Problem]) -> str:
    """How many images are used with a remark."""
    number = len({note.file for note in notes})
    return "1 image is used, but look at it" if number == 1 else f"{number:,} images are used, but look at them"


def unknown_ids(given: frozenset[str] | None, examples: Sequence[Example]) -> list[str]:
    """A line where the source's own split holds out what is not there, by a suffix too many perhaps."""
    lost = sorted((given or frozenset()) - {example.id for example in examples})
    if not lost or given is None:
        return []
    ids = f"{len(lost):,} of {len(given):,} ids that {SPLITS_FILE} holds out"
    return [f"{ids} are of no image that is used: {', '.join(repr(id_) for id_ in lost[:3])}{' ...' * (len(lost) > 3)}"]
