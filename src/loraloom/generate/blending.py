"""Evaluate a denoiser with several LoRAs whose scales change from step to step or from region to region.

In: a stack of loaded LoRAs and a blend. Out: at each step one answer of the denoiser. A region limits what a LoRA changes
in the answer: answer + mask (answer with the LoRA - answer), with a mask at the size of the latents. So regions cost one
evaluation each, work for every family, and two that overlap add up.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loraloom.lora.blend import REST, Blend, Box, Evaluation, Scale, Term
from loraloom.lora.klora import KloraTable, Place, klora_table
from loraloom.lora.stack import LoraStack
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import check_regular_file, library_errors

_MAX_MASK_BYTES = 256 << 20


class Blending:
    """A blend at work.

    Args:
        stack: Holds every LoRA that the blend names; is unmerged here.
        blend: What to evaluate.
        table: K-LoRA's, of the blend's two terms; None for other methods.
    """

    def __init__(self, stack: LoraStack, blend: Blend, table: KloraTable | None = None) -> None:
        self._stack, self._blend, self._table = stack, blend, table
        self._masks: dict[Box | Path, Tensor] = {}
        self._text_loras = [name for name in stack.names if stack.changes_text(name)]

    def answer(self, step: int, num_steps: int, latents_bchw: Tensor, evaluate: Callable[[], Tensor]) -> Tensor:
        """The denoiser's answer in a step.

        Args:
            step, num_steps: Counted from 0, of how many.
            latents_bchw: Their size is the mask's.
            evaluate: Evaluates the denoiser with the scales that the stack has, guidance included.
        """
        evaluations = self._blend.evaluations(step, num_steps)
        answer_bchw: Tensor | None = None
        for one in evaluations:
            if one.region is None:
                self._set(one, step, num_steps)
                part_bchw = evaluate() * one.share
                answer_bchw = part_bchw if answer_bchw is None else answer_bchw + part_bchw
        assert answer_bchw is not None, "one evaluation at least has no region"
        whole_bchw = answer_bchw
        for one in evaluations:
            if one.region is not None:
                self._set(one, step, num_steps)
                mask_hw = self._mask(one.region, latents_bchw)
                answer_bchw = answer_bchw + mask_hw * (evaluate() - whole_bchw)
        return answer_bchw

    def text_setting(self) -> tuple[tuple[str, str], ...]:
        """The present scales of the LoRAs that change more than the denoiser: prompts are encoded anew when it changes."""
        scales = self._stack.scales
        return tuple((name, str(scales[name])) for name in self._text_loras)

    def _set(self, evaluation: Evaluation, step: int, num_steps: int) -> None:
        self._stack.unmerge()
        if self._table is not None and len(evaluation.terms) == 2:
            scales = self._klora(evaluation.terms, self._table, step, num_steps)
        else:
            scales = {term.name: term.scale for term in evaluation.terms}
        self._stack.set_scales({name: scales.get(name, 0.0) for name in self._stack.names})

    def _klora(self, terms: tuple[Term, ...], table: KloraTable, step: int, num_steps: int) -> dict[str, Scale]:
        """Scales by layer: of each layer that both change, one has its scale and the other 0."""
        subject, style = terms
        found: dict[str, dict[str, float]] = {subject.name: {}, style.name: {}}
        for place in table.ratios:
            acts = table.subject_acts(place, step, num_steps)
            found[style.name if acts else subject.name][".".join(place)] = 0.0
        return {term.name: with_blocks(term.scale, found[term.name]) for term in terms}

    def _mask(self, region: Box | Path, latents_bchw: Tensor) -> Tensor:
        if region not in self._masks:
            height, width = latents_bchw.shape[-2:]
            self._masks[region] = region_mask(region, height, width).to(latents_bchw)
        return self._masks[region]


def with_blocks(scale: Scale, blocks: Mapping[str, float]) -> Scale:
    """A scale with numbers for further blocks."""
    if not blocks:
        return scale
    return {**(scale if isinstance(scale, Mapping) else {REST: scale}), **blocks}


def region_mask(region: Box | Path, height: int, width: int) -> Tensor:
    """(height, width) float32 from 0 to 1: the share of each cell that the region covers.

    Args:
        region: Fractions of the image; or an image file, white inside.
        height, width: Size of the latents.

    Raises:
        UserError: The file is no image, or its mask is black everywhere.
    """
    if isinstance(region, Path):
        check_regular_file(region, "the mask of a LoRA", max_bytes=_MAX_MASK_BYTES)
        with library_errors("the mask of a LoRA", region), Image.open(region) as image:
            grey = image.convert("L").resize((width, height), Image.Resampling.BOX)
        mask = torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255)
        if not bool(mask.any()):
            raise UserError(
                "the mask of a LoRA is black everywhere", got=str(region), fix="paint white where it is to act"
            )
        return mask
    left, top, right, bottom = region
    return _covered(top, bottom, height)[:, None] * _covered(left, right, width)[None, :]


def _covered(start: float, end: float, count: int) -> Tensor:
    """The share of each of `count` equal cells of 0 to 1 that lies between start and end."""
    edges = torch.arange(count + 1, dtype=torch.float32) / count
    inside = torch.minimum(edges[1:], torch.tensor(end)) - torch.maximum(edges[:-1], torch.tensor(start))
    return (inside * count).clamp(0, 1)


def klora_table_of(stack: LoraStack, blend: Blend) -> KloraTable:
    """K-LoRA's table for the two terms of a blend, subject first."""
    changes: list[dict[Place, Tensor]] = []
    ranks: list[dict[Place, int]] = []
    for term in blend.terms:
        found = list(stack.changes(term.name))
        changes.append({place: change for place, change, _ in found})
        ranks.append({place: rank for place, _, rank in found})
    both = {place: (ranks[0][place], ranks[1][place]) for place in ranks[0].keys() & ranks[1].keys()}
    return klora_table(changes[0], changes[1], both)
