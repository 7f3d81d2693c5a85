"""From slots of the bucket batch sampler to a `Batch`: latents, conditioning, loss weights, and seeds for the train step.

In: (epoch, slots of one device). Out: a `Batch`. Every random choice is a function of (seed, epoch, sample id, purpose),
so it does not depend on the number of devices. Noise and timesteps are sampled in the train step from the batch's seeds.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from loraloom.data.augment import Augmentation
from loraloom.data.bucket_sampler import Pass
from loraloom.data.caption_dropout import CaptionDropout
from loraloom.data.encode import LatentStore, TextStore
from loraloom.data.loss_weights import LatentWeights
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.data import Batch, Example
from loraloom.protocols.domain import Domain
from loraloom.protocols.model import ImageGeometry, Tensors
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.rng import normal, uniform


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMaker:
    """Makes batches of a training or validation split.

    Attributes:
        examples: The split, in manifest order; a slot's index points here.
        latents, texts: The stores of latents and prompt embeddings.
        domain: Gives the captions of mirrored images.
        seed: Seed of the run; determines every random number.
        random_flip: Whether half of the images are mirrored; those whose caption cannot be rewritten never are.
        augmentation: Variants of the images; each epoch takes one of an image, or the image itself.
        dropout: Which captions are dropped; None: none, as validation has it.
        loss_weights: The loss weight of each latent of an image; None gives all the same, as validation has it.
    """

    examples: Sequence[Example]
    latents: LatentStore
    texts: TextStore
    domain: Domain
    seed: int
    random_flip: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    dropout: CaptionDropout | None = None
    loss_weights: LatentWeights | None = None

    @property
    def encoder(self) -> PromptEncoder:
        """Encodes the captions."""
        return self.texts.encoder

    def make(self, epoch: int, slots: Pass) -> Batch:
        """The batch of some slots in an epoch; tensors on the CPU."""
        rng_parts, latents, captions, dropped, geometry, weights = [], [], [], [], [], []
        for slot in slots:
            example = self.examples[slot.index]
            # Repetitions in one epoch have noise of their own; the first has the one that it had without repeats.
            place = (self.seed, epoch, example.id, slot.copy) if slot.copy else (self.seed, epoch, example.id)
            mirrored = self.random_flip and uniform(*place, "flip") < 0.5 and can_flip(example, self.domain)
            if variants := self.augmentation.variants:
                example = self.augmentation.variant(example, int(uniform(*place, "augment") * (variants + 1)))
            drawn = self.latents.sample(example, mirrored, lambda shape, place=place: normal(shape, *place, "vae"))
            rng_parts.append(place)
            latents.append(drawn)
            captions.append(self.caption(example, mirrored, epoch))
            dropped.append(self.dropout.dropped(*place) if self.dropout else frozenset())
            geometry.append(geometry_of(example, mirrored))
            if self.loss_weights:
                weights.append(self.loss_weights.of(example, mirrored))
        return Batch(
            ids=tuple(self.examples[slot.index].id for slot in slots),
            rng_parts=tuple(rng_parts),
            latents_bchw=torch.stack(latents),
            conditioning=self.latents.model.condition(self._embeddings(captions, dropped), geometry, None),
            weights_b=torch.tensor([slot.weight for slot in slots]),
            latent_weights_bhw=torch.stack(weights) if weights else None,
        )

    def _embeddings(self, captions: Sequence[str], dropped: Sequence[Set[str]]) -> list[Tensors]:
        """The prompt embeddings of some captions, each as if the dropped text encoders had read the empty text."""
        if not any(dropped):
            return self.texts.states(captions)
        assert self.dropout
        whole = [len(encoders) == len(self.dropout.encoders) for encoders in dropped]
        kept = ["" if all_of_it else caption for caption, all_of_it in zip(captions, whole, strict=True)]
        *found, empty = self.texts.states([*kept, ""])
        text: Any = self.texts.encoder.text
        return [
            embedding if all_of_it or not encoders else text.without(embedding, empty, encoders)
            for embedding, encoders, all_of_it in zip(found, dropped, whole, strict=True)
        ]

    def fixed(self, index: int, timesteps: Sequence[int]) -> Batch:
        """An image once for each of some timesteps, with seeds that are fixed for all runs: for validation losses."""
        example = self.examples[index]
        drawn = self.latents.sample(example, False, lambda shape: torch.zeros(shape))
        count = len(timesteps)
        return Batch(
            ids=(example.id,) * count,
            rng_parts=tuple(("validation", timestep, example.id) for timestep in timesteps),
            latents_bchw=drawn[None].repeat(count, 1, 1, 1),
            conditioning=self.latents.model.condition(
                self.texts.states([example.caption]) * count, [geometry_of(example, False)] * count, None
            ),
            weights_b=torch.ones(count),
        )

    def caption(self, example: Example, mirrored: bool, epoch: int) -> str:
        """The caption of an image, or of its mirror image, in an epoch: one of several is chosen by (seed, epoch, id)."""
        several = example.captions
        number = int(uniform(self.seed, epoch, example.id, "caption") * len(several)) if len(several) > 1 else 0
        return self._shown(several[number], example, mirrored)

    def _shown(self, caption: str, example: Example, mirrored: bool) -> str:
        if not mirrored:
            return caption
        rewritten = self.domain.mirrored(caption)
        assert rewritten is not None, example.id  # `can_flip` has seen every caption
        return rewritten

    def needed_latents(self) -> Iterator[tuple[Example, bool]]:
        """Every (image or variant, mirrored) that an epoch can ask for."""
        for example in self.examples:
            for variant in self.augmentation.all_of(example):
                for mirrored in self._flips(example):
                    yield variant, mirrored

    def _flips(self, example: Example) -> tuple[bool, ...]:
        return (False, True) if self.random_flip and can_flip(example, self.domain) else (False,)

    def needed_captions(self) -> list[str]:
        """Every caption that an epoch can ask for, each once."""
        captions = {
            self._shown(caption, example, mirrored): None
            for example in self.examples
            for mirrored in self._flips(example)
            for caption in example.captions
        }
        return [*captions, *([""] if self.dropout and self.dropout.reads_empty_text else [])]


def geometry_of(example: Example, mirrored: bool) -> ImageGeometry:
    """Where a prepared image comes from. Of a mirrored one the crop begins at the other side."""
    left, top, right, _ = example.crop
    first = example.source_width - right if mirrored else left
    return ImageGeometry(
        original=(example.source_width, example.source_height),
        crop=(round(first * example.scale), round(top * example.scale)),
        target=(example.width, example.height),
    )


def can_flip(example: Example, domain: Domain) -> bool:
    """Whether every caption of an image can be written for its mirror image."""
    return all(domain.mirrored(caption) is not None for caption in example.captions)


def refuse_blind_flips(examples: Sequence[Example], domain: Domain, unknown: str = "error") -> str | None:
    """A line about captions that mirroring would make false and that the domain cannot rewrite; None if there are none.

    Args:
        examples: Images that are learned.
        domain: Rewrites captions.
        unknown: `error`: they are an error; `keep`: their images are never mirrored.

    Raises:
        UserError: There are some and `unknown` is `error`.
    """
    captions = [named for example in examples for named in example.named_captions]
    blind = [named for named in captions if domain.mirrored(named[1]) is None]
    if not blind:
        return None
    number = f"{len(blind)} of {len(captions)} captions speak of left and right"
    if unknown == "keep":
        kept = sum(not can_flip(example, domain) for example in examples)
        return f"{number} and cannot be rewritten: {counted(kept, 'image')} not mirrored, such as {blind[0][0]}"
    raise UserError(
        f"data.random_flip is on, but {number}",
        got=f"{blind[0][0]}: {blind[0][1][:60]}",
        fix="switch random_flip off, or set augment.flip_unknown=keep: the caption would be wrong for a mirrored image",
    )
