"""What a domain can do beyond cutting texts: draw examples, judge an image by its text, measure many.

In: images and the texts that asked for them. Out: a verdict for each sentence, a receipt for all of a text, numbers over
many images. Here are the records and the interfaces `DatasetGenerator`, `Verifier`, `Metric`; a domain has those that it can.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a verb's --help must not pay for numpy
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from loraloom.protocols.settings import Settings

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the judged image, the last two exclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an image does what one sentence of its text asks.

    Attributes:
        sentence: The sentence, or the item of an enumeration (`2 bedroom`), as the text has it.
        section: Which part of the text it is from; a domain's own word (`count`, `connection`, `position`).
        met: None when the image does not let one tell.
        reason: What was seen, short, for the user.
        regions: The pixels that prove it: boxes, the first the one to point at.
    """

    sentence: str
    section: str
    met: bool | None
    reason: str
    regions: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Unread:
    """What of a text is not read as it stands.

    Attributes:
        not_understood: Words that came to nothing, and how often they stand there.
        taken: Words that leave a choice, what they were taken as, and how often.
    """

    not_understood: tuple[tuple[str, int], ...] = ()
    taken: tuple[tuple[str, str, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.not_understood or self.taken)

    @property
    def items(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Each of both kinds as a user reads it: `'study' (2 times)`; `'common room' as bedroom`."""
        return (
            tuple(f"{words!r}{_times(times)}" for words, times in self.not_understood),
            tuple(f"{words!r} as {meaning}{_times(times)}" for words, meaning, times in self.taken),
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each kind that there is."""
        lost, taken = self.items
        named = (("not understood", lost), ("taken", taken))
        return tuple(f"{name}: {', '.join(items)}" for name, items in named if items)


def _times(number: int) -> str:
    return f" ({number:,} times)" if number > 1 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Every sentence of a text with its verdict on one image.

    Attributes:
        verdicts: In the order of the text.
        extras: What the image shows and the text does not ask for, a sentence each.
        disorder: How far the image is from a well-formed one, 0 .. 1; breaks ties between equal receipts.
        unread: What of the text no verdict is about.
    """

    verdicts: tuple[Verdict, ...]
    extras: tuple[str, ...] = ()
    disorder: float = 0.0
    unread: Unread = Unread()

    def count(self, met: bool | None) -> int:
        """How many verdicts are `met`."""
        return sum(verdict.met is met for verdict in self.verdicts)

    @property
    def share_met(self) -> float:
        """Met sentences / all sentences, 0 .. 1; 1 for a text that asks for nothing. "Cannot tell" is not met."""
        return self.count(True) / len(self.verdicts) if self.verdicts else 1.0

    @property
    def complete(self) -> bool:
        """Whether every sentence is met."""
        return self.count(True) == len(self.verdicts)

    @property
    def rank(self) -> tuple[float, float, float]:
        """Sorting key, the best receipt first: fewest faults, then most sentences met, then least disorder.

        What was not asked for is a fault like a sentence that is not met: a wrong door is no better than a missing one.
        """
        unmet = len(self.verdicts) - self.count(True)
        return float(unmet + len(self.extras)), float(unmet), self.disorder

    def as_json(self) -> dict[str, Any]:
        """For receipt files."""
        return {
            "met": self.count(True),
            "not_met": self.count(False),
            "cannot_tell": self.count(None),
            "share_met": round(self.share_met, 4),
            "extras": list(self.extras),
            "disorder": round(self.disorder, 4),
            "not_understood": [{"words": words, "times": times} for words, times in self.unread.not_understood],
            "taken": [{"words": words, "as": what, "times": times} for words, what, times in self.unread.taken],
            "verdicts": [
                {
                    "sentence": verdict.sentence,
                    "section": verdict.section,
                    "verdict": {True: "met", False: "not met", None: "cannot tell"}[verdict.met],
                    "reason": verdict.reason,
                    "regions": [list(box) for box in verdict.regions],
                }
                for verdict in self.verdicts
            ],
        }


class DatasetGenerator(Protocol):
    """A domain's hand: it draws images whose texts are true of them."""

    styles: tuple[str, ...]
    kinds: Mapping[str, str]
    """Words of `loraloom samples` beside the domain's name, each with the style that it means."""

    def draw(self, seed: int, style: str) -> "tuple[Image.Image, str]":
        """An RGB image of the domain's one size and its text; the same seed gives the same on every machine.

        The empty style is the domain's usual one; an unknown one raises `UserError`."""

    def paraphrase(self, text: str, seed: int) -> str:
        """Another text that is true of the same image: sentences left out, moved, turned round. May be the same."""

    def turned(self, image: "Image.Image", text: str) -> "Sequence[str | None]":
        """The text of a drawn image in each of its eight layings: as it is and turned clockwise by 90, 180 and 270
        degrees, then these four of the image whose left and right are exchanged. None where there is no true text."""

    def facts(self, text: str) -> list[tuple[str, str, str]]:
        """What a text, or a part of one, says, as (subject, relation, object) in words; also turned round where that
        follows. Empty where the text is not understood, or the domain tells no facts."""

    def write_dataset(
        self,
        folder: Path,
        count: int,
        *,
        seed: int = 0,
        style: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write `count` images with texts, in a layout that a `Format` knows; may be interrupted and called again."""


class Verifier(Protocol):
    """A domain's eye: it reads an image back and compares it with the text."""

    def check(self, prompt: str) -> list[str]:
        """What is wrong with a text before anything is drawn, a line each: contradictions, unknown words. Empty is well."""

    def formal(self, prompt: str) -> tuple[str, list[str]]:
        """The prompt as models of this domain are taught it, and a line for whatever was assumed or not understood.

        Raises:
            UserError: It cannot be understood at all.
        """

    def unread(self, prompt: str) -> Unread:
        """What of a prompt is not read as it stands; its lines are among the notes of `formal` too."""

    def expand_prompt(self, prompt: str, seed: int) -> str:
        """The prompt with what it leaves open decided, where models draw better then; the same for the same seed. Images are
        judged by the prompt. The prompt itself where nothing is open, or it is not understood."""

    def verify(self, image: "Image.Image", prompt: str) -> Receipt:
        """The receipt of an RGB image of any size."""

    def repair_mask(self, image: "Image.Image", prompt: str) -> "NDArray[np.bool_] | None":
        """(height, width) of the image: where to draw again so that faults may go (see `Receipt.rank`) and the rooms of met
        sentences stay. None when there are none."""

    def shown_text(self, image: "Image.Image", prompt: str) -> str:
        """The prompt made true of the image: without what it does not meet, with what it shows beyond. A repair is guided
        from this text towards the prompt. The prompt itself where no other text can be told."""

    def overlay(self, image: "Image.Image", prompt: str) -> "Image.Image":
        """The image with the verdicts drawn on it, larger, with a legend."""


class Tally(Protocol):
    """A metric's running state. Two that saw different images can be merged, in any order."""

    def add(self, image: "Image.Image", prompt: str, reference: "Image.Image | None" = None) -> None:
        """Count one image; `reference` is the true image of the prompt where there is one."""

    def merge(self, other: "Tally") -> None:
        """Count what another tally of the same metric has counted."""

    def result(self) -> Mapping[str, float]:
        """Name to value; NaN where nothing was counted. `images` is how many were."""


class Metric(Protocol):
    """A number over many images."""

    name: str
    better: Mapping[str, int]
    """Of each value in the result: 1 higher is better, -1 lower, 0 neither."""

    def start(self) -> Tally:
        """An empty tally."""


@dataclass(frozen=True, slots=True)
class Section:
    """A header and the sentences below it; the header is repeated in every window that carries one of its sentences."""

    header: str
    sentences: tuple[str, ...]


class Domain(Protocol):
    """What texts of one kind are made of. A module exports one as `DOMAIN`, and its `DomainContract` as `CONTRACT`.

    None stands for what it cannot do. One with options of its own is a `ConfigurableDomain` too.
    """

    name: str
    dataset_generator: DatasetGenerator | None
    verifier: Verifier | None

    def sections(self, caption: str) -> list[Section]:
        """The caption cut at its natural borders. Joined by blanks, the parts are the caption up to white space."""

    def mirrored(self, caption: str) -> str | None:
        """The caption of the mirrored image; None when that cannot be told, and so the image may not be flipped."""

    def colours(self, caption: str) -> Mapping[str, tuple[int, int, int]]:
        """What RGB colours stand for in an image of this caption, by name; empty where they stand for nothing."""

    def check_image(self, image: "Image.Image") -> str | None:
        """Why an RGB image cannot be used in this domain as it is: the kind of fault, `: ` and what this image shows. None
        where it can, and where the domain takes every image. The kind completes "12 of 40 images are ..."."""


class ConfigurableDomain(Domain, Protocol):
    """A domain with options of its own.

    `prepare` takes them and records them in the dataset; whatever uses that dataset or a run on it is given them again.
    """

    settings: "type[Settings]"

    def configured(self, options: Mapping[str, Any]) -> Domain:
        """This domain with the values of its own settings, by key, checked."""
