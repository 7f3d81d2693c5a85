"""Kinds of findings of `inspect`: how grave each is, why it matters, and the thresholds by purpose.

In: settings. Out: `Thresholds` and the table of kinds, which terminal, JSON and page are made from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from loraloom.config.inspect import InspectConfig

Level = Literal["refuse", "warn", "note"]
LEVELS: tuple[Level, ...] = ("refuse", "warn", "note")
"""Gravest first. `refuse`: not trained on as it is; `warn`: trained on, but look; `note`: handled, for your information."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding: its level, a title for users, and the reason why it matters."""

    level: Level
    title: str
    why: str


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding.

    Attributes:
        code: Key of `KINDS`.
        where: A file below the source, or a concept.
        text: What was found, with its numbers.
    """

    code: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Purpose:
    """What is advised for a purpose, each with its reason."""

    few_images: int
    few_reason: str
    max_enlargement: float
    enlargement_reason: str


PURPOSES: Mapping[str, Purpose] = MappingProxyType(
    {
        "style": Purpose(
            80,
            "a style is what many images of different content have in common; of few images the content is learned too, "
            "and 80 to 100 are advised",
            3.0,
            "enlarged pixels have no strokes, grain or texture of their own: their blur is learned as the style",
        ),
        "subject": Purpose(
            10,
            "DreamBooth (Ruiz et al. 2023) needs 3 to 5 images; with 10 or more the background is less likely to be learned",
            4.0,
            "details of the subject that the file does not have cannot be learned from it",
        ),
        "concept": Purpose(
            30,
            "a concept of many looks is learned from many of them",
            4.0,
            "details that the file does not have cannot be learned from it",
        ),
        "layout": Purpose(
            1000,
            "captions that say what is where have many combinations; few examples are learned by heart",
            8.0,
            "flat colours survive much enlarging, thin lines do not survive more",
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The numbers that verdicts are made by; see `InspectConfig` for the meaning of each."""

    purpose: str
    few_images: int
    max_enlargement: float
    min_side: int
    max_cut: float
    max_blur: float
    min_brightness: float
    max_clipped: float
    min_contrast: float
    common_share: float

    @classmethod
    def from_config(cls, config: InspectConfig) -> "Thresholds":
        """The user's thresholds, and the purpose's where the user leaves them open."""
        purpose = PURPOSES[config.purpose]
        return cls(
            purpose=config.purpose,
            few_images=purpose.few_images if config.few_images is None else config.few_images,
            max_enlargement=purpose.max_enlargement if config.max_enlargement is None else config.max_enlargement,
            min_side=config.min_size,
            max_cut=1.0 if config.crop == "subject" else config.max_cut,  # there cutting off is what was asked for
            max_blur=config.max_blur,
            min_brightness=config.min_brightness,
            max_clipped=config.max_clipped,
            min_contrast=config.min_contrast,
            common_share=config.common_share,
        )


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "unusable": Kind("refuse", "cannot be used", "there is nothing to train on"),
        "too_small": Kind("refuse", "too small", "by purpose: see the thresholds"),
        "captions_missed": Kind("refuse", "no caption is read", "every image would get the same made-up caption"),
        "too_long": Kind("refuse", "captions that need too many windows", "training stops at them"),
        "few": Kind("warn", "few images", "by purpose: see the thresholds"),
        "small": Kind("warn", "small: would be enlarged", "enlarging adds no detail; --upscaler FILE may guess some"),
        "cut": Kind("warn", "much is cut off", "what is cut off is not learned, though the caption may name it"),
        "blurred": Kind("warn", "blurred", "blur is learned as part of the look"),
        "dark": Kind("warn", "dark", "darkness is learned as part of the look"),
        "clipped": Kind("warn", "clipped", "pure black and white areas have no detail to learn"),
        "flat": Kind("warn", "nearly one brightness", "there is little to see in it"),
        "unsuited": Kind("warn", "not as the domain expects it", "the domain reads such images wrongly, or not at all"),
        "exact_duplicate": Kind("warn", "exact duplicates", "an image that is there twice counts twice"),
        "near_duplicate": Kind(
            "warn", "near-duplicates", "they count more than others, and are learned by heart first"
        ),
        "conflicting_captions": Kind("warn", "one image, different captions", "the model gets contradicting answers"),
        "no_caption": Kind("warn", "no caption", "prepare writes one by --captioner, the same for all with a template"),
        "empty_caption": Kind("warn", "empty captions", "prepare writes one by --captioner"),
        "doubtful_caption": Kind(
            "warn", "captions that look like something else", "its text would be learned as it is"
        ),
        "same_caption": Kind(
            "warn", "one caption, different images", "what differs between the images goes to the trigger"
        ),
        "trigger_absent": Kind(
            "warn", "captions without the trigger word", "prepare puts it first; look whether it reads well there"
        ),
        "trigger_fused": Kind(
            "warn",
            "trigger word fused with another word",
            "the tokenizer reads another word, so the trigger learns nothing",
        ),
        "trigger_case": Kind("warn", "trigger word in other letters", "prepare would put it first once more"),
        "trigger_split": Kind(
            "warn", "trigger word of many tokens", "each token has a meaning of its own that it brings along"
        ),
        "trigger_digits": Kind(
            "warn", "trigger word with digits", "CLIP reads each digit as a token that all other numbers share"
        ),
        "common_phrase": Kind(
            "warn",
            "a phrase in nearly every caption",
            "what every caption says carries what every image shows, so the trigger word learns less or nothing",
        ),
        "not_read": Kind("warn", "files that are not read", "something of yours is left out"),
        "animated": Kind("warn", "animated: only the first frame is used", "the other frames are left out"),
        "remark": Kind("warn", "read in another way than it is written", "look whether that is what you mean"),
        "long": Kind(
            "note",
            "captions longer than one encoder window",
            "prompts.method=attention reads them whole; other programs cut them",
        ),
        "sided": Kind("note", "captions with left, right or writing", "they would be wrong for a mirrored image"),
        "turned": Kind("note", "turned by EXIF", "prepare turns the pixels"),
        "transparent": Kind("note", "with transparency", "transparent pixels show --background, which is learned"),
        "cmyk": Kind("note", "CMYK", "converted to sRGB; colours may change a little"),
        "deep": Kind("note", "more than 8 bits a channel", "reduced to 8 bits"),
        "profile": Kind("note", "with another colour profile than sRGB", "converted to sRGB"),
        "unknown_words": Kind("note", "caption tokens were not counted", "--model names a tokenizer"),
    }
)
"""Code -> kind. Reasons of thresholds by purpose are in `PURPOSES`."""
