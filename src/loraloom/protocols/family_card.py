"""What a family says of itself before a model of it is opened: the record behind `loraloom families`.

In: nothing. Out: `FamilyCard`, which a family's module exports as `CARD` beside `FAMILY`, or keeps in `card.py` of its
folder. What an opened model knows (sizes, guidance, schedule, LoRA targets) is not repeated here: it is read from a model
that is opened with the configs of the card, without weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTensor:
    """One of the tensors that `TextModel.encode` gives for a prompt of one window.

    Attributes:
        shape: Without a batch axis.
        dtype: `float`, `int` or `bool`.
    """

    shape: tuple[int, ...]
    dtype: Literal["float", "int", "bool"] = "float"


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyCard:
    """What a user wants to know before a download.

    Attributes:
        takes: The models that the family opens, in a phrase.
        base: Hub id of the base that people usually train.
        configs: Configs of that base by their name in the diffusers layout (`unet/config.json`), without tokenizers.
        size_px: Side of a square image at which that base is usually trained.
        text_tokens: Text encoder's part name -> tokens that it reads at once, BOS and EOS included.
        text_tensors: What `TextModel.encode` gives for a prompt of one window.
        licence: What the licence of that base allows, in a phrase; the user reads the licence itself.
        gaps: Sentences on what does not work yet.
    """

    takes: str
    base: str
    configs: Mapping[str, Mapping[str, Any]]
    size_px: int
    text_tokens: Mapping[str, int]
    text_tensors: Mapping[str, TextTensor]
    licence: str
    gaps: tuple[str, ...] = ()
