"""Train the text encoder on the facts of texts before the denoiser: relations, positions and counts.

In: windows of texts and the facts of each. Out: a text encoder. One layer of attention, as in a denoiser, can predict the
facts from its hidden states, and its last hidden states (the end token and the padding after it) summarise them. Images
give only a weak signal for facts: given the whole text, most of a plan's cells stay undecided, and after 50,000 images
neither a denoiser nor a predictor of coarse colours had learned a single position (decision 0009).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loraloom.utils.rng import derive_seed
from recipes.mini.fitting import Fit, Job, fit
from recipes.mini.layout import TEXT_WIDTH

BATCH = 64
HELD_OUT = 40
"""One of this number of windows is held out for measurement."""
MEASURED = 256
"""Number of held-out windows of each world for the measurement."""

Fact = tuple[str, str, str]
"""Subject, relation, object."""
Lesson = Sequence[tuple[list[int], Sequence[Fact]]]
"""Windows of 77 token ids, and the facts of each."""


class Quiz(nn.Module):
    """Predicts the subjects of all (relation, object) pairs from a window's hidden states, and from its last one alone.

    Attributes:
        questions: (relation, object) pairs, sorted.
        subjects: Possible answers.
    """

    def __init__(self, said: Sequence[Sequence[Fact]], width: int = TEXT_WIDTH) -> None:
        """`said`: The facts of each window."""
        super().__init__()
        facts = {fact for each in said for fact in each}
        self.questions = sorted({(relation, thing) for _, relation, thing in facts})
        self.subjects = sorted({subject for subject, _, _ in facts})
        self._words = sorted({word for question in self.questions for word in question})
        self.words = nn.Parameter(torch.randn(len(self._words), width) * 0.5)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        answer = nn.Linear(2 * width, len(self.subjects))
        self.answers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), answer)
        self.summary = nn.Linear(width, len(self.questions) * len(self.subjects))
        # Most possible facts are not stated: with this initial bias the first steps do not have to learn it.
        share = min(0.5, sum(map(len, said)) / len(said) / len(self.questions) / len(self.subjects))
        for layer in (self.summary, answer):
            nn.init.constant_(layer.bias, math.log(share / (1 - share)))

    def sum_up(self, hidden_bd: Tensor) -> Tensor:
        """One hidden state of each window to logits (b, questions, subjects)."""
        return self.summary(hidden_bd).unflatten(1, (len(self.questions), len(self.subjects)))

    def forward(self, hidden_bkd: Tensor) -> Tensor:
        """Hidden states of windows to logits (b, questions, subjects)."""
        pairs = torch.tensor([[self._words.index(word) for word in question] for question in self.questions])
        questions_qd = self.words[pairs.to(self.words.device)].sum(1)
        questions_bqd = questions_qd.expand(len(hidden_bkd), -1, -1)
        told_bqd, _ = self.attention(questions_bqd, hidden_bkd, hidden_bkd, need_weights=False)
        return self.answers(self.norm(questions_bqd + told_bqd))

    def truth(self, facts: Sequence[Sequence[Fact]]) -> Tensor:
        """(b, questions, subjects) bool: the correct answers for windows with these facts."""
        truth = torch.zeros(len(facts), len(self.questions), len(self.subjects), dtype=torch.bool)
        for answers, said in zip(truth, facts, strict=True):
            for subject, relation, thing in said:
                answers[self.questions.index((relation, thing)), self.subjects.index(subject)] = True
        return truth

    def loss(self, logits_bqs: Tensor, truth_bqs: Tensor) -> Tensor:
        """Cross-entropy of each stated fact, as a mean over relations: a rare relation has the weight of a frequent one."""
        errors_bqs = F.binary_cross_entropy_with_logits(logits_bqs, truth_bqs.float(), reduction="none")
        relations = [len(list(group)) for _, group in groupby(self.questions, key=lambda question: question[0])]
        losses = [
            part.sum() / said.sum()
            for part, said in zip(errors_bqs.split(relations, 1), truth_bqs.split(relations, 1), strict=True)
            if said.any()
        ]
        return torch.stack(losses).mean()


def fit_reading(text_encoder: Any, lessons: Mapping[str, Lesson], steps: int, job: Job) -> bool:
    """Train, or continue training; returns whether all steps are done.

    Args:
        text_encoder: A CLIPTextModel, trained in place.
        lessons: Windows and facts by world; a step has the same number of windows of each world.
        steps: Number of optimizer steps.
        job: State file and device. Its log has the loss and, for held-out windows of each world, `recall`: the share of
            facts that are predicted; `precision`: the share of predictions that are true; `summed_up`: the share predicted
            from the last hidden state.
    """
    torch.manual_seed(derive_seed("reading", "start"))  # for the layers that are discarded
    quiz = Quiz([facts for lesson in lessons.values() for _, facts in lesson])
    both = nn.ModuleDict({"text": text_encoder, "quiz": quiz}).to(job.device).train()
    end = text_encoder.config.eos_token_id
    learned = {world: np.array([n for n in range(len(lesson)) if n % HELD_OUT]) for world, lesson in lessons.items()}
    held_out = {world: lesson[::HELD_OUT][:MEASURED] for world, lesson in lessons.items()}

    def ask(given: Lesson, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        # All tokens from a window's end token on can summarise it; in a full window only the end token.
        places = [int(rng.integers(window.index(end), len(window))) for window, _ in given]
        hidden_bkd = text_encoder(torch.tensor([window for window, _ in given], device=job.device)).last_hidden_state
        right_bqs = quiz.truth([facts for _, facts in given]).to(job.device)
        return quiz(hidden_bkd), quiz.sum_up(hidden_bkd[range(len(given)), places]), right_bqs

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        numbers: dict[str, float] = {}
        rng = np.random.default_rng(derive_seed("reading", step))
        if step % 50 == 49:
            for world, given in held_out.items():
                with torch.no_grad():
                    answers, summary, right = ask(given, rng)
                found = answers > 0
                numbers[f"{world} recall"] = float((found & right).sum() / right.sum())
                numbers[f"{world} precision"] = float((found & right).sum() / found.sum().clamp(min=1))
                numbers[f"{world} summed_up"] = float(((summary > 0) & right).sum() / right.sum())
        share = BATCH // len(lessons)
        given = [lesson[n] for world, lesson in lessons.items() for n in rng.choice(learned[world], share)]
        answers, summary, right = ask(given, rng)
        return quiz.loss(answers, right) + quiz.loss(summary, right), numbers

    return fit(both, loss, Fit(steps, 2e-3, muon=True), job)
