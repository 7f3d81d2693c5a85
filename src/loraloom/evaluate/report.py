"""One page about an evaluation: tables, plots and images side by side, in one file without scripts.

In: scores, samples, facts. Out: `report.html`. Plots are inline SVG made of numbers only; every text is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from loraloom.evaluate.scoring import ANCHORS, Score
from loraloom.protocols.evaluation import ROLE_NAMES, Figure, Role, Sample
from loraloom.utils.atomic_files import write_text
from loraloom.utils.html_pages import data_uri, render_page
from loraloom.utils.image_files import png_bytes

_TEMPLATE = Path(__file__).with_name("report.html")
MAX_ROWS = 12
"""Prompts whose images are shown."""
MAX_SUSPECTS = 4
"""Images that are shown beside the reference that they are nearest to."""
SIDE_PX = 224
_WIDTH, _ROW, _LEFT, _RIGHT = 640, 26, 130, 70
_BINS = 16
_BESIDE: tuple[Role, ...] = ("base", "no_trigger", "no_trigger_base")
"""Roles whose image of the same request is shown beside a scored one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page is about.

    Attributes:
        title: Heading.
        facts: Name and value, shown as a table.
        notes: Lines about what was not scored, or not as it was given.
        scores: All of them.
        samples: All of them; images are opened as they are shown.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    scores: Sequence[Score]
    samples: Sequence[Sample]


def write_report(path: Path, page: Page) -> None:
    """Write the page; it appears whole."""
    values: dict[str, object] = {
        "title": page.title,
        "facts": page.facts,
        "notes": page.notes,
        "anchors": [ROLE_NAMES[role] for role in ANCHORS],
        "rows": [_row(score) for score in page.scores],
        "plots": [plot for score in page.scores if (plot := _plot(score)) is not None],
        "prompts": _prompts(page.samples, page.scores),
        "suspects": _suspects(page.samples, page.scores),
    }
    write_text(path, render_page(_TEMPLATE, values))


def number(value: float | None) -> str:
    """A figure's number with four digits that count."""
    if value is None:
        return ""
    size = abs(value)
    if size >= 100:
        return f"{value:,.1f}"
    return f"{value:.2f}" if size >= 10 else f"{value:.4f}"


def shown_value(figure: Figure | None) -> str:
    """A figure as a table has it: the number, or nothing where there is none."""
    if figure is None:
        return ""
    return "says nothing" if figure.says_nothing else number(figure.value)


def shown_interval(figure: Figure) -> str:
    """The 95 % interval."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{number(figure.low)} .. {number(figure.high)}"


def _row(score: Score) -> dict[str, object]:
    figure = score.figure
    return {
        "label": figure.label,
        "name": figure.name,
        "value": shown_value(figure),
        "interval": shown_interval(figure),
        "why": figure.says_nothing or score.doubt,
        "anchors": [shown_value(score.anchors.get(role)) for role in ANCHORS],
        "better": {1: "higher", -1: "lower", 0: ""}[figure.better],
        "count": f"{figure.count:,}" + (f" with {figure.references:,}" if figure.references else ""),
        "extractor": score.extractor,
    }


def _plot(score: Score) -> dict[str, object] | None:
    """Value and interval of the scored images above those of the anchors; below, how the images' own values spread."""
    figure = score.figure
    named = [("scored", figure)] + [(ROLE_NAMES[role], one) for role, one in score.anchors.items()]
    named = [(name, one) for name, one in named if one.value is not None]
    values = list(figure.values.values())
    if not named or (len(named) < 2 and figure.low is None and len(values) < 5):
        return None
    ends = [end for _, one in named for end in (one.value, one.low, one.high) if end is not None] + values
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    inner = _WIDTH - _LEFT - _RIGHT

    def across(value: float) -> float:
        return round(_LEFT + (value - low) / span * inner, 1)

    marks: list[dict[str, object]] = []
    for place, (name, one) in enumerate(named):
        assert one.value is not None
        mark: dict[str, object] = {
            "name": name,
            "y": _ROW * place + _ROW // 2,
            "x": across(one.value),
            "text": number(one.value),
        }
        mark["ends"] = [across(one.low), across(one.high)] if one.low is not None and one.high is not None else None
        marks.append(mark)
    top = _ROW * len(named) + 6
    bars = _histogram(values, low, span, inner, top) if len(values) >= 5 else []
    return {
        "title": figure.label,
        "marks": marks,
        "bars": bars,
        "left": _LEFT,
        "low": number(low),
        "high": number(high),
        "right": _WIDTH - _RIGHT,
        "width": _WIDTH,
        "height": top + (66 if bars else 16),
    }


