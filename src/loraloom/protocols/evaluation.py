"""What scoring passes between the room `evaluate` and the metrics: samples, figures, and who computes them.

In: samples, each an image, or numbers of one forward pass, in a role. Out: figures, each with its count and interval. A
metric's state is a mergeable accumulator: states that saw different samples merge to the state that saw all of them.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from loraloom.protocols.domain import Section, Verifier

if TYPE_CHECKING:  # a verb's --help must not pay for numpy
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Role = Literal[
    "generated", "base", "reference", "held_out", "no_trigger", "no_trigger_base", "drift", "drift_base", "probe"
]
"""What a sample is, see `ROLE_NAMES`:

    generated        scored images
    base             the same requests with the adapter off
    reference        real images that the model was trained on, or is to resemble
    held_out         real images that were never trained on
    no_trigger       the requests of `generated` without the trigger word
    no_trigger_base  the same with the adapter off
    drift            prompts that have nothing to do with the training set
    drift_base       the same with the adapter off
    probe            no image: the denoiser's answers to one caption on pure noise, with the adapter on and off
"""


ROLE_NAMES: Mapping[str, str] = {
    "generated": "scored",
    "base": "adapter off",
    "reference": "references",
    "held_out": "real, held out",
    "no_trigger": "without the trigger",
    "no_trigger_base": "without the trigger, adapter off",
    "drift": "unrelated prompts",
    "drift_base": "unrelated prompts, adapter off",
    "probe": "probes",
}
"""What people are shown."""

TowerKind = Literal["", "clip", "vision"]
"""The extractor that a metric needs: none, one that compares images with texts, or one for images alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image, or one probe of the denoiser.

    Attributes:
        role: See `Role`. Another set is scored in the same way when its samples are given the role `generated`.
        id: Unique among all samples of an evaluation, whatever their role; stays when the role changes.
        open: Reads the image, RGB. Called when somebody asks for its pixels.
        prompt: What the image was generated from, or its caption; empty where nobody knows.
        seed: Seed of a generated image; None where nobody knows.
        pair: What the images of two roles have in common that belong together: the same prompt and seed.
        numbers: Numbers of a probe.
        real: Whether nobody generated it; stays when the role changes.
        held_out: Whether the caption of a probe was never trained on.
    """

    role: Role
    id: str
    open: "Callable[[], Image.Image] | None" = None
    prompt: str = ""
    seed: int | None = None
    pair: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    real: bool = False
    held_out: bool = False

    @property
    def group(self) -> str:
        """Samples of one group are not independent: generated images of one prompt. Real images are each their own."""
        return self.id if self.real or not self.prompt else self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number about many samples.

    Attributes:
        name: Key in `scores.json`, unique over all metrics.
        label: For people.
        better: 1 higher is better, -1 lower, 0 neither.
        value: None where `says_nothing`.
        low, high: 95 % interval; None where too few samples say.
        sd: Standard deviation of the value, as an estimate.
        count, references: Samples that were scored, and those that they were compared with.
        says_nothing: Why the number would mislead, as a sentence for the user; empty where it does not.
        note: What was not counted and why, as a sentence for the user; empty where all was.
        values: The number of each sample by id, where the figure is a mean.
        nearest: For each sample by id the id of the reference that it is most like.
    """

    name: str
    label: str
    better: int
    value: float | None
    count: int
    references: int = 0
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    says_nothing: str = ""
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    nearest: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """What there is to score.

    Attributes:
        counts: Samples by role.
        prompts: Samples of the role `generated` whose prompt is known.
        most_seeds: Most generated images of one prompt.
        verifies: Whether the domain verifies images.
    """

    counts: Mapping[str, int]
    prompts: int
    most_seeds: int
    verifies: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSetup:
    """What a metric is given to work with.

    Attributes:
        tower: Folder of the extractor: config, weights, preprocessing; None for a metric without one.
        device: Where it runs.
        seed: Decides subsets and resampling.
        sections: Cuts a prompt at its natural borders (`Domain.sections`).
        verifier: The domain's, where it has one.
        asked: The prompt as the verifier reads it: without the trigger word, which is no text of the domain.
        options: Values of the metric's own settings by key.
        shared: What all metrics of one evaluation share: opened extractors and what they computed.
    """

    tower: Path | None = None
    device: str = "cpu"
    seed: int = 0
    sections: Callable[[str], Sequence[Section]] = lambda text: [Section("", (text,))]
    verifier: Verifier | None = None
    asked: Callable[[str], str] = lambda prompt: prompt
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shared: dict[str, Any] = field(default_factory=dict[str, Any])


class MetricState(Protocol):
    """A mergeable accumulator. The order of samples, and how they are shared out, change nothing but the last bits."""

    def update(self, samples: Sequence[Sample]) -> None:
        """Count samples; those of roles that the metric does not read are passed over."""

    def merge_state(self, others: "Sequence[MetricState]") -> None:
        """Count what other states of the same metric have counted."""

    def compute(self) -> Sequence[Figure]:
        """The figures of all that was counted."""

    def state_dict(self) -> "dict[str, NDArray[np.generic]]":
        """All that was counted, as plain arrays: numbers and texts."""

    def load_state_dict(self, state: "Mapping[str, NDArray[np.generic]]") -> None:
        """Become the state that gave this; what was counted before is forgotten."""


class EvaluationMetric(Protocol):
    """A number, or a few, about many images. A module exports one as `METRIC`, and its `MetricContract` as `CONTRACT`.

    One with options of its own has a class of them as `settings` (`protocols.settings`).
    """

    name: str
    roles: tuple[Role, ...]
    """What it reads. One that reads `generated` scores other sets in the same way: the anchors."""
    tower: TowerKind

    def missing(self, there: Available) -> str | None:
        """Why it cannot be computed from what there is, and what the user can do; None where it can."""

    def start(self, setup: MetricSetup) -> MetricState:
        """An empty state. The extractor is opened when the first sample needs it."""
