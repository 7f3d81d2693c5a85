"""How long the captions are, and what each prompt method would lose.

In: a prepared dataset or one text file, and a model's tokenizer. Out: a table for the terminal.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from loraloom.config.domains import open_domain
from loraloom.data.manifest import domain_of, read_manifest
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import syntax_line
from loraloom.prompts.report import METHODS, CaptionReport, report_captions
from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import MAX_CONFIG_BYTES, read_text

_BAR_WIDTH = 40


def tokens_text(place: Path, model: str, domain: str, show: str | None, model_config: str | None = None) -> str:
    """The whole answer of `loraloom tokens`.

    Raises:
        UserError: No dataset there, no such model, no such id.
    """
    if place.is_file():
        captions = [(place.stem, read_text(place, "the text file", max_bytes=MAX_CONFIG_BYTES).strip())]
        recorded = dict[str, Any]()
        notes: tuple[str, ...] = ()
    else:
        manifest = read_manifest(place)
        notes = manifest.notes if domain == "auto" else ()
        captions = [(example.id, example.caption) for example in manifest.examples]
        recorded = manifest.info.get("settings", {})
    text = open_model(ModelSource(location=model, config=model_config)).text
    kind = open_domain(domain_of(place, domain), recorded)
    reports = report_captions(captions, text.tokenizer, kind)
    if show is not None:
        wanted = [report for report in reports if report.id == show]
        if not wanted:
            raise UserError("no such caption", got=show, fix=did_you_mean(show, [report.id for report in reports]))
        return _windows(wanted[0])
    parts = [*notes, _lengths(reports, text.tokenizer.window_tokens - 2), _losses(reports), _longest(reports)]
    encoder = PromptEncoder(text=text, domain=kind)
    if syntax := syntax_line([caption for _, caption in captions], encoder, weighting=False, noun="captions"):
        parts.append(syntax)
    return "\n\n".join(parts)


def _lengths(reports: list[CaptionReport], capacity: int) -> str:
    counts = sorted(report.num_tokens for report in reports)
    long = sum(count > capacity for count in counts)
    lines = [
        f"{len(counts)} captions, {counts[0]} to {counts[-1]} tokens, median {counts[len(counts) // 2]}; "
        f"{long} do not fit one window of {capacity}"
    ]
    by_windows = Counter(report.num_windows for report in reports)
    for number, share in sorted(by_windows.items()):
        bar = "#" * max(1, round(_BAR_WIDTH * share / len(reports)))
        lines.append(f"  {number:3d} window{'s' if number > 1 else ' '}  {share:6d}  {bar}")
    return "\n".join(lines)


def _losses(reports: list[CaptionReport]) -> str:
    total = sum(report.num_tokens for report in reports)
    lines = ["method      captions cut   tokens not read"]
    for method in METHODS:
        cut = sum(bool(report.plans[method].lost) for report in reports)
        lost = sum(report.plans[method].lost_tokens for report in reports)
        share = f"{100 * lost / max(1, total):.1f} %"
        lines.append(f"{method:10s}  {cut:12d}   {lost:8d} ({share})")
    return "\n".join(lines)


def _longest(reports: list[CaptionReport]) -> str:
    top = sorted(reports, key=lambda report: (-report.num_tokens, report.id))[:5]
    lines = ["longest (--show ID prints how one is cut):"]
    lines += [f"  {report.id}  {report.num_tokens} tokens, {report.num_windows} windows" for report in top]
    return "\n".join(lines)


def _windows(report: CaptionReport) -> str:
    lines = [f"{report.id}: {report.num_tokens} tokens"]
    for number, window in enumerate(report.plans["attention"].windows, 1):
        lines.append(f"  window {number}, {len(window)} tokens: {' '.join(window.text.split())}")
    for method in ("truncate", "smart"):
        plan = report.plans[method]
        if plan.lost:
            lines.append(f"  {method} would not read: {' | '.join(' '.join(text.split()) for text in plan.lost)}")
    return "\n".join(lines)