def _histogram(values: Sequence[float], low: float, span: float, inner: int, top: int) -> list[dict[str, float]]:
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int((value - low) / span * _BINS))] += 1
    wide, tall = inner / _BINS, 44 / max(counts)
    bars: list[dict[str, float]] = []
    for place, count in enumerate(counts):
        if count:
            x, height = round(_LEFT + place * wide, 1), round(count * tall, 1)
            bars.append({"x": x, "y": round(top + 44 - height, 1), "w": round(wide - 1, 1), "h": height})
    return bars


def _prompts(samples: Sequence[Sample], scores: Sequence[Score]) -> list[dict[str, object]]:
    """The first image of each prompt beside the same request in the other roles, and the reference it is nearest to."""
    by_id = {sample.id: sample for sample in samples}
    beside = {(sample.role, sample.pair): sample for sample in samples}
    clip = _values(scores, "clip_score")
    near = next((score.figure.nearest for score in scores if score.figure.name in ("clip_i", "nearest_cosine")), {})
    rows: list[dict[str, object]] = []
    for sample in _first_of_each_prompt(samples):
        figures = [_figure(ROLE_NAMES["generated"] + _seed(sample), sample, clip.get(sample.id))]
        for role in _BESIDE:
            if other := beside.get((role, sample.pair)):
                figures.append(_figure(ROLE_NAMES[role], other))
        if other := by_id.get(near.get(sample.id, "")):
            figures.append(_figure("the nearest reference", other))
        rows.append({"prompt": sample.prompt, "figures": figures})
    return rows


def _first_of_each_prompt(samples: Sequence[Sample]) -> list[Sample]:
    """At most `MAX_ROWS`; images without prompts each stand for themselves."""
    first: dict[str, Sample] = {}
    for sample in samples:
        if sample.role == "generated":
            first.setdefault(sample.prompt or sample.id, sample)
    return list(first.values())[:MAX_ROWS]


def _suspects(samples: Sequence[Sample], scores: Sequence[Score]) -> list[list[dict[str, object]]]:
    """The images nearest to a reference, each beside it."""
    by_id = {sample.id: sample for sample in samples}
    figure = next((score.figure for score in scores if score.figure.name == "nearest_bits"), None)
    if figure is None:
        return []
    closest = sorted(figure.values, key=lambda id_: (figure.values[id_], id_))[:MAX_SUSPECTS]
    return [
        [
            _figure(f"{id_}: {figure.values[id_]:.0f} of 64 bits from", by_id[id_]),
            _figure(figure.nearest[id_], by_id[figure.nearest[id_]]),
        ]
        for id_ in closest
        if id_ in by_id and figure.nearest.get(id_) in by_id
    ]


def _values(scores: Sequence[Score], name: str) -> Mapping[str, float]:
    return next((score.figure.values for score in scores if score.figure.name == name), {})


def _seed(sample: Sample) -> str:
    return f", seed {sample.seed}" if sample.seed is not None else ""


def _figure(title: str, sample: Sample, clip: float | None = None) -> dict[str, object]:
    assert sample.open is not None
    image = sample.open()
    scale = SIDE_PX / max(image.size)
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), kind)
    text = f"{title}; CLIP score {clip:.1f}" if clip is not None else title
    return {"title": text, "source": data_uri(png_bytes(small, level=9), "image/png"), "width": small.width}
