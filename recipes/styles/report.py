"""One page about a run of the recipe: findings, matrices, scores of each style, grids; what failed and why.

In: the recipe's folder, figures, parts. Out: `report.html`, one file without scripts that needs no network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loraloom.prepare.styles import Style
from loraloom.utils.atomic_files import write_text
from loraloom.utils.errors import UserError
from loraloom.utils.html_pages import data_uri, render_page
from loraloom.utils.progress import duration
from loraloom.utils.untrusted import MAX_RECORD_BYTES, is_file, read_bytes, read_json_object
from recipes.styles.parts import Parts
from recipes.styles.settings import StylesConfig

_TEMPLATE = Path(__file__).with_name("report.html")
_MAX_GRID_BYTES = 256 << 20
SCORES = (
    "texture",
    "style",
    "clip_i",
    "clip_score",
    "kid",
    "diversity",
    "copies",
    "drift",
    "leakage_share",
    "sentences_met",
)
"""Figures of `loraloom evaluate` in the table of styles, where they are there."""


def write_report(
    folder: Path, styles: Sequence[Style], figures: Mapping[str, Any] | None, parts: Parts, config: StylesConfig
) -> Path:
    """Write the page; it appears whole."""
    page = folder / "report.html"
    values: dict[str, object] = {
        "title": "Styles: " + ", ".join(style.name for style in styles),
        "facts": _facts(styles, figures, config),
        "failed": list(parts.failed.items()),
        "findings": figures["findings"] if figures else [],
        "matrices": [_matrix(one) for one in figures["likeness"]] if figures else [],
        "prompt": _prompt(figures["prompt"]) if figures else [],
        "scores": _scores(folder, styles, parts),
        "grids": _grids(folder, figures),
        "parts": [(name, parts.known[name].status, duration(parts.known[name].seconds)) for name in parts.asked],
    }
    write_text(page, render_page(_TEMPLATE, values))
    return page


def _facts(styles: Sequence[Style], figures: Mapping[str, Any] | None, config: StylesConfig) -> list[tuple[str, str]]:
    run = config.run
    facts = [
        ("base", run.model.source),
        ("styles", "; ".join(f"{style.name} ({style.trigger}) of {style.folder}" for style in styles)),
        ("length", f"{config.epochs} epochs" if config.epochs else f"{run.train.max_steps} steps"),
        ("batch", f"{run.data.batch_size} images, {run.train.gradient_accumulation} forward passes a step"),
        ("LoRA", f"rank {run.lora.rank}, alpha {run.lora.alpha or run.lora.rank:g}, {run.lora.target}"),
        ("optimizer", f"{run.optim.optimizer}, learning rate {run.optim.learning_rate:g}, {run.optim.scheduler}"),
        ("precision", run.train.mixed_precision if run.train.mixed_precision != "no" else "float32"),
    ]
    if figures:
        facts += [
            ("images of each row", f"{figures['images_per_row']} ({len(figures['prompts'])} prompts)"),
            ("references", ", ".join(f"{name} {count}" for name, count in figures["references"].items())),
            ("extractor", f"{figures['extractor']['location']} (sha256 {figures['extractor']['sha256'][:12]})"),
        ]
    return facts


def _number(estimate: Mapping[str, Any] | None, digits: int, *, sign: bool = False) -> tuple[str, str]:
    """Value and interval as text."""
    if estimate is None:
        return "", ""
    form = f"{'+' if sign else ''}.{digits}f"
    low, high = estimate["low"], estimate["high"]
    return format(estimate["value"], form), "" if low is None else f"{low:{form}} .. {high:{form}}"


def _matrix(one: Mapping[str, Any]) -> dict[str, object]:
    """Rows of cells: likeness, its interval, the rise, its interval, and how strong the rise is (-3 to 3, for its colour)."""
    rises = [abs(cell["rise"]["value"]) for row in one["rows"].values() for cell in row.values() if cell["rise"]]
    largest = max(rises, default=0.0) or 1.0
    rows: list[dict[str, object]] = []
    for name, cells in one["rows"].items():
        shown: list[dict[str, object]] = []
        for column in one["columns"]:
            cell = cells[column]
            value, interval = _number(cell["likeness"], 3)
            rise, rise_interval = _number(cell["rise"], 3, sign=True)
            level = round(3 * cell["rise"]["value"] / largest) if cell["rise"] else 0
            shown.append(
                {"value": value, "interval": interval, "rise": rise, "rise_interval": rise_interval, "level": level}
            )
        rows.append({"name": name, "cells": shown})
    return {"metric": one["metric"], "columns": one["columns"], "rows": rows}


def _prompt(rows: Mapping[str, Any]) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "own": _number(one["own"], 1)[0],
            "wrong": _number(one["wrong"], 1)[0],
            "lead": _number(one["lead"], 1),
            "gain": _number(one["gain"], 1, sign=True),
        }
        for name, one in rows.items()
    ]


def _scores(folder: Path, styles: Sequence[Style], parts: Parts) -> dict[str, object]:
    """The figures of `loraloom evaluate`: one column for each style, the adapter off beside it."""
    found: dict[str, dict[str, Any]] = {}
    for style in styles:
        place = folder / "evaluation" / style.name / "scores.json"
        if f"scores {style.name}" in parts.known and is_file(place) and f"scores {style.name}" not in parts.failed:
            try:
                record = read_json_object(place, f"scores.json of {style.name}", max_bytes=MAX_RECORD_BYTES)
                found[style.name] = {row["name"]: row for row in record["scores"]}
            except (UserError, KeyError, TypeError):
                continue
    rows: list[dict[str, object]] = []
    for figure in SCORES:
        have = {name: rows_of[figure] for name, rows_of in found.items() if figure in rows_of}
        if have:
            label = next(iter(have.values()))["label"]
            rows.append({"label": label, "cells": [_score(have.get(name)) for name in found]})
    links = [(name, f"evaluation/{name}/report.html") for name in found]
    return {"styles": list(found), "rows": rows, "links": links}


def _score(row: Mapping[str, Any] | None) -> tuple[str, str]:
    """The value, and that of the base."""
    if row is None:
        return "", ""
    if row["value"] is None:
        return "says nothing", ""
    base = row["anchors"].get("base")
    off = f"adapter off: {base['value']:.4g}" if base and base["value"] is not None else ""
    return f"{row['value']:.4g}", off


def _grids(folder: Path, figures: Mapping[str, Any] | None) -> list[dict[str, str]]:
    shown: list[dict[str, str]] = []
    for name, title in (("single", "Base and styles"), ("blend", "Base and blends")):
        path = folder / "compare" / f"{name}.png"
        if figures and is_file(path):
            data = read_bytes(path, path.name, max_bytes=_MAX_GRID_BYTES)
            shown.append({"title": title, "source": data_uri(data, "image/png")})
    return shown
