"""Cutting a prompt into encoder windows.

In: a prompt, a domain that knows its sections, a tokenizer. Out: a `PromptPlan`: windows of token ids with a weight for
each token, the exact token count, and whatever text a method would leave out. Nothing is lost without standing in `lost`.

A prompt that fits one window is tokenized whole, so that it equals plain encoding. A longer one is cut at sentence
borders; a window that starts inside a section repeats the section's header. A sentence longer than a window is cut at
commas, then at words, then between tokens.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from loraloom.config.run import PromptMethod
from loraloom.prompts.weighting import WeightedText, parse, unweighted
from loraloom.protocols.domain import Domain, Section
from loraloom.protocols.model import Tokenizer
from loraloom.utils.errors import UserError


@dataclass(frozen=True, slots=True)
class Piece:
    """Text with its token ids and a weight for each id."""

    text: str
    ids: tuple[int, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """How one prompt reaches the encoder.

    Attributes:
        windows: What each window carries, without BOS, EOS and padding; at least one, possibly empty.
        num_tokens: Exact count of the whole prompt without BOS and EOS and without repeated headers.
        lost: Text that no window carries, in reading order.
        lost_tokens: Tokens of that text.
        text: The whole prompt as plain text, without the syntax of weights.
        spans: The same text in runs of equal weight.
    """

    windows: tuple[Piece, ...]
    num_tokens: int
    lost: tuple[str, ...] = ()
    lost_tokens: int = 0
    text: str = ""
    spans: tuple[tuple[str, float], ...] = ()


def plan_prompt(
    prompt: str,
    encoder: Tokenizer,
    domain: Domain,
    method: PromptMethod,
    *,
    max_windows: int = 8,
    weighting: bool = False,
) -> PromptPlan:
    """Cut a prompt for `method`.

    Args:
        prompt: The text.
        encoder: Gives the tokenizer and the window length; 2 tokens of a window are BOS and EOS.
        domain: Knows sections and sentences.
        method: `attention`, `mean`, `max`, `weighted` read all windows; `truncate` the first; `smart` the sentences
            that say most.
        max_windows: Limit of the number of windows.
        weighting: Whether `(word:1.3)` is a weight; else it is text.

    Raises:
        UserError: More than `max_windows` windows.
    """
    weighted = parse(prompt) if weighting else unweighted(prompt)
    plan = _plan(prompt, weighted, encoder, domain, method, max_windows)
    return replace(plan, text=weighted.text, spans=_spans(weighted))


def _spans(weighted: WeightedText) -> tuple[tuple[str, float], ...]:
    pairs = zip(weighted.text, weighted.weights, strict=True)
    runs = groupby(pairs, key=lambda pair: pair[1])
    return tuple(("".join(char for char, _ in run), weight) for weight, run in runs)


def _plan(
    prompt: str, weighted: WeightedText, encoder: Tokenizer, domain: Domain, method: PromptMethod, max_windows: int
) -> PromptPlan:
    capacity = encoder.window_tokens - 2
    whole = _piece(weighted.text, iter(_visible(weighted)), encoder.tokenize)
    if len(whole) <= capacity:
        return PromptPlan(windows=(whole,), num_tokens=len(whole))
    if method == "truncate":
        rest = whole.ids[capacity:]
        return PromptPlan(
            windows=(Piece(whole.text, whole.ids[:capacity], whole.weights[:capacity]),),
            num_tokens=len(whole),
            lost=(encoder.detokenize(rest),),
            lost_tokens=len(rest),
        )
    sections = _sections(weighted, domain, encoder.tokenize)
    if method == "smart":
        return _most_telling(sections, capacity, len(whole))
    windows = tuple(_pack(sections, capacity, encoder))
    if len(windows) > max_windows:
        raise UserError(
            f"the prompt {prompt[:60]!r}… is too long",
            got=f"{len(whole)} tokens, {len(windows)} windows of {capacity}",
            expected=f"at most {max_windows} windows",
            fix="shorten it, raise prompts.max_windows, or choose prompts.method=smart",
        )
    return PromptPlan(windows=windows, num_tokens=len(whole))


@dataclass(frozen=True, slots=True)
class _Section:
    header: Piece
    sentences: tuple[Piece, ...]


def _visible(weighted: WeightedText) -> list[float]:
    """Weights of the characters that are not white space: what survives any way of cutting."""
    return [weight for char, weight in zip(weighted.text, weighted.weights, strict=True) if not char.isspace()]


def _piece(text: str, weights: Iterator[float], tokenize: Callable[[str], list[int]]) -> Piece:
    """Tokenize `text`, taking one weight from `weights` for each visible character; runs of equal weight go together."""
    pairs: list[tuple[str, float]] = []
    last = 1.0
    for char in text:
        last = last if char.isspace() else next(weights)
        pairs.append((char, last))
    if len({weight for _, weight in pairs}) <= 1:  # one run: tokenized whole
        ids = tokenize(text)
        return Piece(text, tuple(ids), (last,) * len(ids))
    ids: list[int] = []
    token_weights: list[float] = []
    for weight, run in groupby(pairs, key=lambda pair: pair[1]):
        run_ids = tokenize("".join(char for char, _ in run))
        ids += run_ids
        token_weights += [weight] * len(run_ids)
    return Piece(text, tuple(ids), tuple(token_weights))


def _sections(weighted: WeightedText, domain: Domain, tokenize: Callable[[str], list[int]]) -> list[_Section]:
    sections: list[Section] = domain.sections(weighted.text)
    weights = iter(_visible(weighted))
    return [
        _Section(_piece(s.header, weights, tokenize), tuple(_piece(text, weights, tokenize) for text in s.sentences))
        for s in sections
    ]


def _join(pieces: Sequence[Piece]) -> Piece:
    return Piece(
        " ".join(piece.text for piece in pieces if piece.text),
        tuple(id_ for piece in pieces for id_ in piece.ids),
        tuple(weight for piece in pieces for weight in piece.weights),
    )


@dataclass(slots=True, kw_only=True)
class _Packer:
    """Fills windows from left to right."""

    capacity: int
    done: list[Piece] = field(default_factory=list[Piece])
    current: list[Piece] = field(default_factory=list[Piece])
    used: int = 0
    header: Piece | None = None
    """The header that the current window carries last."""

    def flush(self) -> None:
        if self.current:
            self.done.append(_join(self.current))
        self.current, self.used, self.header = [], 0, None

    def put(self, piece: Piece) -> None:
        self.current.append(piece)
        self.used += len(piece)

    def add(self, header: Piece, sentence: Piece) -> None:
        needs_header = len(header) > 0 and self.header is not header
        if self.used + len(sentence) + (len(header) if needs_header else 0) > self.capacity:
            self.flush()
            needs_header = len(header) > 0
        if needs_header:
            self.put(header)
            self.header = header
        self.put(sentence)


def _pack(sections: Sequence[_Section], capacity: int, encoder: Tokenizer) -> list[Piece]:
    packer = _Packer(capacity=capacity)
    nothing = Piece("", (), ())
    for section in sections:
        # A header that fills half a window is no header: it would leave its sentences no room.
        repeat = len(section.header) <= capacity // 2
        header = section.header if repeat else nothing
        sentences = section.sentences if repeat else (section.header, *section.sentences)
        for sentence in sentences or (nothing,):
            for part in _cut(sentence, capacity - len(header), encoder):
                packer.add(header, part)
    packer.flush()
    return packer.done


def _cut(sentence: Piece, room: int, encoder: Tokenizer) -> list[Piece]:
    """The sentence in parts of at most `room` tokens: at commas, else at words, else between tokens."""
    if len(sentence) <= room:
        return [sentence]
    for border in (r"(?<=[,;:])\s+", r"\s+"):
        parts = [part for part in re.split(border, sentence.text) if part]
        pieces = _align(parts, sentence, encoder) if len(parts) > 1 else None
        if pieces is None:
            continue
        merged: list[Piece] = []
        for piece in pieces:
            if merged and len(merged[-1]) + len(piece) <= room:
                merged[-1] = _join([merged[-1], piece])
            else:
                merged.append(piece)
        return [part for piece in merged for part in _cut(piece, room, encoder)]
    return [
        Piece(
            encoder.detokenize(sentence.ids[i : i + room]), sentence.ids[i : i + room], sentence.weights[i : i + room]
        )
        for i in range(0, len(sentence), room)
    ]


def _align(parts: Sequence[str], sentence: Piece, encoder: Tokenizer) -> list[Piece] | None:
    """Give each part of a sentence its share of the ids; None when the tokenizer does not cut there."""
    pieces: list[Piece] = []
    start = 0
    for part in parts:
        ids = tuple(encoder.tokenize(part))
        if sentence.ids[start : start + len(ids)] != ids:
            return None
        pieces.append(Piece(part, ids, sentence.weights[start : start + len(ids)]))
        start += len(ids)
    return pieces if start == len(sentence.ids) else None


def _most_telling(sections: Sequence[_Section], capacity: int, num_tokens: int) -> PromptPlan:
    """One window of the sentences that say most for their length, in reading order.

    A sentence's worth is the sum of its distinct tokens' inverse document frequencies over the prompt's sentences,
    tokens already said by a chosen sentence counting nothing; worth for length decides (greedy weighted cover).
    """
    places = [(section, sentence) for section in sections for sentence in (section.sentences or (section.header,))]
    frequency = Counter(token for _, sentence in places for token in set(sentence.ids))
    rarity = {token: math.log(1 + len(places) / count) for token, count in frequency.items()}
    chosen: set[int] = set()
    said: set[int] = set()

    def cost(index: int) -> int:
        section, sentence = places[index]
        has_header = any(places[other][0] is section for other in chosen)
        return len(sentence) + (0 if has_header or sentence is section.header else len(section.header))

    used = 0
    while True:
        best, best_worth = None, -1.0
        for index, (_, sentence) in enumerate(places):
            if index in chosen or not sentence.ids or used + cost(index) > capacity:
                continue
            # Position breaks ties: earlier sentences first.
            fresh = sum(rarity[token] for token in set(sentence.ids) - said)
            worth = (fresh + 1e-3) / max(cost(index), 1)
            if worth > best_worth:
                best, best_worth = index, worth
        if best is None:
            break
        used += cost(best)
        chosen.add(best)
        said |= set(places[best][1].ids)
    kept: list[Piece] = []
    last: _Section | None = None
    for index in sorted(chosen):
        section, sentence = places[index]
        if section is not last and sentence is not section.header:
            kept.append(section.header)
        last = section
        kept.append(sentence)
    lost = [sentence for index, (_, sentence) in enumerate(places) if index not in chosen and sentence.ids]
    return PromptPlan(
        windows=(_join(kept),),
        num_tokens=num_tokens,
        lost=tuple(p.text for p in lost),
        lost_tokens=sum(len(p) for p in lost),
    )
