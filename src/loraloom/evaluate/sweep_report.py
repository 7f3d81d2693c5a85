"""The report of a sweep: one page with plots, leaderboard and images side by side; the same as JSON; a sheet of images.

In: a sweep. Out: `report.html` without scripts and links, `sweep.json`, `grid.png`; each appears whole.
"""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from loraloom import __version__
from loraloom.evaluate.plots import Plot, Point, Series, coordinates
from loraloom.evaluate.ranking import RULES, Estimate, Row
from loraloom.evaluate.report import number
from loraloom.evaluate.scoring import figure_record
from loraloom.evaluate.sweep import Sweep
from loraloom.evaluate.sweep_images import Cell
from loraloom.evaluate.sweep_words import advice_lines, decimal, loss_text, percent, verdict_lines
from loraloom.generate.sheet import contact_sheet
from loraloom.protocols.evaluation import Figure, Sample
from loraloom.utils.atomic_files import write_json, write_text
from loraloom.utils.html_pages import data_uri, render_page
from loraloom.utils.image_files import write_png

RECORD_FILE, REPORT_FILE, SHEET_FILE = "sweep.json", "report.html", "grid.png"
_TEMPLATE = Path(__file__).with_name("sweep.html")
SIDE_PX = 144
MAX_IMAGES = 600
"""Images in the page, which stays below some megabytes."""
SHOWN_PROMPTS = 4


def write_sweep(found: Sweep) -> tuple[Path, Path, Path]:
    """Write the record, the page and the sheet; the record comes last."""
    out = found.options.out
    files = (out / RECORD_FILE, out / REPORT_FILE, out / SHEET_FILE)
    write_png(files[2], _sheet(found))
    write_text(files[1], render_page(_TEMPLATE, _page(found)))
    write_json(files[0], record_of(found))
    return files


def record_of(found: Sweep) -> dict[str, Any]:
    """The sweep as plain values."""
    ranking = found.ranking
    return {
        "loraloom": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "facts": dict(_facts(found)),
        "settings": found.config.model_dump(mode="json"),
        "prompts": list(found.run.prompts),
        "seeds": [found.config.seed + place for place in range(found.config.seeds_per_prompt)],
        "extractors": {
            kind: {"location": one.location, "sha256": one.sha256} for kind, one in found.extractors.items()
        },
        "rules": dict(RULES),
        "ranked_by": ranking.ranked_by,
        "follows_prompts_by": ranking.fit or None,
        "gain_of_1_is": ranking.unit,
        "drift_weight": ranking.drift_weight,
        "prompt_weight": ranking.prompt_weight,
        "verdict": verdict_lines(ranking),
        "advice": advice_lines(ranking),
        "advised": _advised(found),
        "averages": {
            name: {f"{step}": weight for step, weight in weights} for name, weights in _averages(found).items()
        },
        "leaderboard": [_row_record(found, row) for row in ranking.rows],
        "base": {name: figure_record(figure) for name, figure in found.base.figures.items()},
        "held_out": {name: figure_record(figure) for name, figure in found.held_out.items()},
        "notes": list(found.notes),
    }


def _advised(found: Sweep) -> dict[str, Any]:
    row, cell = found.ranking.advised, _cell_of(found, found.ranking.advised)
    return {
        "setting": row.cell.name,
        "adapter": str(cell.candidate.place),
        "scale": cell.scale,
        "step": row.cell.step,
        "verdict": row.verdict,
        "differs_from_next": found.ranking.others[0].behind.shows_difference
        if found.ranking.others and found.ranking.others[0].behind
        else None,
    }


def _row_record(found: Sweep, row: Row) -> dict[str, Any]:
    cell = _cell_of(found, row)
    return {
        "setting": row.cell.name,
        "adapter": str(cell.candidate.place),
        "sha256": cell.candidate.file.sha256,
        "step": row.cell.step,
        "scale": row.cell.scale,
        "average": row.cell.is_average,
        "verdict": row.verdict,
        "reasons": list(row.reasons),
        "score": _estimate(row.score),
        "gain": _estimate(row.gain),
        "drift": _estimate(row.drift),
        "follows_prompts_less": _estimate(row.fit_loss),
        "behind_the_advised": _estimate(row.behind),
        "first_in_share_of_resamples": row.first_share,
        "figures": {name: figure_record(figure) for name, figure in row.cell.figures.items()},
    }


