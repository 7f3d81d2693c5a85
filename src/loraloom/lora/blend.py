"""Blends of several loaded LoRAs: their text form, and what a denoiser evaluates at each step.

In: a text such as `anime:0.6 + watercolor:0.4@0-0.5`. Out: a `Blend`, and for each step its `Evaluation`s: which scales to
set, how much each answer counts, and in which region. Nothing here computes with weights.

Text form, of `--lora` and of a recipe:

    blend   [method[(number)]: ] term + term ...     switch(2): anime:0.6 + watercolor:0.4
    term    name[:scale][[region]][@start-end]       anime:0.8[0,0,0.5,1]@0-0.5
    scale   number, or block=number, separated by commas; a number without a block is for all other blocks
    region  left,top,right,bottom as fractions of the image, or the file of a mask, white inside
    @       the part of the steps in which the term acts, as fractions: 0 is the first step, 1 the end

Methods: `sum` adds all terms (the default). `switch(n)` uses one term at a time and changes it every n steps, `composite`
averages the guided answers of the terms (both: Zhong et al. 2024, Multi-LoRA Composition). `klora` chooses one of two terms,
a subject and a style in this order, for each layer and step (Ouyang et al. 2025, K-LoRA).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from loraloom.config.generate import MAX_ADAPTER_WEIGHT
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import is_there

Method = Literal["sum", "switch", "composite", "klora"]
Scale = float | Mapping[str, float]
"""One number for the whole adapter: 0 is the base, 1 as trained.

Or numbers by part (`denoiser`) and by block (`down_blocks.1`, or `denoiser.down_blocks.1`). Of several that hold for a layer
the longest block counts; where none holds `REST`, and 1 where that is missing.
"""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the image."""

REST = "*"
"""The block that stands for all blocks that a scale does not name."""

