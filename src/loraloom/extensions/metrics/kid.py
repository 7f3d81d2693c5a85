"""KID: squared MMD with a cubic kernel between the generated images and the references; unbiased, so it works with few.

Binkowski et al. 2018. All images up to 1,000 a set are used at once; beyond that the value is the mean over 100 subsets of
1,000, as in clean-fid. The deviation is that of random halves. Around 0 the sets cannot be distinguished; values below 0
are sampling noise.
"""

from loraloom.extensions.metrics._distances import half_sample_sd, kid, polynomial_mmd
from loraloom.extensions.metrics._figures import set_figure
from loraloom.extensions.metrics._sets import SetMetric, SetState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import EvaluationMetric, Figure, MetricSetup


class KidState(SetState):
    """Embeddings of both sets."""

    def compute(self) -> list[Figure]:
        """The distance with its deviation."""
        if min(self.counts) < 2:
            return []
        x, y = self.matrix("generated"), self.matrix("reference")
        groups = self.group_list("generated"), self.group_list("reference")
        sd = half_sample_sd(polynomial_mmd, x, y, groups, self.setup.seed)
        return [set_figure("kid", "KID", kid(x, y, self.setup.seed), sd, self.counts)]


class Kid(SetMetric):
    """The metric `kid`."""

    name = "kid"

    def start(self, setup: MetricSetup) -> KidState:
        """An empty state."""
        return KidState(setup)


METRIC: EvaluationMetric = Kid()
CONTRACT = MetricContract(figures=("kid",))