def _estimate(one: Estimate | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"value": one.value, "interval_95": [one.low, one.high] if one.low is not None else None}


def _cell_of(found: Sweep, row: Row) -> Cell:
    return next(cell for cell in found.cells if cell.name == row.cell.name)


def _averages(found: Sweep) -> dict[str, tuple[tuple[int, float], ...]]:
    return {cell.candidate.name: cell.candidate.weights for cell in found.cells if cell.candidate.is_average}


def _facts(found: Sweep) -> list[tuple[str, str]]:
    run, config = found.run, found.config
    facts = {"run": str(found.options.lora), **run.facts()}
    del facts["adapter"]
    names = list(dict.fromkeys(cell.candidate.label for cell in found.cells))
    scales = sorted({cell.scale for cell in found.cells})
    facts |= {
        "adapters": ", ".join(names),
        "scales": ", ".join(f"{scale:g}" for scale in scales),
        "prompts": f"{len(run.prompts):,}, {config.seeds_per_prompt:,} image(s) each, the same seeds for every setting",
        "seeds": f"{config.seed} .. {config.seed + config.seeds_per_prompt - 1}",
        "sampling": f"{config.steps} steps, guidance {config.guidance_scale or 'of the model'}",
        "extractors": ", ".join(f"{one.location} (sha256 {one.sha256[:12]})" for one in found.extractors.values()),
    }
    return list(facts.items())


# ---------------------------------------------------------------------------------------------------------------- page


def _page(found: Sweep) -> dict[str, object]:
    ranking = found.ranking
    average_lines = [
        f"EMA {name.removeprefix('ema_')}: "
        + ", ".join(f"{weight:.0%} of step {step:,}" for step, weight in weights if weight >= 0.005)
        for name, weights in _averages(found).items()
    ]
    return {
        "title": f"Which to keep of {found.options.lora}",
        "verdict": verdict_lines(ranking),
        "advice": advice_lines(ranking),
        "facts": _facts(found),
        "notes": list(found.notes),
        "averages": average_lines,
        "rules": list(RULES.items()),
        "unit": ranking.unit,
        "ranked_by": ranking.ranked_by,
        "fit": ranking.fit,
        "formula": _formula(found),
        "hints": list(ranking.notes),
        "rows": [_shown_row(place, row, ranking.advised) for place, row in enumerate(ranking.rows, 1)],
        "anchors": [_shown_anchor("the base", found.base.figures), _shown_anchor("real, held out", found.held_out)],
        "heat": _heat(found),
        "plots": [coordinates(plot) for plot in plots_of(found)],
        "prompts": _prompts(found),
    }


def _shown_row(place: int, row: Row, advised: Row) -> dict[str, object]:
    figures = row.cell.figures
    return {
        "place": place,
        "label": row.cell.label,
        "advised": row is advised,
        "score": decimal(row.score),
        "gain": percent(row.gain),
        "drift": percent(row.drift),
        "loss": loss_text(row.fit_loss, interval=True),
        "copies": _share(figures.get("copies")),
        "nearest": _value(figures.get("nearest_cosine")),
        "first": "" if row.first_share is None else f"{row.first_share:.0%}",
        "behind": ""
        if row.behind is None
        else "no sure difference"
        if row.equal or row.behind.low is None
        else decimal(row.behind),
        "verdict": row.verdict,
        "reasons": row.reasons,
    }


def _shown_anchor(name: str, figures: Mapping[str, Figure]) -> dict[str, object]:
    shown = [(figure.label, number(figure.value)) for figure in figures.values() if figure.value is not None]
    return {"name": name, "figures": shown}


def _share(figure: Figure | None) -> str:
    return "" if figure is None or figure.value is None else f"{figure.value:.0%}"


def _value(figure: Figure | None) -> str:
    return "" if figure is None else number(figure.value)


