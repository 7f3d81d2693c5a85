"""The one prompt encoder: training, samples, generation and the check of exports all read prompts through it.

In: texts. Out: for each text the named tensors of the family; `DiffusionModel.condition` makes the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from loraloom.config.run import PromptMethod
from loraloom.prompts.windows import PromptPlan, plan_prompt
from loraloom.protocols.domain import Domain
from loraloom.protocols.model import Prompt, Tensors, TextModel, Window
from loraloom.utils.atomic_files import sha256_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEncoder:
    """The text encoders of a model with a method for prompts longer than its window.

    Attributes:
        text: Tokenizers and encoders.
        domain: Knows sections and sentences.
        method: What becomes of prompts longer than one window.
        max_windows: Limit of one prompt's windows.
    """

    text: TextModel
    domain: Domain
    method: PromptMethod = "attention"
    max_windows: int = 8

    def plan(self, prompt: str, *, weighting: bool = False) -> PromptPlan:
        """How the prompt is cut; needs no weights.

        Where the number of windows is fixed they hold the beginning, and `lost` is what no encoder reads.
        """
        text, limit = self.text, self.text.max_windows
        if limit is None:
            return self._cut(prompt, self.method, self.max_windows, weighting)
        if self.method in {"truncate", "smart"}:
            return self._cut(prompt, self.method, min(limit, self.max_windows), weighting)
        if limit == 1:
            cut = self._cut(prompt, "truncate", 1, weighting)
        else:
            whole = self._cut(prompt, "attention", 1 << 30, weighting)
            left = tuple(window.text for window in whole.windows[limit:])
            cut = replace(whole, windows=whole.windows[:limit], lost=left)
        lost = text.unread(_prompt(cut, "attention")) if cut.lost else ()
        return replace(cut, lost=lost, lost_tokens=sum(len(text.tokenizer.tokenize(part)) for part in lost))

    def _cut(self, prompt: str, method: PromptMethod, most: int, weighting: bool) -> PromptPlan:
        return plan_prompt(prompt, self.text.tokenizer, self.domain, method, max_windows=most, weighting=weighting)

    def cache_key(self, prompt: str, *, weighting: bool = False, dtype: torch.dtype = torch.float32) -> str:
        """sha256 over everything that decides the embeddings: text, weights, windows, method, tokenizers and encoder weights.

        The windows of the other tokenizers follow from the text and their fingerprint.
        """
        plan = self.plan(prompt, weighting=weighting)
        windows = [(window.ids, window.weights) for window in plan.windows]
        method = self.method if len(windows) > 1 else "-"
        return sha256_bytes(f"{plan.spans}\n{windows}\n{method}\n{self.text.fingerprint}\n{dtype}".encode())

    def encode(self, prompts: Sequence[str], *, weighting: bool = False) -> list[Tensors]:
        """The tensors of each prompt, without a batch axis.

        Raises:
            UserError: A prompt needs more than `max_windows` windows.
        """
        return self.encode_plans([self.plan(prompt, weighting=weighting) for prompt in prompts])

    def encode_plans(self, plans: Sequence[PromptPlan]) -> list[Tensors]:
        """The tensors of prompts that are cut already, as `encode` gives them."""
        return self.text.encode([_prompt(plan, self.method) for plan in plans])


def _prompt(plan: PromptPlan, method: PromptMethod) -> Prompt:
    windows = tuple(Window(window.ids, window.weights) for window in plan.windows)
    return Prompt(text=plan.text, spans=plan.spans, windows=windows, num_tokens=plan.num_tokens, method=method)
