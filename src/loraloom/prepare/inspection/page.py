"""What `inspect` found, as one page for the browser: findings with their reasons, tables, outlined thumbnails.

In: an `Inspection`. Out: the text of `report.html`: self-contained, no script, no network, every text of the user's escaped.
"""

from pathlib import Path
from typing import Any

from loraloom.prepare.inspection.findings import KINDS
from loraloom.prepare.inspection.run import Inspection
from loraloom.prepare.inspection.summary import why
from loraloom.utils.html_pages import data_uri, render_page

_TEMPLATE = Path(__file__).parents[1] / "inspect.html"
_MOST_FILES = 50
_MOST_GROUPS = 50
_CAPTION_CHARS = 600


def page_of(inspection: Inspection) -> str:
    """The page as text."""
    kinds = inspection.by_kind()
    levels = {"refuse": 0, "warn": 0, "note": 0}
    for code, findings in kinds:
        levels[KINDS[code].level] += len({finding.where for finding in findings})
    purpose = inspection.thresholds.purpose
    labels: dict[str, list[dict[str, str]]] = {}
    for finding in inspection.findings:
        kind = KINDS[finding.code]
        labels.setdefault(finding.where, []).append({"level": kind.level, "title": kind.title, "text": finding.text})
    values: dict[str, Any] = {
        "title": f"{inspection.source.folder.resolve().name}: what inspect found",
        "format": inspection.source.choice.format.name,
        "format_reason": inspection.source.choice.reason,
        "purpose": purpose,
        "lines": inspection.source.lines,
        "sentence": inspection.sentence,
        "command": inspection.command,
        "facts": [
            {"number": len(inspection.found), "label": "images", "warn": False},
            {"number": levels["refuse"], "label": "refused", "warn": bool(levels["refuse"])},
            {"number": levels["warn"], "label": "warnings", "warn": bool(levels["warn"])},
            {"number": levels["note"], "label": "notes", "warn": False},
        ],
        "kinds": [
            {
                "level": KINDS[code].level,
                "title": KINDS[code].title,
                "why": why(code, purpose),
                "number": len({finding.where for finding in findings}),
                "first": findings[:_MOST_FILES],
                "more": max(0, len(findings) - _MOST_FILES),
            }
            for code, findings in kinds
        ],
        "concepts": inspection.concepts,
        "folders": inspection.folders if len(inspection.folders) > 1 else (),
        "buckets": inspection.buckets,
        "groups": [_group(inspection, ids) for ids in inspection.near_groups[:_MOST_GROUPS]],
        "more_groups": max(0, len(inspection.near_groups) - _MOST_GROUPS),
        "figures": [_figure(inspection, id_, labels) for id_ in inspection.thumbnails],
        "num_not_shown": len(inspection.found) - len(inspection.thumbnails),
    }
    return render_page(_TEMPLATE, values)


def _group(inspection: Inspection, ids: tuple[str, ...]) -> list[dict[str, str | None]]:
    shown: list[dict[str, str | None]] = []
    for id_ in ids[:12]:
        jpeg = inspection.thumbnails.get(id_)
        shown.append(
            {"file": inspection.shown[id_], "source": data_uri(jpeg, "image/jpeg") if jpeg is not None else None}
        )
    return shown


def _figure(inspection: Inspection, id_: str, labels: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    one, file = inspection.found[id_], inspection.shown[id_]
    caption = inspection.captions.get(id_) or ""
    if len(caption) > _CAPTION_CHARS:
        caption = f"{caption[:_CAPTION_CHARS]} ..."
    return {
        "file": file,
        "source": data_uri(inspection.thumbnails[id_], "image/jpeg"),
        "size": f"{one.width} x {one.height}",
        "target": f"{one.target[0]} x {one.target[1]}",
        "cut": f"{one.cut:.1%}",
        "tokens": inspection.tokens.get(id_),
        "caption": caption,
        "labels": [label for label in labels.get(file, []) if label["level"] != "note"],
    }