def _heat(found: Sweep) -> dict[str, object]:
    """Scores as a table: adapters down, scales across; the better, the stronger the colour."""
    rows = {row.cell.name: row for row in found.ranking.rows}
    scales = sorted({cell.scale for cell in found.cells})
    values = [row.score.value for row in rows.values()]
    low, high = min(values), max(values)
    lines: list[dict[str, object]] = []
    for candidate in dict.fromkeys(cell.candidate.name for cell in found.cells):
        own = {cell.scale: rows[cell.name] for cell in found.cells if cell.candidate.name == candidate}
        cells = [
            {
                "text": decimal(own[scale].score, interval=False),
                "word": own[scale].verdict,
                "share": f"{(own[scale].score.value - low) / ((high - low) or 1) * 0.55:.2f}",
                "advised": own[scale] is found.ranking.advised,
            }
            for scale in scales
        ]
        label = next(cell.candidate.label for cell in found.cells if cell.candidate.name == candidate)
        lines.append({"name": label, "cells": cells})
    return {"scales": [f"{scale:g}" for scale in scales], "rows": lines}


def _formula(found: Sweep) -> str:
    """The score in words, with what was measured."""
    ranking = found.ranking
    parts = [f"gain by {ranking.ranked_by}"]
    if ranking.advised.drift is not None:
        parts.append(f"{ranking.drift_weight:g} x drift")
    if ranking.fit:
        parts.append(f"{ranking.prompt_weight:g} x loss of prompts")
    return " - ".join(parts)


def plots_of(found: Sweep) -> list[Plot]:
    """Score, gain and memorisation over steps at each scale, and gain against drift."""
    rows = found.ranking.rows
    ranked_by = found.ranking.ranked_by
    plots = [
        _over(found, "Score", _formula(found), lambda row: row.score),
        _over(found, f"Gain by {ranked_by}", "0 base, 1 real images", lambda row: row.gain),
    ]
    if all(row.drift for row in rows):
        plots.append(_trade(found))
        plots.append(_over(found, "Drift of unrelated images", "1: as much as another prompt", lambda row: row.drift))
    if all("nearest_cosine" in row.cell.figures for row in rows):
        plots.append(
            _over(
                found,
                "Memorisation: nearness to the nearest training image",
                "cosine to the nearest",
                lambda row: _as_estimate(row.cell.figures["nearest_cosine"]),
                _anchors(found, "nearest_cosine"),
            )
        )
    if found.ranking.fit:
        plots.append(
            _over(
                found,
                f"Prompts followed: {found.ranking.fit}",
                found.ranking.fit,
                lambda row: _as_estimate(row.cell.figures[found.ranking.fit]),
                _anchors(found, found.ranking.fit),
            )
        )
    return plots


def _anchors(found: Sweep, name: str) -> list[tuple[str, float]]:
    """The base's and real held-out images' value of a figure, as lines."""
    named = (("the base", found.base.figures.get(name)), ("real, held out", found.held_out.get(name)))
    return [(text, figure.value) for text, figure in named if figure is not None and figure.value is not None]


def _as_estimate(figure: Figure) -> Estimate:
    return Estimate(value=figure.value or 0.0, low=figure.low, high=figure.high)


def _over(found: Sweep, title: str, y: str, value: Any, lines: Sequence[tuple[str, float]] = ()) -> Plot:
    """A figure over the steps, a line for each scale, averages beside; with one adapter, over the scales."""
    rows = sorted(found.ranking.rows, key=lambda row: (row.cell.step, row.cell.scale))
    checkpoints = [row for row in rows if not row.cell.is_average]
    scales = sorted({row.cell.scale for row in rows})
    steps = sorted({row.cell.step for row in checkpoints})
    advised = found.ranking.advised

    def point(row: Row, x: float) -> Point:
        one: Estimate = value(row)
        title = f"{row.cell.label}: {one.value:.3g}" + (
            f" ({one.low:.3g} .. {one.high:.3g})" if one.low is not None else ""
        )
        return Point(x=x, y=one.value, low=one.low, high=one.high, title=title, mark=row is advised)

    if len(steps) < 2 and not any(row.cell.is_average for row in rows):
        points = [point(row, row.cell.scale) for row in checkpoints]
        label = checkpoints[0].cell.label.partition(" at ")[0]
        return Plot(title=title, x="scale", y=y, series=[Series(name=label, points=points)], lines=lines)
    width = (steps[-1] - steps[0]) or 1
    names = list(dict.fromkeys(row.cell.candidate for row in rows if row.cell.is_average))
    beyond = {name: steps[-1] + width * 0.12 * place for place, name in enumerate(names, 1)}
    series: list[Series] = []
    for place, scale in enumerate(scales):
        share = place / max(len(scales) - 1, 1)
        own = [point(row, row.cell.step) for row in checkpoints if row.cell.scale == scale]
        series.append(Series(name=f"scale {scale:g}", points=own, share=share))
        averages = [row for row in rows if row.cell.is_average and row.cell.scale == scale]
        aside = width * 0.014 * (place - (len(scales) - 1) / 2)  # whiskers of several scales beside each other
        points = [point(row, beyond[row.cell.candidate] + aside) for row in averages]
        if points:
            series.append(Series(name=f"scale {scale:g}", points=points, share=share, joined=False, in_legend=False))
    ticks = [(float(step), f"{step:,}") for step in _few(steps)]
    ticks += [(place, f"EMA {name.removeprefix('ema_')}") for name, place in beyond.items()]
    return Plot(title=title, x="step", y=y, series=series, lines=lines, ticks=ticks)


