"""Caption lint: what in the captions keeps a trigger word from learning, or a mirrored image from being true.

In: captions of one concept, the trigger word, a domain and perhaps a tokenizer. Out: findings.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from loraloom.prepare.doubtful import doubt_about
from loraloom.prepare.inspection.findings import Finding
from loraloom.protocols.domain import Domain
from loraloom.protocols.model import Tokenizer

MOST_TRIGGER_TOKENS = 3
_FEWEST_CAPTIONS = 4
_LONGEST_PHRASE = 12
_MOST_PHRASES = 5
_SHOWN = 60
_WORD = re.compile(r"[^\W_]+(?:['\u2019_-][^\W_]+)*")
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by for from has have in into is it its of on or over that the their there this to under was "
        "were which while who with without photo image picture painting",
    )
)
"""Words that say nothing of what an image shows."""


def text_findings(captions: Mapping[str, str | None], shown: Mapping[str, str]) -> Iterator[Finding]:
    """Captions that are missing, empty, or no captions by their look; and equal ones.

    Args:
        captions: Id -> the text found; None when there is none.
        shown: Id -> the file as the user knows it.
    """
    by_text: dict[str, list[str]] = {}
    for id_, text in captions.items():
        if text is None:
            yield Finding("no_caption", shown[id_], "no text has its name")
        elif not text.strip():
            yield Finding("empty_caption", shown[id_], "its text is empty")
        else:
            by_text.setdefault(" ".join(text.split()), []).append(id_)
            if doubt := doubt_about(text):
                yield Finding("doubtful_caption", shown[id_], doubt)
    for text, ids in by_text.items():
        if len(ids) > 1:
            yield Finding("same_caption", shown[ids[0]], f"{len(ids):,} images have the caption {short(text)}")


def split_findings(trigger: str, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Whether the trigger word is many tokens, and which."""
    ids = tokenizer.tokenize(trigger) if trigger else []
    if len(ids) > MOST_TRIGGER_TOKENS:
        parts = " | ".join(tokenizer.detokenize([id_]).strip() for id_ in ids)
        yield Finding("trigger_split", trigger, f"{trigger!r} is {len(ids)} tokens: {parts}")


def trigger_findings(captions: Mapping[str, str], trigger: str, shown: Mapping[str, str]) -> Iterator[Finding]:
    """Where the trigger word is absent, fused or written in other letters, and whether it has digits.

    Args:
        captions: Id -> caption, empty ones left out.
        trigger: The trigger word; empty: nothing is said.
        shown: Id -> the file as the user knows it.
    """
    if not trigger:
        return
    if re.search(r"\d", trigger):
        yield Finding("trigger_digits", trigger, f"{trigger!r} has digits; letters alone are safer")
    whole = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)")
    letters = re.compile(whole.pattern, re.IGNORECASE)
    inside = re.compile(rf"\w*{re.escape(trigger)}\w*", re.IGNORECASE)
    for id_, text in captions.items():
        if whole.search(text):
            continue
        if match := letters.search(text):
            yield Finding("trigger_case", shown[id_], f"{match[0]!r} instead of {trigger!r}")
        elif match := inside.search(text):
            yield Finding("trigger_fused", shown[id_], f"{short(match[0])} instead of {trigger!r} as a word")
        else:
            yield Finding("trigger_absent", shown[id_], f"no {trigger!r} in {short(text)}")


def length_findings(
    counts: Mapping[str, int], windows: Callable[[str], int], capacity: int, most_windows: int, shown: Mapping[str, str]
) -> Iterator[Finding]:
    """Captions that one encoder window does not hold, and captions that no training accepts.

    Args:
        counts: Id -> exact number of tokens, without begin and end.
        windows: Number of windows of the caption of an id; asked for long ones only.
        capacity: Tokens of one window.
        most_windows: `prompts.max_windows` of a training.
        shown: Id -> the file as the user knows it.
    """
    for id_, number in counts.items():
        if number <= capacity:
            continue
        needed = windows(id_)
        if needed > most_windows:
            yield Finding("too_long", shown[id_], f"{number:,} tokens in {needed} windows, at most {most_windows}")
        else:
            yield Finding("long", shown[id_], f"{number:,} tokens in {needed} windows of {capacity}")


def sided_findings(captions: Mapping[str, str], domain: Domain, shown: Mapping[str, str]) -> Iterator[Finding]:
    """Captions that the domain cannot rewrite for the mirrored image: they forbid flipping."""
    for id_, text in captions.items():
        if domain.mirrored(text) is None:
            yield Finding("sided", shown[id_], short(text))


def common_phrases(
    captions: Sequence[str], share: float, ignored: str = "", headers: frozenset[str] = frozenset()
) -> list[tuple[str, int]]:
    """Phrases that stand in at least `share` of the captions, the longest ones only, and in how many.

    Args:
        captions: Captions of one concept; fewer than four have no phrases in common.
        share: Above 0, at most 1.
        ignored: The trigger word: it is meant to be in every caption.
        headers: Lines that structure a caption and are the same in all by design.
    """
    if len(captions) < _FEWEST_CAPTIONS:
        return []
    least = max(2, math.ceil(share * len(captions) - 1e-9))
    shared: dict[str, str] = {}  # each word once in memory: a hundred thousand captions have few different ones
    texts = [
        [[shared.setdefault(word, word) for word in run] for run in _words(caption, ignored, headers)]
        for caption in captions
    ]
    frequent = Counter(word for runs in texts for word in {word for run in runs for word in run})
    known: dict[tuple[str, ...], int] = {(word,): number for word, number in frequent.items() if number >= least}
    every = dict(known)
    length = 1
    while known and length < _LONGEST_PHRASE:
        length += 1
        numbers: Counter[tuple[str, ...]] = Counter()
        for runs in texts:
            numbers.update({phrase for run in runs for phrase in _phrases(run, length, known)})
        known = {phrase: number for phrase, number in numbers.items() if number >= least}
        every |= known
    longest = [phrase for phrase in every if not any(_inside(phrase, other) for other in every)]
    telling = [phrase for phrase in longest if any(word not in _EMPTY_WORDS for word in phrase)]
    telling.sort(key=lambda phrase: (-len(phrase), -every[phrase], phrase))
    return [(" ".join(phrase), every[phrase]) for phrase in telling[:_MOST_PHRASES]]


def _words(caption: str, ignored: str, headers: frozenset[str]) -> list[list[str]]:
    """Runs of words of a caption in small letters; commas, sentence ends and the ignored word part the runs."""
    lines = [line for line in caption.splitlines() if line.strip() not in headers]
    text = "\n".join(lines)
    if ignored:
        text = re.sub(rf"(?<!\w){re.escape(ignored)}(?!\w)", "\n", text, flags=re.IGNORECASE)
    return [_WORD.findall(part) for part in re.split(r"[,.;:!?()\[\]\n]+", text.casefold()) if part.strip()]


def _phrases(run: Sequence[str], length: int, known: Mapping[tuple[str, ...], int]) -> Iterator[tuple[str, ...]]:
    """Phrases of a length whose two shorter parts are both frequent."""
    for start in range(len(run) - length + 1):
        phrase = tuple(run[start : start + length])
        if phrase[:-1] in known and phrase[1:] in known:
            yield phrase


def _inside(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    extra = len(other) - len(phrase)
    return extra > 0 and any(other[start : start + len(phrase)] == phrase for start in range(extra + 1))


def short(text: str) -> str:
    """A text in quotes, at most about 60 letters of it."""
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}…")
