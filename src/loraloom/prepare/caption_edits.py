"""Edit captions: search and replace, prefix and suffix, wildcards, shuffled tags, the trigger word first.

In: texts, the edits as the user wrote them, and a seed. Out: the edited texts; every choice is a function of (seed, image
id, number of the caption). Order: replace, prefix and suffix, wildcards, shuffle, trigger.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loraloom.config.caption import CaptionConfig
from loraloom.prompts.triggers import has_trigger, with_trigger_first
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.rng import derive_seed
from loraloom.utils.untrusted import MIB, read_text

_WILDCARD = re.compile(r"__([\w/ .-]+?)__")
_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
_MOST_ROUNDS = 20
"""A wildcard's line may hold a wildcard; a line that holds itself would never end."""
_LONGEST = 10_000
"""Letters of a caption after its wildcards: two in each line would otherwise double it in every round."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """`old` is a pattern; `new` is inserted as it is, for a regular expression with its groups."""

    given: str
    old: re.Pattern[str]
    new: str
    literal: bool

    def __call__(self, text: str) -> str:
        return self.old.sub(lambda match: self.new if self.literal else match.expand(self.new), text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What is done to every caption.

    Attributes:
        replacements: In the order in which they are applied.
        prefix, suffix: Put before and after a caption; the user writes blanks and commas.
        wildcards: Lines by name; None: nothing is expanded.
        shuffle, keep: Whether tags are shuffled, and the number of first tags that stay.
        trigger: Placed first.
        seed: Determines every choice.
        used: Counts captions that each replacement changed, and captions with the trigger inside a sentence.
    """

    replacements: tuple[Replacement, ...] = ()
    prefix: str = ""
    suffix: str = ""
    wildcards: Mapping[str, Sequence[str]] | None = None
    shuffle: bool = False
    keep: int = 1
    trigger: str = ""
    seed: int = 0
    used: Counter[str] = field(default_factory=Counter[str])

    @classmethod
    def from_config(cls, config: CaptionConfig) -> "Edits":
        """The edits that the settings ask for.

        Raises:
            UserError: A replacement has no `=` or a wrong pattern, or a file of wildcards cannot be read.
        """
        return cls(
            replacements=tuple(_replacement(text) for text in config.replace),
            prefix=config.prefix,
            suffix=config.suffix,
            wildcards=_read_wildcards(config.wildcards) if config.wildcards else None,
            shuffle=config.shuffle_tags,
            keep=config.keep_tags,
            trigger=config.trigger.strip(),
            seed=config.seed,
        )

    @property
    def any(self) -> bool:
        """Whether a caption may be changed."""
        return bool(
            self.replacements
            or self.prefix
            or self.suffix
            or self.wildcards is not None
            or self.shuffle
            or self.trigger
        )

    def all_of(self, texts: Sequence[str], item_id: str, count: int) -> tuple[str, ...]:
        """Up to `count` different captions made of one image's texts; empty ones are left out."""
        made = [self.one(texts[k % len(texts)], item_id, k) for k in range(count)] if texts else []
        return tuple(dict.fromkeys(text for text in made if text))

    def one(self, text: str, item_id: str, number: int) -> str:
        """Caption `number` of an image, edited."""
        rng = random.Random(derive_seed(self.seed, item_id, number, "caption edits"))
        for replacement in self.replacements:
            changed = replacement(text)
            self.used[replacement.given] += changed != text
            text = changed
        text = f"{self.prefix}{text}{self.suffix}".strip()
        if self.wildcards is not None:
            text = expand(text, self.wildcards, rng)
        if self.trigger:
            text = self._trigger_first(text)
        if self.shuffle:
            tags = [tag.strip() for tag in text.split(",") if tag.strip()]
            rest = tags[self.keep :]
            rng.shuffle(rest)
            text = ", ".join([*tags[: self.keep], *rest])
        return text.strip()

    def _trigger_first(self, text: str) -> str:
        """The trigger word, then the rest; a tag that is the trigger moves, inside a sentence it stays and counts."""
        trigger = self.trigger
        tags = [tag.strip() for tag in text.split(",")]
        if trigger in tags:
            return ", ".join([trigger, *(tag for tag in tags if tag and tag != trigger)])
        word = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)")
        if found := word.search(text):
            self.used["trigger"] += found.start() > 0
            return text
        return f"{trigger}, {text}" if text else trigger

    def unused(self) -> list[str]:
        """A line for each replacement that changed nothing."""
        return [
            f"--replace {replacement.given!r} changes no caption"
            for replacement in self.replacements
            if not self.used[replacement.given]
        ]


def final_caption(text: str, trigger: str, *, first: bool = False) -> str:
    """`text` without outer white space, after the trigger word unless it has it as a whole word; lines stay lines.

    With `first` a trigger word that it has elsewhere is moved to the front.
    """
    text = text.strip()
    if first or (trigger and not has_trigger(text, trigger)):
        return with_trigger_first(text, trigger)
    return text


def _replacement(given: str) -> Replacement:
    literal = not (given.startswith("/") and "/=" in given[1:])
    if literal:
        old, equals, new = given.partition("=")
        pattern = re.escape(old)
    else:
        end = given.rindex("/=")
        pattern, equals, new = given[1:end], "=", given[end + 2 :]
    if not equals or not pattern:
        raise UserError("--replace", got=given, expected="OLD=NEW, or /PATTERN/=NEW", fix="an empty NEW removes OLD")
    try:
        compiled = re.compile(pattern)
        if not literal:
            re.sub(compiled, new, "")
            compiled.sub(new, "") if compiled.groups == 0 else None
    except (re.error, IndexError) as error:
        raise UserError(f"--replace has a wrong pattern ({error})", got=given, fix="see Python's re module") from None
    return Replacement(given, compiled, new, literal)


def _read_wildcards(place: str) -> dict[str, tuple[str, ...]]:
    """Lines by the name of their file below a folder, without `.txt`; empty lines and `#` lines are left out."""
    if place == "inline":
        return {}
    folder = Path(place)
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.rglob("*.txt")):
        text = read_text(path, f"the wildcard {path.name}", max_bytes=MIB)
        lines = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
        if lines:
            found[path.relative_to(folder).with_suffix("").as_posix()] = lines
    if not found:
        raise UserError("the folder of wildcards has no .txt file with a line", got=place, fix="name another folder")
    return found


def expand(text: str, wildcards: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """`text` with one choice for every `{a|b}` and `__name__`.

    Raises:
        UserError: A name is unknown, or wildcards hold each other without end.
    """
    for _ in range(_MOST_ROUNDS):
        changed = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
        if wildcards:
            changed = _WILDCARD.sub(lambda match: _line_of(match[1], wildcards, rng), changed)
        if changed == text:
            return text
        text = changed
        if len(text) > _LONGEST:
            break
    raise UserError(
        "wildcards do not end: a line holds its own wildcard", got=text[:60], fix="check the lines of --wildcards"
    )


def _line_of(name: str, wildcards: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    if name not in wildcards:
        raise UserError("there is no such wildcard", got=f"__{name}__", fix=did_you_mean(name, wildcards))
    return rng.choice(wildcards[name])
