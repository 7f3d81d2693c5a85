"""Lines about prompts and captions that are not read as their author meant: text that is cut, syntax that is text here.

In: texts and a prompt encoder. Out: lines for the first texts that a method cuts and a count of the others, one line for
all syntax of other programs, and `Losses`, which says each line once or, with `strict`, makes an error of them.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.windows import PromptPlan
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import shown

_SYNTAX: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern)
    for pattern in (
        r"<\w+:[^<>]+>",  # A1111's extra networks: <lora:x:0.8>, <lyco:x>, <hypernet:x:1>
        r"\[[^\[\]]*:\s*(?:\d*\.)?\d+%?\s*\]",  # [a:b:0.5], [a:10], [a::0.5]: scheduled
        r"\[[^\[\]]*\|[^\[\]]*\]",  # [a|b]: alternating
        r"\[[^\[\]]+\]",  # [word]: less emphasis
        r"\{[^{}]*\|[^{}]*\}",  # {a|b}: one of them at random
        r"(?<!\w)__[\w/*-]+__(?!\w)",  # __colour__: a line of a file of wildcards
        r"(?<!\w)embedding:\S+",  # ComfyUI's textual inversions
        r"(?<!\w)BREAK(?!\w)",  # a new window
        r"(?<!\w)AND(?:_[A-Z]+)?(?!\w)",  # composable diffusion
        r"(?<!\S)--(?:ar|aspect|no|v|version|q|quality|s|stylize|style|c|chaos|iw|seed|niji|tile|weird)(?!\S)",  # Midjourney
        r"(?m)^\s*Negative prompt:",  # A1111's `parameters`, pasted whole
        r"(?<!\w)Steps: \d+, Sampler:",
    )
)
"""Syntax that other programs carry out, first come first served where two match."""
_CAPITALS = re.compile(r"(?:BREAK|AND(?:_[A-Z]+)?)")
_SYNTAX_WORDS = re.compile(rf"(?<!\w){_CAPITALS.pattern}(?!\w)")
_EMPHASIS = re.compile(r"\([^()]*[^\d\s()]\s*:\s*(?:\d*\.\d+|[0-2])\s*\)")
"""`(word:1.3)`, which is text where weights are not read: in captions."""
_SHOWN_LINES = 20
_SHOWN_CUT = 2
_SHOWN_LOST = 120


@dataclass(slots=True)
class Losses:
    """What was given and is not used as it was given: each line is said once, or with `strict` becomes part of an error.

    Attributes:
        say: Takes lines for the user.
        strict: Collect the lines for `check` instead of saying them.
        lines: All lines so far.
    """

    say: Callable[[str], None]
    strict: bool = False
    lines: dict[str, None] = field(default_factory=dict[str, None])

    def add(self, *lines: str) -> None:
        """Say the lines that were not said before."""
        for line in lines:
            if line not in self.lines:
                self.lines[line] = None
                if not self.strict:
                    self.say(line)

    def check(self) -> None:
        """Raise `UserError` with all lines when there are any and `strict` is on; they are then forgotten."""
        if not (self.strict and self.lines):
            return
        lines = [re.sub(r"^(?:warning|note): ", "", line) for line in self.lines]
        self.lines.clear()
        more = [f"and {len(lines) - _SHOWN_LINES:,} more"] if len(lines) > _SHOWN_LINES else []
        listed = "\n  ".join([*lines[:_SHOWN_LINES], *more])
        raise UserError(
            f"--strict is on, and not everything is used as it was given:\n  {listed}",
            fix="change it, or drop --strict",
        )


def what_cuts(encoder: PromptEncoder) -> str:
    """What leaves text out: the prompt method, or the model where its text length is fixed."""
    if encoder.text.max_windows is None or encoder.method in {"truncate", "smart"}:
        return f"prompts.method={encoder.method}"
    return "the model's fixed text length"


def unknown_letters(encoder: PromptEncoder, texts: Iterable[str], noun: str) -> tuple[list[str], list[str]]:
    """Lines about letters that a tokenizer does not know: notes where another encoder reads them, and warnings where none.

    Only models whose text length is fixed are asked (`TextModel.counts`).
    """
    if encoder.text.max_windows is None:
        return [], []
    by_encoder: dict[str, int] = {}
    nowhere: list[str] = []
    distinct = list(dict.fromkeys(texts))
    for text in distinct:
        counts = encoder.text.counts(text)
        if counts and all(count.unknown for count in counts):
            nowhere.append(text)
        else:
            for count in counts:
                by_encoder[count.name] = by_encoder.get(count.name, 0) + (count.unknown > 0)
    notes = [
        f"note: {name} does not know some letters of {count} of {len(distinct)} {noun}; another encoder reads them"
        for name, count in by_encoder.items()
        if count
    ]
    if not nowhere:
        return notes, []
    return notes, [
        f"warning: no encoder knows all letters of {len(nowhere)} of {len(distinct)} {noun}, such as {_short(nowhere[0])}"
    ]


def cut_line(encoder: PromptEncoder, text: str, *, weighting: bool, what: str = "") -> str | None:
    """One line about a text of which the prompt method leaves something out, however much; None when it reads all.

    Args:
        encoder: Knows the method.
        text: As the model is to read it.
        weighting: Whether `(word:1.3)` is a weight.
        what: Prefix of the text, such as "the negative prompt ".
    """
    plan = encoder.plan(text, weighting=weighting)
    if not plan.lost:
        return None
    lost = " | ".join(" ".join(part.split()) for part in plan.lost)
    more = "…" if len(lost) > _SHOWN_LOST else ""
    if reads_nothing(plan):
        return (
            f"warning: {encoder.method} reads nothing of {what}{_short(text)}: all {plan.num_tokens} tokens are left out; "
            "shorten its sentences, or choose another prompt method"
        )
    reader = encoder.method if what_cuts(encoder).startswith("prompts.") else "the model"
    return (
        f"warning: {reader} does not read all of {what}{_short(text)}: {plan.lost_tokens} of {plan.num_tokens} "
        f"tokens are left out: {lost[:_SHOWN_LOST]}{more}"
    )


def cut_lines(
    encoder: PromptEncoder, texts: Iterable[str], *, weighting: bool, noun: str = "prompts", what: str = ""
) -> list[str]:
    """`cut_line` of the first distinct texts that are cut, and one line that counts the others.

    Long prompts often begin alike, so that lines about them are alike too: the count never depends on how they are shown.
    """
    found = [cut_line(encoder, text, weighting=weighting, what=what) for text in dict.fromkeys(texts)]
    lines = [line for line in found if line]
    shown_lines = list(dict.fromkeys(lines[:_SHOWN_CUT]))
    left = len(lines) - len(shown_lines)
    if not left:
        return shown_lines
    are = f"{noun} more are" if left > 1 else f"{noun.removesuffix('s')} more is"
    return [*shown_lines, f"warning: {left:,} {are} not read in full"]


def reads_nothing(plan: PromptPlan) -> bool:
    """Whether a text has tokens and no window holds any of them."""
    return plan.num_tokens > 0 and not any(len(window) for window in plan.windows)


def foreign_syntax(text: str, encoder: PromptEncoder, *, weighting: bool) -> list[str]:
    """The parts of a text that other programs carry out and that are read as text here, in order of their kind.

    `[Header]` is no such part where the domain knows it as the header of sentences; capitals are none in a text without
    small letters, unless it is nothing else.
    """
    headers = {section.header for section in encoder.domain.sections(text) if section.sentences}
    capitals = text.upper() == text and any(letter.isalpha() for letter in _SYNTAX_WORDS.sub("", text))
    found: list[str] = []
    rest = text
    for pattern in (*_SYNTAX, *(() if weighting else (_EMPHASIS,))):
        for match in pattern.findall(rest):
            part = " ".join(match.split())
            if part not in headers and not (capitals and _CAPITALS.fullmatch(part)):
                found.append(part)
        rest = pattern.sub(" ", rest)
    return found


def syntax_line(texts: Iterable[str], encoder: PromptEncoder, *, weighting: bool, noun: str = "prompts") -> str | None:
    """One line that counts the texts with syntax of other programs and shows it; None when there is none."""
    counts: dict[str, int] = {}
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    with_it = 0
    for text in distinct:
        parts = dict.fromkeys(foreign_syntax(text, encoder, weighting=weighting))
        with_it += bool(parts)
        for part in parts:
            counts[part] = counts.get(part, 0) + 1
    if not counts:
        return None
    examples = ", ".join(f"{_short(part)} ({count:,})" for part, count in list(counts.items())[:5])
    more = f" and {len(counts) - 5:,} more" if len(counts) > 5 else ""
    hint = "; --adapter loads an adapter" if any(part.startswith("<l") for part in counts) and noun == "prompts" else ""
    return (
        f"note: syntax of other programs is read as text here, in {with_it:,} of {len(distinct):,} {noun}: "
        f"{examples}{more}{hint}"
    )


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return str(shown(flat if len(flat) <= 40 else f"{flat[:40]}…"))