def _few(steps: Sequence[int], most: int = 8) -> list[int]:
    """Some of the steps, so that their names do not touch: the last one always."""
    every = -(-len(steps) // most)
    return [step for place, step in enumerate(steps) if (len(steps) - 1 - place) % every == 0]


def _trade(found: Sweep) -> Plot:
    """Gain against drift: the upper left is best. A line joins the scales of one adapter."""
    series: list[Series] = []
    rows = found.ranking.rows
    names = list(dict.fromkeys(cell.candidate.name for cell in found.cells))
    for place, name in enumerate(names):
        own = sorted((row for row in rows if row.cell.candidate == name), key=lambda row: row.cell.scale)
        points = [
            Point(
                x=row.drift.value if row.drift else 0.0,
                y=row.gain.value,
                title=f"{row.cell.label}: gain {percent(row.gain)}, drift {percent(row.drift)}",
                mark=row is found.ranking.advised,
            )
            for row in own
        ]
        label = own[0].cell.label.partition(" at ")[0]
        series.append(Series(name=label, points=points, share=place / max(len(names) - 1, 1)))
    title = f"Gain by {found.ranking.ranked_by} against drift (a line joins the scales of one adapter)"
    return Plot(title=title, x="drift of unrelated images", y="gain", series=series, lines=[("the base", 0.0)])


# -------------------------------------------------------------------------------------------------------------- images


def _prompts(found: Sweep) -> list[dict[str, object]]:
    """The first image of some prompts at every setting: adapters down, scales across."""
    scales = sorted({cell.scale for cell in found.cells})
    count = max(1, min(SHOWN_PROMPTS, MAX_IMAGES // max(len(found.cells), 1)))
    shown: list[dict[str, object]] = []
    for prompt in found.run.prompts[:count]:
        rows: list[dict[str, object]] = []
        for name, label in _adapters(found):
            own = {cell.scale: cell for cell in found.cells if cell.candidate.name == name}
            images = [_thumbnail(_first(found.images[own[scale].name]["generated"], prompt)) for scale in scales]
            rows.append({"name": label, "images": images})
        base = _thumbnail(_first(found.base_images["base"], prompt))
        shown.append(
            {
                "prompt": prompt,
                "base": base,
                "scales": [f"{scale:g}" for scale in scales],
                "rows": rows,
                "side": SIDE_PX,
            }
        )
    return shown


def _adapters(found: Sweep) -> list[tuple[str, str]]:
    return list(dict.fromkeys((cell.candidate.name, cell.candidate.label) for cell in found.cells))


def _first(samples: Sequence[Sample], prompt: str) -> Image.Image:
    sample = next(sample for sample in samples if sample.prompt == prompt)
    assert sample.open is not None
    return sample.open()


def _thumbnail(image: Image.Image) -> str:
    """A small JPEG inside the page: a sweep has hundreds of images."""
    small = image.convert("RGB")
    small.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88, subsampling=0)
    return data_uri(buffer.getvalue(), "image/jpeg")


def _sheet(found: Sweep) -> Image.Image:
    """The first prompt's images: the base above, then adapters down and scales across."""
    scales = sorted({cell.scale for cell in found.cells})
    prompt = found.run.prompts[0]
    rows: list[list[Image.Image]] = [[_first(found.base_images["base"], prompt)]]
    names = [f"base: {prompt}"]
    for name, label in _adapters(found):
        own = {cell.scale: cell for cell in found.cells if cell.candidate.name == name}
        rows.append([_first(found.images[own[scale].name]["generated"], prompt) for scale in scales])
        names.append(label)
    return contact_sheet(rows, names, [f"scale {scale:g}" for scale in scales])
