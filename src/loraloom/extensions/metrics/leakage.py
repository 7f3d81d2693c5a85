"""Trigger leakage: how much of what the adapter learned appears without the trigger word.

With s(...) the mean CLIP cosine to the references: the adapter's gain with the trigger is s(on) - s(off), without the trigger
s(on, no trigger) - s(off, no trigger). `leakage` is the second gain, `leakage_share` the second over the first: 0 is an
adapter that acts when it is called, 1 one that acts always. The share says nothing where the adapter gains nothing.
"""

from loraloom.extensions.metrics._distances import bootstrap, mean_cosines
from loraloom.extensions.metrics._figures import NO_ADAPTER, NO_REFERENCES, mean_figure, nothing
from loraloom.extensions.metrics._pairs import PairState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, TowerKind

_PAIRED: tuple[Role, ...] = ("generated", "base", "no_trigger", "no_trigger_base")


class LeakageState(PairState):
    """Embeddings of the four images of each request, and of the references."""

    def compute(self) -> list[Figure]:
        """Both figures."""
        pairs = sorted(set(self.both("no_trigger", "no_trigger_base")) & set(self.both("generated", "base")))
        if not pairs or not self.count("reference"):
            return []
        real = self.matrix("reference")
        with_on, with_off, without_on, without_off = (
            mean_cosines(self.unit_rows(role, pairs), real) for role in _PAIRED
        )
        gains, leaks = with_on - with_off, without_on - without_off
        groups = [self.groups["generated"][pair] for pair in pairs]
        seed, references = self.setup.seed, len(real)
        label = "leakage without the trigger"
        leak = mean_figure("leakage", label, leaks, pairs, groups, seed, better=-1, references=references)
        label = "leakage, share of the gain"
        interval = bootstrap(gains, groups, seed)
        if interval is None or interval[0] <= 0:
            why = (
                "the share that leaks says nothing: with the trigger the adapter is not surely nearer to the references"
            )
            return [leak, nothing("leakage_share", label, why, (len(pairs), references), better=-1)]
        share = float(leaks.mean() / gains.mean())
        figure = Figure(
            name="leakage_share", label=label, better=-1, value=share, count=len(pairs), references=references
        )
        return [leak, figure]


class Leakage:
    """The metric `leakage`."""

    name = "leakage"
    roles: tuple[Role, ...] = ("generated", "base", "no_trigger", "no_trigger_base", "reference")
    tower: TowerKind = "clip"

    def missing(self, there: Available) -> str | None:
        """A run with a trigger word, and references."""
        if not there.counts.get("base"):
            return NO_ADAPTER
        if not there.counts.get("no_trigger"):
            return "the run has no trigger word: `loraloom prepare --trigger WORD` gives it one"
        return None if there.counts.get("reference") else NO_REFERENCES

    def start(self, setup: MetricSetup) -> LeakageState:
        """An empty state."""
        return LeakageState(setup, _PAIRED, ("reference",))


METRIC: EvaluationMetric = Leakage()
CONTRACT = MetricContract(figures=("leakage", "leakage_share"))
