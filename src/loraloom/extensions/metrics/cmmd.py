"""CMMD: squared MMD with a Gaussian kernel between the generated images and the references, times 1,000; two estimators.

Jayasumana et al. 2024: normalised CLIP embeddings, sigma 10, the whole image resized without a crop. `cmmd` is the
unbiased estimate and is what to read. `cmmd_biased` is the published code's: it counts each image with itself, which
alone adds about 0.1 at 50 images. Only with OpenAI's ViT-L/14 at 336 pixels is it the paper's number.
"""

from functools import partial

from loraloom.extensions.metrics._distances import cmmd, half_sample_sd
from loraloom.extensions.metrics._figures import set_figure
from loraloom.extensions.metrics._sets import SetMetric, SetState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import EvaluationMetric, Figure, MetricSetup


class CmmdState(SetState):
    """Embeddings of both sets."""

    def compute(self) -> list[Figure]:
        """Both estimates; they have the same deviation."""
        if min(self.counts) < 2:
            return []
        x, y = self.matrix("generated"), self.matrix("reference")
        groups = self.group_list("generated"), self.group_list("reference")
        sd = half_sample_sd(partial(cmmd, unbiased=True), x, y, groups, self.setup.seed)
        return [
            set_figure("cmmd", "CMMD", cmmd(x, y, unbiased=True), sd, self.counts),
            set_figure("cmmd_biased", "CMMD biased, as published", cmmd(x, y), sd, self.counts),
        ]


class Cmmd(SetMetric):
    """The metric `cmmd`."""

    name = "cmmd"

    def start(self, setup: MetricSetup) -> CmmdState:
        """An empty state."""
        return CmmdState(setup, "squash")


METRIC: EvaluationMetric = Cmmd()
CONTRACT = MetricContract(figures=("cmmd", "cmmd_biased"))
