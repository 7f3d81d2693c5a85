"""What `inspect` found, as lines for the terminal and as JSON.

In: an `Inspection`. Out: text. Nothing is left out of the JSON; the terminal counts each kind and shows its first file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from loraloom import __version__
from loraloom.prepare.inspection.findings import KINDS, PURPOSES, Finding
from loraloom.prepare.inspection.run import Inspection
from loraloom.prepare.inspection.tables import GroupRow
from loraloom.utils.counted import counted
from loraloom.utils.progress import duration, table

JSON_VERSION = 1
_MOST_ROWS = 20
_MOST_BUCKETS = 8


def lines_of(inspection: Inspection) -> Iterator[str]:
    """The summary for the terminal, line by line."""
    number = len(inspection.found)
    rate = number / max(inspection.seconds, 1e-9)
    purpose = inspection.thresholds.purpose
    yield (
        f"{counted(number, 'image')} in {duration(inspection.seconds)} ({rate:,.1f} a second); purpose: {purpose} (--purpose "
        f"{' or '.join(name for name in PURPOSES if name != purpose)})"
    )
    yield from inspection.source.lines
    yield from (f"  {line}" for line in _table("concept", inspection.concepts).split("\n"))
    if [row.name for row in inspection.folders] not in (["."], [row.name for row in inspection.concepts]):
        yield from (f"  {line}" for line in _table("folder", inspection.folders).split("\n"))
    if inspection.buckets:
        yield f"  {_buckets(inspection)}"
    for code, findings in inspection.by_kind():
        yield _finding_line(code, findings, purpose)
    if not inspection.findings:
        yield "nothing is wrong"
    yield inspection.sentence


def _table(title: str, rows: Sequence[GroupRow]) -> str:
    header = (title, "images", "refused", "an epoch", "shorter side px", "captions", "tokens")
    cells = [
        (
            row.name,
            f"{row.images:,}",
            f"{row.refused:,}",
            f"{row.seen:,}",
            f"{row.smallest} to {row.largest}, median {row.median}" if row.images else "-",
            f"{row.captions:,}",
            f"{row.tokens[0]} to {row.tokens[2]}, median {row.tokens[1]}" if row.tokens else "-",
        )
        for row in rows[:_MOST_ROWS]
    ]
    more = f"\nand {len(rows) - _MOST_ROWS:,} more in inspect.json" if len(rows) > _MOST_ROWS else ""
    return table(header, cells) + more


def _buckets(inspection: Inspection) -> str:
    common = sorted(inspection.buckets, key=lambda row: -row["images"])
    shown = [
        f"{row['width']} x {row['height']}: {row['images']:,} ({row['mean_cut_percent']:g} % cut off, at most "
        f"{row['max_cut_percent']:g} %)"
        for row in common[:_MOST_BUCKETS]
    ]
    more = f"; and {len(common) - _MOST_BUCKETS:,} more" if len(common) > _MOST_BUCKETS else ""
    return f"sizes: {'; '.join(shown)}{more}"


def _finding_line(code: str, findings: Sequence[Finding], purpose: str) -> str:
    kind, first = KINDS[code], findings[0]
    files = len({finding.where for finding in findings})
    return f"{kind.level:6s} {files:>5,}  {kind.title}: {first.where}: {first.text} ({why(code, purpose)})"


def why(code: str, purpose: str) -> str:
    """The reason why a kind of finding matters; of thresholds by purpose that of the purpose."""
    reasons = {"few": PURPOSES[purpose].few_reason, "too_small": PURPOSES[purpose].enlargement_reason}
    return reasons.get(code, KINDS[code].why)


def as_json(inspection: Inspection, *, strict: bool) -> dict[str, Any]:
    """The content of `inspect.json`."""
    levels: dict[str, int] = {"refuse": 0, "warn": 0, "note": 0}
    for finding in inspection.findings:
        levels[KINDS[finding.code].level] += 1
    return {
        "version": JSON_VERSION,
        "loraloom": __version__,
        "source": inspection.source.folder.resolve().name,
        "format": inspection.source.choice.format.name,
        "format_reason": inspection.source.choice.reason,
        "thresholds": asdict(inspection.thresholds),
        "exit_status": inspection.exit_status(strict=strict),
        "counts": {"images": len(inspection.found), **levels},
        "concepts": [asdict(row) for row in inspection.concepts],
        "folders": [asdict(row) for row in inspection.folders],
        "buckets": [dict(row) for row in inspection.buckets],
        "findings": [
            {
                "code": code,
                "level": KINDS[code].level,
                "title": KINDS[code].title,
                "why": why(code, inspection.thresholds.purpose),
                "where": [{"file": finding.where, "text": finding.text} for finding in findings],
            }
            for code, findings in inspection.by_kind()
        ],
        "near_duplicates": [list(group) for group in inspection.near_groups],
        "images": [_image_row(inspection, id_) for id_ in inspection.found],
        "sentence": inspection.sentence,
        "command": inspection.command,
        "seconds": round(inspection.seconds, 3),
    }


def _image_row(inspection: Inspection, id_: str) -> dict[str, Any]:
    one = inspection.found[id_]
    row: dict[str, Any] = {"id": id_, "file": inspection.shown[id_]}
    if one.problem is not None or one.quality is None:
        return {**row, "problem": one.problem}
    return {
        **row,
        "width": one.width,
        "height": one.height,
        "prepared": list(one.target),
        "crop": list(one.crop),
        "cut_percent": round(100 * one.cut, 1),
        "scale": round(one.scale, 4),
        "sha256": one.sha256,
        **{key: value for key, value in asdict(one.facts).items() if key != "mode"},
        "mode": one.facts.mode,
        **asdict(one.quality),
        "tokens": inspection.tokens.get(id_),
    }