_METHOD = re.compile(r"([a-z]+)(?:\((\d{1,6})\))?:\s+(?=\S)")
_NAME = re.compile(r"[\w.\-]+")
_FRACTION = r"[0-9.]+(?:e-?[0-9]+)?"
_TERM = re.compile(
    r"(?P<place>.*?)(?::(?P<scale>[^:\[\]@/\\]*))?(?:\[(?P<region>[^\[\]]*)\])?"
    rf"(?:@(?P<start>(?:{_FRACTION})?)-(?P<end>(?:{_FRACTION})?))?",
    re.DOTALL,
)
_TAG = re.compile(r"<lora:([^<>:]+)(?::([^<>:]*))?(?::([^<>:]*))?>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One LoRA in a blend.

    Attributes:
        name: The name that it is loaded under; as the user wrote it in `--lora`, its place on disk.
        scale: Number from -100 to 100; or numbers by block, with `REST` for all others.
        region: Box or file of a mask to which its effect is limited; None for the whole image.
        start, end: Fractions of the steps, 0 to 1: it acts in step i of n where start <= i / n < end.
    """

    name: str
    scale: Scale = 1.0
    region: Box | Path | None = None
    start: float = 0.0
    end: float = 1.0

    def acts_at(self, step: int, num_steps: int) -> bool:
        """Whether the term acts in a step, counted from 0."""
        return self.start <= step / num_steps < self.end

    def __str__(self) -> str:
        text = f"{self.name}:{scale_text(self.scale)}"
        if self.region is not None:
            inner = str(self.region) if isinstance(self.region, Path) else ",".join(f"{x:g}" for x in self.region)
            text += f"[{inner}]"
        return text if (self.start, self.end) == (0.0, 1.0) else f"{text}@{self.start:g}-{self.end:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of the denoiser in a step.

    Attributes:
        terms: The terms that act in it.
        share: How much its guided answer counts, 0 to 1.
        region: Where it replaces the answer of the evaluations without a region; None for those.
    """

    terms: tuple[Term, ...]
    share: float = 1.0
    region: Box | Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Several LoRAs and how they act together.

    Attributes:
        terms: At most one for each name.
        method: See the module.
        switch_every: Steps between two changes of `switch`, at least 1.
    """

    terms: tuple[Term, ...] = ()
    method: Method = "sum"
    switch_every: int = 1

    @property
    def is_constant(self) -> bool:
        """Whether one evaluation with the same scales serves every step: the scales may then be merged."""
        plain = all(term.region is None and (term.start, term.end) == (0.0, 1.0) for term in self.terms)
        return plain and (self.method == "sum" or len(self.terms) < 2)

    def evaluations(self, step: int, num_steps: int) -> list[Evaluation]:
        """What the denoiser evaluates in a step, those without a region first: one at least."""
        acting = [term for term in self.terms if term.acts_at(step, num_steps)]
        whole = tuple(term for term in acting if term.region is None)
        regional = [term for term in acting if term.region is not None]
        if self.method == "switch" and len(whole) > 1:
            whole = (whole[step // self.switch_every % len(whole)],)
        elif self.method == "composite" and len(whole) > 1:
            return [Evaluation(terms=(term,), share=1 / len(whole)) for term in whole]
        return [
            Evaluation(terms=whole),
            *(Evaluation(terms=(*whole, term), region=term.region) for term in regional),
        ]

    def __str__(self) -> str:
        terms = " + ".join(str(term) for term in self.terms)
        if self.method == "sum":
            return terms
        count = f"({self.switch_every})" if self.method == "switch" else ""
        return f"{self.method}{count}: {terms}"


def make_blend(terms: tuple[Term, ...], method: str = "sum", switch_every: int = 1) -> Blend:
    """A blend of checked terms.

    Raises:
        UserError: An unknown method, two terms of one name, or terms that the method cannot blend.
    """
    known = get_args(Method)
    if method not in known:
        raise UserError("unknown method of blending", got=method, fix=did_you_mean(method, known))
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                "two LoRAs of one name in a blend", got=name, fix="keep one of them, or rename one: new=PLACE"
            )
    if switch_every < 1:
        raise UserError("switch needs a number of steps", got=switch_every, expected="1 or more")
    if method == "klora" and len(terms) != 2:
        raise UserError(
            "klora blends two LoRAs, a subject and a style", got=f"{len(terms)}", fix="name two, or use sum"
        )
    if method in {"composite", "klora"} and any(term.region is not None for term in terms):
        raise UserError(f"{method} does not take regions", fix="leave the regions out, or use sum or switch")
    return Blend(terms=terms, method=method, switch_every=switch_every)  # pyright: ignore[reportArgumentType] - checked


def parse_blend(text: str) -> Blend:
    """The blend that a text describes; an empty text is no LoRA at all.

    Raises:
        UserError: It is none; names the part that is wrong.
    """
    rest, method, count = text.strip(), "sum", 1
    if match := _METHOD.match(rest):
        method, count, rest = match[1], int(match[2] or 1), rest[match.end() :]
    terms = tuple(parse_term(part) for part in re.split(r"\s+\+\s+", rest)) if rest else ()
    for term in terms:
        if not _NAME.fullmatch(term.name):
            raise UserError("not the name of a LoRA", got=term.name, expected="letters, digits, . _ and -")
    return make_blend(terms, method, count)


def parse_term(text: str) -> Term:
    """The term that a text describes: `--lora` and the parts of a blend. Its name may be a place on disk.

    Raises:
        UserError: A scale that is no number, a region or a range of steps that is none.
    """
    if is_there(Path(text)):  # a name on disk may look like anything
        return Term(name=text)
    match = _TERM.fullmatch(text.strip())
    assert match is not None, "every text matches: all but the place may be missing"
    if not match["place"]:
        raise UserError("a LoRA without a name", got=text, expected="PLACE:SCALE, such as runs/anime:0.6")
    start, end = _steps(match["start"] or "0", match["end"] or "1", text)
    return Term(
        name=match["place"],
        scale=parse_scale(match["scale"], text) if match["scale"] is not None else 1.0,
        region=_region(match["region"], text) if match["region"] is not None else None,
        start=start,
        end=end,
    )


def parse_lora_option(text: str) -> tuple[str, Term]:
    """The place and the term of `--lora [name=]PLACE[:SCALE]...`; the term's name is the given one, or that of the place.

    Raises:
        UserError: As `parse_term`.
    """
    given, rest = "", text
    if (match := re.match(r"([\w.\-]+)=", text)) and not is_there(Path(text)):
        given, rest = match[1], text[match.end() :]
    term = parse_term(rest)
    name = given or name_of_place(term.name)
    return term.name, Term(name=name, scale=term.scale, region=term.region, start=term.start, end=term.end)


def name_of_place(place: str) -> str:
    """The name of an adapter at a place: its file's, or its folder's where all files are called alike."""
    parts = [part for part in re.split(r"[/\\]", place) if part and part != "."]
    stem = re.sub(r"\.safetensors$", "", parts[-1]) if parts else place
    folders = parts[:-1]
    generic = {"adapter", "weights", "pytorch_lora_weights", "adapter_model", "exports", "final", "checkpoints"}
    while folders and (stem in generic or re.fullmatch(r"step_\d+", stem)):
        stem, folders = folders[-1], folders[:-1]
    return re.sub(r"[^\w.\-]+", "-", stem).strip("-") or "lora"


def split_tags(prompt: str) -> tuple[str, list[Term]]:
    """A prompt without its `<lora:name:0.8>`, and the terms of these; `<lora:name:0.5:0.8>` is text encoder, denoiser.

    Raises:
        UserError: A scale that is no number, or one name twice.
    """
    terms: list[Term] = []
    for match in _TAG.finditer(prompt):
        scale: Scale = parse_scale(match[2], match[0]) if match[2] else 1.0
        if match[3]:
            both = parse_scale(match[3], match[0])
            if isinstance(scale, Mapping) or isinstance(both, Mapping):
                raise UserError("not a scale", got=match[0], expected="<lora:name:0.8> or <lora:name:0.5:0.8>")
            scale = {"text_encoder": scale, REST: both}
        terms.append(Term(name=match[1].strip(), scale=scale))
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise UserError("two <lora:...> of one name in a prompt", got=name, fix="keep one of them")
    return re.sub(r"[ \t]{2,}", " ", _TAG.sub("", prompt)).strip(" ,") if terms else prompt, terms


def parse_scale(text: str, where: str) -> Scale:
    """A scale of a text such as `0.8` or `0.8,up_blocks.1=0`; a number alone is for all other blocks.

    Args:
        text: The scale.
        where: What the user wrote, for errors.

    Raises:
        UserError: No number, out of range, or two for one block.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        block, equals, number = part.rpartition("=")
        block = block.strip() if equals else REST
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not -MAX_ADAPTER_WEIGHT <= value <= MAX_ADAPTER_WEIGHT or not block:
            expected = f"a number from -{MAX_ADAPTER_WEIGHT:g} to {MAX_ADAPTER_WEIGHT:g}, or block=number"
            raise UserError("not a scale", got=f"{part.strip()!r} in {where!r}", expected=expected)
        if block in found:
            fix = "keep one of them" if equals else "write decimals with a point, such as 1.5"
            raise UserError("two scales for one block", got=f"{block} in {where!r}", fix=fix)
        found[block] = value
    return found[REST] if set(found) == {REST} else found


def scale_text(scale: Scale) -> str:
    """A scale as `parse_scale` reads it."""
    if not isinstance(scale, Mapping):
        return f"{scale:g}"
    return ",".join(f"{number:g}" if block == REST else f"{block}={number:g}" for block, number in scale.items())


def _region(text: str, where: str) -> Box | Path:
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        if not text.strip():
            raise UserError("an empty region", got=where, expected="[left,top,right,bottom] or [mask.png]") from None
        return Path(text.strip())
    if len(numbers) != 4 or not (0 <= numbers[0] < numbers[2] <= 1 and 0 <= numbers[1] < numbers[3] <= 1):
        raise UserError(
            "not a region", got=where, expected="[left,top,right,bottom], fractions of the image from 0 to 1"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _steps(first: str, last: str, where: str) -> tuple[float, float]:
    try:
        start, end = float(first), float(last)
    except ValueError:
        start = end = -1.0
    if not 0 <= start < end <= 1:
        raise UserError("not a range of steps", got=where, expected="@start-end, fractions from 0 to 1, such as @0-0.5")
    return start, end
