"""CLIP score: how well an image fits its prompt, by cosine similarity of CLIP's embeddings.

`clip_score` is 100 max(cos, 0) (Hessel et al. 2021; torchmetrics' CLIPScore), `clip_cosine` the cosine itself. A prompt
that is longer than CLIP's window is cut at sentence borders; its score is the mean over the windows. Scores of two
CLIPs cannot be compared.
"""

from collections.abc import Sequence

import numpy as np

from loraloom.extensions.metrics._figures import NO_PROMPTS, mean_figure
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, Sample, TowerKind


class ClipScoreState(Rows):
    """One row a sample: the mean of max(cos, 0) over the prompt's windows, and of cos."""

    def __init__(self, setup: MetricSetup) -> None:
        super().__init__()
        self._setup = setup

    def update(self, samples: Sequence[Sample]) -> None:
        """Count generated images that have a prompt."""
        from loraloom.extensions.metrics._towers import clip_tower_of

        own = [sample for sample in samples if sample.role == "generated" and sample.prompt]
        tower = clip_tower_of(self._setup) if own else None
        for sample, image in zip(own, tower.images(own) if tower else [], strict=True):
            assert tower is not None
            texts = tower.texts(sample.prompt, self._setup.sections(sample.prompt))
            cosines = clip_cosines(image, texts)
            self.add("generated", sample.id, [cosines.clip(min=0).mean(), cosines.mean()], sample.group)

    def compute(self) -> list[Figure]:
        """Both figures."""
        rows, ids, groups, seed = (
            self.matrix("generated"),
            self.ids("generated"),
            self.group_list("generated"),
            self._setup.seed,
        )
        if not ids:
            return []
        return [
            mean_figure("clip_score", "CLIP score", 100 * rows[:, 0], ids, groups, seed, better=1),
            mean_figure("clip_cosine", "CLIP cosine", rows[:, 1], ids, groups, seed, better=1),
        ]


def clip_cosines(image: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """(windows,) cosine of one image embedding (d,) with unit text vectors (windows, d)."""
    return texts @ (image / max(float(np.linalg.norm(image)), 1e-12))


class ClipScore:
    """The metric `clip_score`."""

    name = "clip_score"
    roles: tuple[Role, ...] = ("generated",)
    tower: TowerKind = "clip"

    def missing(self, there: Available) -> str | None:
        """Prompts."""
        return None if there.prompts else NO_PROMPTS

    def start(self, setup: MetricSetup) -> ClipScoreState:
        """An empty state."""
        return ClipScoreState(setup)


METRIC: EvaluationMetric = ClipScore()
CONTRACT = MetricContract(figures=("clip_score", "clip_cosine"))
