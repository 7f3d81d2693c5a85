"""What each method would lose of a set of captions, before anything is trained.

In: captions and a text encoder's tokenizer. Out: exact counts, windows, and the text that would not be read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from loraloom.config.run import PromptMethod
from loraloom.prompts.windows import PromptPlan, plan_prompt
from loraloom.protocols.domain import Domain
from loraloom.protocols.model import Tokenizer

METHODS: tuple[PromptMethod, ...] = get_args(PromptMethod)


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """One caption: its id, exact token count, number of windows, and the plan of every method."""

    id: str
    num_tokens: int
    plans: Mapping[PromptMethod, PromptPlan]

    @property
    def num_windows(self) -> int:
        """Windows that carry all of the caption."""
        return len(self.plans["attention"].windows)


def report_captions(captions: Iterable[tuple[str, str]], encoder: Tokenizer, domain: Domain) -> list[CaptionReport]:
    """Plan every caption (id, text) with every method; no limit of windows."""
    reports: list[CaptionReport] = []
    for id_, caption in captions:
        plans: dict[PromptMethod, PromptPlan] = {
            method: plan_prompt(caption, encoder, domain, method, max_windows=1 << 30) for method in METHODS
        }
        reports.append(CaptionReport(id_, plans["attention"].num_tokens, plans))
    return reports
