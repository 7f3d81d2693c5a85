"""Captions that are dropped in training: as a whole, or for single text encoders of a model that has several.

In: settings and a model. Out: for each image the text encoders that read the empty text in place of its caption. That is a
function of (seed, epoch, sample id), the same on any number of devices and after a resume.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from loraloom.config.pairs import read_encoder_dropout
from loraloom.config.run import DataConfig
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError
from loraloom.utils.rng import uniform

SETTING = "data.encoder_dropout"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionDropout:
    """How often captions are dropped.

    Attributes:
        whole: Probability that a caption is dropped for all text encoders, 0 to 1.
        encoders: Every text encoder of the model -> probability that it alone reads the empty text, 0 to 1; independent of
            the others and of `whole`.
    """

    whole: float
    encoders: Mapping[str, float]

    @property
    def reads_empty_text(self) -> bool:
        """Whether the empty text is ever read."""
        return self.whole > 0 or any(self.encoders.values())

    def dropped(self, *place: str | int) -> frozenset[str]:
        """The text encoders that read the empty text for the image whose random numbers `place` determines."""
        if self.whole > 0 and uniform(*place, "caption dropout") < self.whole:
            return frozenset(self.encoders)
        return frozenset(
            name
            for name, probability in self.encoders.items()
            if probability > 0 and uniform(*place, "caption dropout", name) < probability
        )

    def line(self) -> str | None:
        """A sentence for the log; None if no encoder has a probability of its own."""
        own = {name: probability for name, probability in self.encoders.items() if probability}
        if not own:
            return None
        nothing = self.whole + (1 - self.whole) * prod(self.encoders.values())
        listed = ", ".join(f"{name} {probability:.1%}" for name, probability in own.items())
        return f"caption dropout: {self.whole:.1%} for all encoders, besides {listed}; {nothing:.1%} learn without text"


def make_caption_dropout(data: DataConfig, model: DiffusionModel, *, trains_text_encoder: bool) -> CaptionDropout:
    """The dropout of a run.

    Args:
        data: Settings.
        model: Names its text encoders; no weights are read.
        trains_text_encoder: Whether text encoders learn.

    Raises:
        UserError: An encoder that the model does not have, a model that cannot drop them one by one, or an encoder that
            would learn without ever reading a caption.
    """
    asked = read_encoder_dropout(data.encoder_dropout)
    encoders = {part.name: asked.get(part.name, 0.0) for part in model.info.text_encoders}
    known = ", ".join(encoders)
    if unknown := [name for name in asked if name not in encoders]:
        raise UserError(f"{SETTING} names a text encoder that this model does not have", got=unknown[0], expected=known)
    if asked and len(encoders) == 1:
        raise UserError(
            f"{SETTING} is for models of several text encoders, and this one has only {known}",
            got=", ".join(data.encoder_dropout),
            fix="set data.caption_dropout (--caption-dropout)",
        )
    if asked and not hasattr(model.text, "without"):
        raise UserError(f"the family {model.info.family} cannot drop captions for single text encoders", got=SETTING)
    for part in model.info.text_encoders:
        if trains_text_encoder and part.lora_targets and encoders[part.name] == 1:
            raise UserError(
                f"lora.text_encoder is on, but {SETTING} is 1 for {part.name}: it would see no caption",
                got=f"{part.name}=1",
                expected="a probability below 1",
            )
    return CaptionDropout(whole=data.caption_dropout, encoders=encoders)
