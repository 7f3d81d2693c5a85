"""The figures, on images whose answer is known: scenes that are rendered in the styles stand for what LoRAs generate."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.scenes.rendering import synthesize
from loraloom.protocols.evaluation import MetricSetup, Sample
from recipes.styles.compare import BASE, Compared, Row, choose_prompts, rows_of
from recipes.styles.figures import Cell, Estimate, Matrix, Prompted, estimate, findings, likeness
from recipes.styles.settings import CompareConfig

STYLES = {"anime": "anime", "watercolor": "watercolour"}
NUM_PROMPTS, NUM_REFERENCES = 8, 12


def sample(id_: str, image: Image.Image, prompt: str = "", *, real: bool = False) -> Sample:
    return Sample(role="reference" if real else "generated", id=id_, open=lambda: image, prompt=prompt, real=real)


def rendered(seed: int, styles: Sequence[str]) -> Image.Image:
    """A scene as the base, one style or a blend of two would show it."""
    if not styles:
        return synthesize(seed, "flat").image
    images = [synthesize(seed, STYLES[name]).image for name in styles]
    return images[0] if len(images) == 1 else Image.blend(images[0], images[1], 0.4)


@pytest.fixture(scope="module")
def compared() -> Compared:
    """Rows whose images are what their names say."""
    rows = rows_of(list(STYLES), CompareConfig())
    samples = {
        row.name: [sample(f"{row.folder}/{n}", rendered(n, row.styles), f"prompt {n}") for n in range(NUM_PROMPTS)]
        for row in rows
    }
    prompts = tuple(f"prompt {n}" for n in range(NUM_PROMPTS))
    return Compared(rows=tuple(rows), samples=samples, prompts=prompts, triggers=dict.fromkeys(STYLES, "x"))


@pytest.fixture(scope="module")
def sets() -> dict[str, tuple[list[Sample], list[Sample]]]:
    """Other scenes in each style, as training images and as held-out images."""
    made: dict[str, tuple[list[Sample], list[Sample]]] = {}
    for name in STYLES:
        images = [sample(f"{name}/{n}", rendered(n, [name]), real=True) for n in range(100, 100 + NUM_REFERENCES + 4)]
        held = [Sample(role="generated", id=one.id, open=one.open, real=True) for one in images[NUM_REFERENCES:]]
        made[name] = (images[:NUM_REFERENCES], held)
    return made


@pytest.fixture(scope="module")
def shared() -> dict[str, object]:
    return {}


def matrix_of(
    compared: Compared, sets: dict[str, tuple[list[Sample], list[Sample]]], shared: dict[str, object]
) -> Matrix:
    return likeness("texture", compared, sets, MetricSetup(shared=shared), 16, lambda title: lambda done, total: None)


def test_images_in_a_style_rise_to_that_style_and_not_to_the_other(
    compared: Compared, sets: dict[str, tuple[list[Sample], list[Sample]]], shared: dict[str, object]
) -> None:
    matrix = matrix_of(compared, sets, shared)
    assert list(matrix.rows) == [
        "base", "anime", "watercolor", "anime:0.6 + watercolor:0.4", "real, held out: anime", "real, held out: watercolor"
    ]  # fmt: skip
    found = findings(compared, [matrix], {})
    assert [one.shown for one in found if one.kind == "style"] == [True, True]
    assert all(cell.rise is None for cell in matrix.rows[BASE].values())


def test_images_that_stay_as_the_base_show_nothing(
    compared: Compared, sets: dict[str, tuple[list[Sample], list[Sample]]], shared: dict[str, object]
) -> None:
    """The check can fail: LoRAs that do nothing, and LoRAs that are exchanged."""
    base, anime, watercolor = (compared.samples[name] for name in (BASE, "anime", "watercolor"))
    for one, other in ((base, base), (watercolor, anime)):
        samples: Mapping[str, Sequence[Sample]] = {**compared.samples, "anime": one, "watercolor": other}
        wrong = Compared(rows=compared.rows, samples=samples, prompts=compared.prompts, triggers=compared.triggers)
        found = findings(wrong, [matrix_of(wrong, sets, shared)], {})
        assert not any(one.shown for one in found if one.kind == "style")


@pytest.mark.parametrize(("likeness_of_blend", "shown"), [(0.3, True), (0.55, False), (0.05, False)])
def test_a_blend_must_lie_between_its_styles_to_be_shown(likeness_of_blend: float, shown: bool) -> None:
    rows = rows_of(["a", "b"], CompareConfig())
    blend = rows[-1].name
    values = {BASE: (0.2, 0.2), "a": (0.5, 0.1), "b": (0.1, 0.5), blend: (likeness_of_blend, 0.2)}
    cells = {
        name: {
            style: Cell(likeness=Estimate(value=value, low=None, high=None))
            for style, value in zip("ab", pair, strict=True)
        }
        for name, pair in values.items()
    }
    matrix = Matrix(metric="texture", columns=("a", "b"), rows=cells, margins={})
    compared = Compared(rows=tuple(rows), samples={}, prompts=("x",), triggers={})
    assert [one.shown for one in findings(compared, [matrix], {})] == [shown]


def test_rows_are_the_base_each_style_and_each_pair_once() -> None:
    def names(*styles: str) -> list[str]:
        return [row.name for row in rows_of(styles, CompareConfig())]

    assert names("a") == ["base", "a"]
    assert names("a", "b") == ["base", "a", "b", "a:0.6 + b:0.4"]
    assert names("a", "b", "c")[4:] == ["a:0.6 + b:0.4", "b:0.6 + c:0.4", "c:0.6 + a:0.4"]
    folders = [row.folder for row in rows_of(["a", "b", "c"], CompareConfig())]
    assert len(set(folders)) == len(folders)
    assert not any(set(folder) & set('<>:"/\\|?* ') for folder in folders)


def test_an_interval_holds_the_mean_and_is_not_given_for_few_prompts() -> None:
    values = np.random.default_rng(0).normal(1, 0.1, 40)
    some = estimate(values, [str(n // 4) for n in range(40)])
    assert some.low is not None and some.high is not None and some.low < values.mean() < some.high
    assert some.value == pytest.approx(values.mean())
    few = estimate(values[:6], ["a", "a", "b", "b", "c", "c"])
    assert few.low is None and few.high is None


def test_a_row_that_loses_what_the_prompt_asks_for_is_named() -> None:
    def scores(own: float, wrong: float) -> Prompted:
        return Prompted(
            **{
                name: estimate(np.full(4, value), list("abcd"))
                for name, value in (("own", own), ("wrong", wrong), ("lead", own - wrong))
            }
        )

    rows = (Row(name=BASE, styles=(), loras=""), *(Row(name=name, styles=(name,), loras=f"{name}:1") for name in "xy"))
    compared = Compared(rows=rows, samples={}, prompts=("a", "b"), triggers={})
    found = findings(compared, [], {BASE: scores(30, 20), "x": scores(29, 20), "y": scores(23, 20)})
    assert [one.shown for one in found] == [True, False]
    assert "90% is kept" in found[0].text


def test_given_prompts_are_used_as_they_are() -> None:
    assert choose_prompts({}, {}, CompareConfig(prompts=("b", "a"))) == ("b", "a")
