"""Interfaces of a domain: split captions, synthesize datasets, verify images against prompts, compute metrics.

In: images and their prompts. Out: a verdict on each sentence, a receipt for the whole prompt, metrics over many images.
Defines the records and the interfaces `Domain`, `DatasetGenerator`, `Verifier` and `Metric`; a domain may lack the last three.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a verb's --help must not import numpy
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from loraloom.protocols.settings import Settings

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the verified image; right and bottom are exclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an image meets one sentence of its prompt.

    Attributes:
        sentence: The sentence, or the item of an enumeration (`2 bedroom`), as in the prompt.
        section: Part of the prompt that contains it, named by the domain (`count`, `connection`, `position`).
        met: Whether the image meets it; None if the image does not show it clearly.
        reason: What the image shows, in a few words for the user.
        regions: Boxes of the pixels that prove it; the first is the most important one.
    """

    sentence: str
    section: str
    met: bool | None
    reason: str
    regions: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Unread:
    """Words of a prompt that are ignored, or read in one of several possible ways.

    Attributes:
        not_understood: Words that are ignored, each with its number of occurrences.
        taken: Ambiguous words, each with the meaning that was chosen and its number of occurrences.
    """

    not_understood: tuple[tuple[str, int], ...] = ()
    taken: tuple[tuple[str, str, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.not_understood or self.taken)

    @property
    def items(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Both kinds as lines for users: `'study' (2 times)`; `'common room' as bedroom`."""
        return (
            tuple(f"{words!r}{_times(times)}" for words, times in self.not_understood),
            tuple(f"{words!r} as {meaning}{_times(times)}" for words, meaning, times in self.taken),
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each kind that is not empty."""
        lost, taken = self.items
        named = (("not understood", lost), ("taken", taken))
        return tuple(f"{name}: {', '.join(items)}" for name, items in named if items)


def _times(number: int) -> str:
    return f" ({number:,} times)" if number > 1 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Every sentence of a prompt with the verdict on one image.

    Attributes:
        verdicts: Verdicts in the order of the prompt.
        extras: What the image shows beyond the prompt, one sentence each.
        disorder: Distance of the image from a well-formed one, 0 .. 1; breaks ties between equal receipts.
        unread: Words of the prompt that no verdict covers.
    """

    verdicts: tuple[Verdict, ...]
    extras: tuple[str, ...] = ()
    disorder: float = 0.0
    unread: Unread = Unread()

    def count(self, met: bool | None) -> int:
        """The number of verdicts whose `met` has this value."""
        return sum(verdict.met is met for verdict in self.verdicts)

    @property
    def share_met(self) -> float:
        """Met sentences / all sentences, 0 .. 1; 1 for a prompt without sentences. "Cannot tell" is not met."""
        return self.count(True) / len(self.verdicts) if self.verdicts else 1.0

    @property
    def complete(self) -> bool:
        """Whether every sentence is met."""
        return self.count(True) == len(self.verdicts)

    @property
    def rank(self) -> tuple[float, float, float]:
        """Sorting key, the best receipt first: fewest faults, then most sentences met, then least disorder.

        An extra counts as a fault like a sentence that is not met: a wrong door is no better than a missing one.
        """
        unmet = len(self.verdicts) - self.count(True)
        return float(unmet + len(self.extras)), float(unmet), self.disorder

    def as_json(self) -> dict[str, Any]:
        """The content of a receipt file."""
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
    """Synthesizes images with captions that describe them correctly."""

    styles: tuple[str, ...]
    kinds: Mapping[str, str]
    """Further KINDs of `loraloom samples` besides the domain's name -> style."""

    def draw(self, seed: int, style: str) -> "tuple[Image.Image, str]":
        """An RGB image of the domain's fixed size and its caption; a seed gives the same result on every machine.

        The empty style is the default; an unknown style raises `UserError`."""

    def paraphrase(self, text: str, seed: int) -> str:
        """Another correct caption of the same image: sentences omitted, moved, reversed. May equal `text`."""

    def turned(self, image: "Image.Image", text: str) -> "Sequence[str | None]":
        """The caption of an image in each of its eight orientations: rotated clockwise by 0, 90, 180 and 270 degrees,
        then these four of the mirrored image. None for an orientation without a correct caption."""

    def facts(self, text: str) -> list[tuple[str, str, str]]:
        """The facts of a caption or a part of it, as (subject, relation, object) in words, with the reversed facts that
        follow from them. Empty if the text is not understood or the domain has no facts."""

    def write_dataset(
        self,
        folder: Path,
        count: int,
        *,
        seed: int = 0,
        style: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write `count` images with captions in a layout that a `Format` reads; may be interrupted and called again."""


class Verifier(Protocol):
    """Reads the content of an image and compares it with the prompt."""

    def check(self, prompt: str) -> list[str]:
        """Problems of a prompt that are found without an image, one line each: contradictions, unknown words."""

    def formal(self, prompt: str) -> tuple[str, list[str]]:
        """The prompt in the form that models of this domain are trained on, and notes: one line for each assumption and for
        each kind of words that were not understood.

        Raises:
            UserError: Nothing of the prompt is understood.
        """

    def unread(self, prompt: str) -> Unread:
        """The words of a prompt that are ignored or ambiguous; the notes of `formal` contain its lines too."""

    def expand_prompt(self, prompt: str, seed: int) -> str:
        """The expanded prompt: details that the prompt leaves open are chosen, because models then generate better images.
        Deterministic in the seed. Images are verified against the prompt, not the expanded prompt. Returns the prompt if it
        leaves nothing open or is not understood."""

    def verify(self, image: "Image.Image", prompt: str) -> Receipt:
        """The receipt of an RGB image of any size."""

    def repair_mask(self, image: "Image.Image", prompt: str) -> "NDArray[np.bool_] | None":
        """(height, width) bool, True where inpainting may remove faults (see `Receipt.rank`); what met sentences are about is
        kept. None if there are no faults."""

    def shown_text(self, image: "Image.Image", prompt: str) -> str:
        """The prompt changed to describe the image: without sentences that are not met, with extras. A repair is guided from
        this text towards the prompt. Returns the prompt if no such text can be found."""

    def overlay(self, image: "Image.Image", prompt: str) -> "Image.Image":
        """The image with its verdicts marked, enlarged, with a legend."""


class Tally(Protocol):
    """The state of a metric. States of different images can be merged in any order."""

    def add(self, image: "Image.Image", prompt: str, reference: "Image.Image | None" = None) -> None:
        """Add one image; `reference` is the true image of the prompt, if there is one."""

    def merge(self, other: "Tally") -> None:
        """Add the images of another tally of the same metric."""

    def result(self) -> Mapping[str, float]:
        """Name -> value; NaN without images. `images` is the number of images."""


class Metric(Protocol):
    """A metric over many images."""

    name: str
    better: Mapping[str, int]
    """Name of a value in the result -> 1: higher is better; -1: lower is better; 0: neither."""

    def start(self) -> Tally:
        """An empty tally."""


@dataclass(frozen=True, slots=True)
class Section:
    """A header and its sentences; every encoder window with one of the sentences repeats the header."""

    header: str
    sentences: tuple[str, ...]


class Domain(Protocol):
    """A kind of captions and images. A module exports one as `DOMAIN`, and its `DomainContract` as `CONTRACT`.

    A part that it lacks is None. A domain with settings is a `ConfigurableDomain`.
    """

    name: str
    dataset_generator: DatasetGenerator | None
    verifier: Verifier | None

    def sections(self, caption: str) -> list[Section]:
        """The caption split at headers and sentences. Joined by blanks, the parts equal the caption except for white space."""

    def mirrored(self, caption: str) -> str | None:
        """The caption of the mirrored image; None if it is unknown, so that the image must not be flipped."""

    def colours(self, caption: str) -> Mapping[str, tuple[int, int, int]]:
        """Class -> RGB colour in an image of this caption; empty if colours do not encode classes."""

    def check_image(self, image: "Image.Image") -> str | None:
        """Why an RGB image cannot be used in this domain: the kind of fault, `: ` and what this image shows. None if it can
        be used. The kind completes "12 of 40 images are ..."."""


class DescribingDomain(Domain, Protocol):
    """A domain that reads an image back as its full caption."""

    def describe(self, image: "Image.Image") -> str:
        """The caption that is true of an RGB image.

        Raises:
            RefusedError: The image shows nothing of this domain; the message is the reason (`utils.image_bytes`).
        """


class ConfigurableDomain(Domain, Protocol):
    """A domain with settings.

    `prepare` records their values in the dataset; training, generation and token counts on that dataset use them again.
    """

    settings: "type[Settings]"

    def configured(self, options: Mapping[str, Any]) -> Domain:
        """This domain with these values of its settings, by key; already checked."""
