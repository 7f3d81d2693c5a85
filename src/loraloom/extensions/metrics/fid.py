"""FID: Frechet distance between the generated images and the references, in the feature space of the extractor.

Heusel et al. 2017. The feature space is that of the extractor (clean-fid calls it CLIP-FID), so the number cannot be
compared with one of Inception features. FID depends on the number of images: two sets of one distribution are 43 apart at
50 images, 4.3 at 500 and 1.1 at 2,000, where 0 is true (`benchmarks/metrics.py`). Below 2,000 images of either set no
number is given; `kid` and `cmmd` are.
"""

from loraloom.extensions.metrics._distances import frechet_distance, half_sample_sd
from loraloom.extensions.metrics._figures import nothing, set_figure
from loraloom.extensions.metrics._sets import SetMetric, SetState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import EvaluationMetric, Figure, MetricSetup

LEAST = 2000


class FidState(SetState):
    """Embeddings of both sets."""

    def compute(self) -> list[Figure]:
        """The distance, or why it says nothing."""
        count = min(self.counts)
        if not count:
            return []
        if count < LEAST:
            why = f"FID of {count:,} images says nothing: it needs {LEAST:,} of each set"
            return [nothing("fid", "FID", why, self.counts, better=-1)]
        x, y = self.matrix("generated"), self.matrix("reference")
        groups = self.group_list("generated"), self.group_list("reference")
        sd = half_sample_sd(frechet_distance, x, y, groups, self.setup.seed)
        return [set_figure("fid", "FID", frechet_distance(x, y), sd, self.counts)]


class Fid(SetMetric):
    """The metric `fid`."""

    name = "fid"

    def start(self, setup: MetricSetup) -> FidState:
        """An empty state."""
        return FidState(setup)


METRIC: EvaluationMetric = Fid()
CONTRACT = MetricContract(figures=("fid",))
