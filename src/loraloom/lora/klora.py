"""K-LoRA (Ouyang et al. 2025, arXiv 2502.18461): of a subject and a style LoRA one acts in each layer and step.

In: the updates of both. Out: a table of layers by the step from which the style wins. The rule compares, for each layer,
the sum of the k largest |entries| of both updates, k = rank of the subject times rank of the style, after the subject's sum
is divided by the mean ratio of the two updates' absolute sums and the style's is multiplied by

    S(t) = (alpha t + beta) mod alpha,  t = step / number of steps from 0 to 1

Only S depends on the step, so that each layer's rule is one number, computed once. The published code counts calls of all
layers instead of steps, which gives other steps with classifier-free guidance, batches or another number of steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALPHA, BETA = 1.5, 0.5
Place = tuple[str, str]
"""Part and module."""


@dataclass(frozen=True, slots=True)
class KloraTable:
    """For each layer that both LoRAs change, the ratio subject / style of their largest entries.

    Attributes:
        ratios: Above S(t) the subject acts, else the style.
    """

    ratios: Mapping[Place, float]

    def subject_acts(self, place: Place, step: int, num_steps: int) -> bool:
        """Whether the subject's update is used in a layer at a step, counted from 0."""
        return self.ratios[place] > style_weight(step / num_steps)


def style_weight(t: float) -> float:
    """S(t) of the module's text; t from 0 to 1."""
    return (ALPHA * t + BETA) % ALPHA


def klora_table(
    subject: Mapping[Place, Tensor], style: Mapping[Place, Tensor], ranks: Mapping[Place, tuple[int, int]]
) -> KloraTable:
    """The table for two LoRAs.

    Args:
        subject, style: The change of each layer's weight, float32, any shape; layers that only one changes are left out of
            the table: there the one acts always.
        ranks: Rank of the subject's and the style's update of each layer that both change.
    """
    shared = sorted(subject.keys() & style.keys())
    sums = [(float(subject[place].abs().sum()), float(style[place].abs().sum())) for place in shared]
    whole = [first / second for first, second in sums if second > 0]
    mean_ratio = sum(whole) / len(whole) if whole else 1.0
    ratios: dict[Place, float] = {}
    for place in shared:
        first, second = subject[place].abs().flatten(), style[place].abs().flatten()
        count = min(ranks[place][0] * ranks[place][1], first.numel(), second.numel())
        top_subject = float(torch.topk(first, count).values.sum())
        top_style = float(torch.topk(second, count).values.sum())
        ratios[place] = top_subject / max(mean_ratio, 1e-30) / top_style if top_style > 0 else float("inf")
    return KloraTable(ratios)
