"""Sentences met: what the domain's verifier reads in the pixels, sentence by sentence of the prompt.

`sentences_met` is the share of sentences that an image meets, a mean over images; `sentences_unsure` of those that the image
does not let one tell; `complete` the share of images that meet every sentence; `extras` what an image shows that nobody
asked for. Images without a prompt, and prompts that ask for nothing, are not counted.
"""

from collections.abc import Sequence
from dataclasses import replace

from loraloom.extensions.metrics._figures import NO_PROMPTS, mean_figure, nothing
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, Sample, TowerKind
from loraloom.utils.errors import UserError

_FIGURES = (
    ("sentences_met", "sentences met", 1),
    ("sentences_unsure", "sentences unsure", -1),
    ("complete", "every sentence met", 1),
    ("extras", "things not asked for", -1),
)


class SentencesState(Rows):
    """Four numbers an image."""

    def __init__(self, setup: MetricSetup) -> None:
        super().__init__()
        self._setup = setup
        self._known: dict[str, list[float]] = setup.shared.setdefault("receipts", {})

    def update(self, samples: Sequence[Sample]) -> None:
        """Verify generated images with a prompt."""
        for sample in samples:
            if sample.role == "generated" and sample.prompt:
                row = self._row(sample)
                self.add("generated" if row else "not verified", sample.id, row, sample.group)

    def _row(self, sample: Sample) -> list[float]:
        """Four numbers; none where the domain cannot read the prompt, or it asks for nothing."""
        if sample.id not in self._known:
            assert self._setup.verifier is not None and sample.open is not None
            try:
                receipt = self._setup.verifier.verify(sample.open(), self._setup.asked(sample.prompt))
            except UserError:
                self._known[sample.id] = []
                return []
            count = len(receipt.verdicts)
            row = [receipt.share_met, receipt.count(None) / max(count, 1), receipt.complete, len(receipt.extras)]
            self._known[sample.id] = [float(value) for value in row] if count else []
        return self._known[sample.id]

    def compute(self) -> list[Figure]:
        """The four means."""
        ids, lost = self.ids("generated"), self.count("not verified")
        if not ids and not lost:
            return []
        if not ids:
            why = f"sentences met says nothing: the domain reads no sentence in any of the {lost:,} prompts"
            name, label, better = _FIGURES[0]
            return [nothing(name, label, why, (0, 0), better=better)]
        rows, groups = self.matrix("generated"), self.group_list("generated")
        figures = [
            mean_figure(name, label, rows[:, column], ids, groups, self._setup.seed, better=better)
            for column, (name, label, better) in enumerate(_FIGURES)
        ]
        if lost:
            note = f"{lost:,} of {lost + len(ids):,} images are not verified: the domain reads no sentence in their prompts"
            figures[0] = replace(figures[0], note=note)
        return figures


class SentencesMet:
    """The metric `sentences_met`."""

    name = "sentences_met"
    roles: tuple[Role, ...] = ("generated",)
    tower: TowerKind = ""

    def missing(self, there: Available) -> str | None:
        """Prompts, and a domain that verifies."""
        if not there.verifies:
            return "the domain does not verify images: --domain names one that does"
        return None if there.prompts else NO_PROMPTS

    def start(self, setup: MetricSetup) -> SentencesState:
        """An empty state."""
        return SentencesState(setup)


METRIC: EvaluationMetric = SentencesMet()
CONTRACT = MetricContract(figures=tuple(name for name, _, _ in _FIGURES))
