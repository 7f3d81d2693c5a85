"""What every metric promises, whoever wrote it: states merge, keep and compute alike however samples are shared out."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loraloom import plugins
from loraloom.config.describing import leaves
from loraloom.evaluate.extractors import resolve_extractor
from loraloom.evaluate.scoring import Score, as_json
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.domain import Receipt, Verdict
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, MetricState, Role, Sample
from loraloom.utils.untrusted import parse_json
from tests.support.images import drawn

METRICS = plugins.names("metrics")
every_metric = pytest.mark.parametrize("name", METRICS)
PROMPTS = ("a red house", "a blue car left of a tree", "a boat", "two dogs and a cat")
IMAGE_ROLES: tuple[Role, ...] = tuple(role for role in get_args(Role) if role != "probe")
SHARED: dict[str, Any] = {}
"""Extractor and embeddings of all tests of this file: an image is embedded once."""


class CountsColours:
    """A verifier that reads one sentence in every prompt; met where the image is more red than blue."""

    def verify(self, image: Image.Image, prompt: str) -> Receipt:
        red, _, blue = np.asarray(image).reshape(-1, 3).mean(0)
        return Receipt(verdicts=(Verdict(sentence=prompt, section="all", met=bool(red > blue), reason=""),))


def setup_of(metric: EvaluationMetric) -> MetricSetup:
    declared = getattr(metric, "settings", None)
    return MetricSetup(
        tower=resolve_extractor("builtin:mini", "--extractor").folder if metric.tower else None,
        verifier=CountsColours(),  # pyright: ignore[reportArgumentType]
        options={leaf.key: leaf.default for leaf in leaves(declared)} if declared else {},
        shared=SHARED,
    )


def samples_of(*, per_role: int = 8) -> list[Sample]:
    """Some of every role; pairs of roles have their place in common."""
    made = [
        Sample(
            role=role,
            id=f"{role}/{index:02d}",
            open=partial(drawn, 100 * IMAGE_ROLES.index(role) + index, 40, 32),
            prompt=PROMPTS[index % len(PROMPTS)],
            seed=index // len(PROMPTS),
            pair=f"{index:05d}",
        )
        for role in IMAGE_ROLES
        for index in range(per_role)
    ]
    for index in range(2 * per_role + 8):
        numbers = {"norm_on": 1.0 + index / 10, "norm_off": 1.0, "cosine_on": 0.1 + index / 100, "cosine_off": 0.1}
        held_out = index % 2 == 1
        made.append(Sample(role="probe", id=f"probe/{index}", prompt=f"p{index}", numbers=numbers, held_out=held_out))
    return made


SAMPLES = samples_of()


def state_of(metric: EvaluationMetric, samples: Sequence[Sample]) -> MetricState:
    state = metric.start(setup_of(metric))
    for start in range(0, len(samples), 16):
        state.update(samples[start : start + 16])
    return state


def computed(state: MetricState) -> list[Figure]:
    return list(state.compute())


@pytest.fixture(scope="module", autouse=True)
def embedded(request: pytest.FixtureRequest) -> None:
    """Every image in one pass, so that the tests below compare bits, not batches; for the metrics that run here."""
    called = (getattr(item, "callspec", None) for item in request.session.items)
    asked = {call.params.get("name") for call in called if call is not None}
    for name in sorted(asked.intersection(METRICS)):
        state_of(plugins.load("metrics", name), SAMPLES)


@every_metric
def test_it_is_named_as_its_file_and_says_what_it_reads(name: str) -> None:
    metric: EvaluationMetric = plugins.load("metrics", name)
    assert metric.name == name
    assert metric.roles
    assert set(metric.roles) <= set(get_args(Role))
    assert metric.tower in ("", "clip", "vision")


@every_metric
def test_its_figures_are_those_of_its_contract_and_no_other_metric_has_them(name: str) -> None:
    contract = plugins.load_contract("metrics", name)
    assert isinstance(contract, MetricContract)
    metric: EvaluationMetric = plugins.load("metrics", name)
    figures = computed(state_of(metric, SAMPLES))
    assert tuple(figure.name for figure in figures) == contract.figures
    for other in METRICS:
        assert other == name or not set(contract.figures) & set(plugins.load_contract("metrics", other).figures)


@every_metric
def test_a_figure_has_its_count_and_an_interval_around_the_value_or_says_why_it_says_nothing(name: str) -> None:
    for figure in computed(state_of(plugins.load("metrics", name), SAMPLES)):
        assert figure.label
        assert figure.better in (-1, 0, 1)
        assert (figure.value is None) == bool(figure.says_nothing)
        assert figure.count > 0
        if figure.value is not None:
            assert np.isfinite(figure.value)
        if figure.low is not None and figure.high is not None and figure.value is not None:
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9


@every_metric
@given(owners=st.lists(st.integers(0, 2), min_size=len(SAMPLES), max_size=len(SAMPLES)), order=st.randoms())
@settings(max_examples=8)
def test_merged_shards_give_the_bits_of_a_single_pass(name: str, owners: list[int], order: Any) -> None:
    """Three processes, any share of the samples each, any order: what one process would have computed."""
    metric: EvaluationMetric = plugins.load("metrics", name)
    shuffled = list(zip(SAMPLES, owners, strict=True))
    order.shuffle(shuffled)
    shards = [state_of(metric, [sample for sample, owner in shuffled if owner == rank]) for rank in range(3)]
    shards[1].merge_state([shards[2], shards[0]])
    assert computed(shards[1]) == computed(state_of(metric, SAMPLES))


@every_metric
def test_a_state_goes_through_plain_arrays_and_back(name: str) -> None:
    metric: EvaluationMetric = plugins.load("metrics", name)
    state = state_of(metric, SAMPLES)
    kept = state.state_dict()
    assert kept
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiuU" for array in kept.values())
    fresh = state_of(metric, SAMPLES[:3])
    fresh.load_state_dict(kept)
    assert computed(fresh) == computed(state)


@every_metric
def test_samples_that_come_twice_count_once(name: str) -> None:
    """A sampler over several processes pads the last batch with repeats."""
    metric: EvaluationMetric = plugins.load("metrics", name)
    assert computed(state_of(metric, [*SAMPLES, *SAMPLES[:5]])) == computed(state_of(metric, SAMPLES))


@every_metric
def test_roles_that_it_does_not_read_change_nothing(name: str) -> None:
    metric: EvaluationMetric = plugins.load("metrics", name)
    own = [sample for sample in SAMPLES if sample.role in metric.roles]
    assert computed(state_of(metric, own)) == computed(state_of(metric, SAMPLES))


@every_metric
def test_with_nothing_there_it_gives_a_reason_and_no_figure(name: str) -> None:
    metric: EvaluationMetric = plugins.load("metrics", name)
    reason = metric.missing(Available(counts={}, prompts=0, most_seeds=0, verifies=False))
    assert reason
    assert reason.strip() == reason
    assert not computed(metric.start(setup_of(metric)))


@every_metric
def test_with_everything_there_it_is_computed(name: str) -> None:
    metric: EvaluationMetric = plugins.load("metrics", name)
    counts = dict.fromkeys(get_args(Role), 8)
    assert metric.missing(Available(counts=counts, prompts=8, most_seeds=2, verifies=True)) is None


@every_metric
def test_its_state_is_not_that_of_another_metric(name: str) -> None:
    metric: EvaluationMetric = plugins.load("metrics", name)
    other: EvaluationMetric = plugins.load("metrics", "fid" if name != "fid" else "kid")
    with pytest.raises(TypeError, match="merges with its like only"):
        metric.start(setup_of(metric)).merge_state([other.start(setup_of(other))])


def test_loading_metrics_imports_no_heavy_library() -> None:
    """`evaluate --help` loads every metric for its settings."""
    program = (
        "import sys\nfrom loraloom import plugins\n"
        "[plugins.load('metrics', name) for name in plugins.names('metrics')]\n"
        "heavy = {'torch', 'scipy', 'transformers', 'diffusers'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_figure_is_plain_values() -> None:
    figures = [figure for name in METRICS for figure in computed(state_of(plugins.load("metrics", name), SAMPLES))]
    text = json.dumps(as_json([Score(metric="any", figure=figure) for figure in figures]), allow_nan=False)
    assert len(parse_json(text, "scores")) == len(figures)
