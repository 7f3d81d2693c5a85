"""The one prompt encoder: training, samples, generation and the check of exports all read prompts through it.

In: texts. Out: for each text its states (n, k, d); `combine.collate` makes the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loraloom.config.run import PromptMethod
from loraloom.prompts.combine import combine, emphasise
from loraloom.prompts.windows import PromptPlan, plan_prompt
from loraloom.protocols.domain import Domain
from loraloom.protocols.model import TextEncoder
from loraloom.utils.atomic_files import sha256_bytes


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """A text encoder with a method for prompts longer than its window.

    Attributes:
        text: Tokenizer and encoder.
        domain: Knows sections and sentences.
        method: What becomes of prompts longer than one window.
        max_windows: Limit of one prompt's windows.
    """

    text: TextEncoder
    domain: Domain
    method: PromptMethod = "attention"
    max_windows: int = 8

    def plan(self, prompt: str, *, weighting: bool = False) -> PromptPlan:
        """How the prompt is cut; needs no weights."""
        return plan_prompt(
            prompt, self.text, self.domain, self.method, max_windows=self.max_windows, weighting=weighting
        )

    def cache_key(self, prompt: str, *, weighting: bool = False, dtype: torch.dtype = torch.float32) -> str:
        """sha256 over everything that decides the states: the windows, the method, tokenizer and encoder weights."""
        plan = self.plan(prompt, weighting=weighting)
        windows = [(window.ids, window.weights) for window in plan.windows]
        merge = self.method if len(windows) > 1 else "-"
        return sha256_bytes(f"{windows}\n{merge}\n{self.text.fingerprint}\n{dtype}".encode())

    def encode(self, prompts: Sequence[str], *, weighting: bool = False) -> list[Tensor]:
        """States of each prompt: (n, k, d), n its number of windows (1 for every method but `attention`).

        Raises:
            UserError: A prompt needs more than `max_windows` windows.
        """
        return self.encode_plans([self.plan(prompt, weighting=weighting) for prompt in prompts])

    def encode_plans(self, plans: Sequence[PromptPlan]) -> list[Tensor]:
        """States of prompts that are cut already, as `encode` gives them."""
        ids_nk = torch.tensor([self.text.window(window.ids) for plan in plans for window in plan.windows])
        hidden_nkd = self.text.encode(ids_nk)
        states: list[Tensor] = []
        start = 0
        for plan in plans:
            own_nkd = hidden_nkd[start : start + len(plan.windows)]
            start += len(plan.windows)
            if any(weight != 1.0 for window in plan.windows for weight in window.weights):
                own_nkd = emphasise(own_nkd, self._weights(plan))
            states.append(combine(own_nkd, [len(window) for window in plan.windows], self.method))
        return states

    def _weights(self, plan: PromptPlan) -> Tensor:
        """(n, k) weights, one at BOS, EOS and padding."""
        weights_nk = torch.ones(len(plan.windows), self.text.window_tokens)
        for row, window in zip(weights_nk, plan.windows, strict=True):
            row[1 : 1 + len(window)] = torch.tensor(window.weights)
        return weights_nk
