"""How long the captions are, and what each prompt method would lose.

In: a prepared dataset or one text file, and a model's tokenizer. Out: a table for the terminal.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loraloom.config.domains import open_domain
from loraloom.data.manifest import domain_of, read_manifest
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import syntax_line, unknown_letters
from loraloom.prompts.report import METHODS, CaptionReport, report_captions
from loraloom.protocols.model import ModelSource
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import MAX_CONFIG_BYTES, read_text

_BAR_WIDTH = 40


def tokens_text(
    place: Path,
    model: str,
    domain: str,
    show: str | None,
    model_config: str | None = None,
    model_options: Sequence[str] = (),
) -> str:
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
        captions = [named for example in manifest.examples for named in example.named_captions]
        recorded = manifest.info.get("settings", {})
    text = open_model(ModelSource(location=model, config=model_config, options=tuple(model_options))).text
    kind = open_domain(domain_of(place, domain), recorded)
    encoder = PromptEncoder(text=text, domain=kind)
    if text.max_windows is not None:
        answer = _fixed_length(captions, encoder, show)
        return "\n\n".join([*notes, *answer]) if show is None else answer[0]
    reports = report_captions(captions, text.tokenizer, kind)
    if show is not None:
        wanted = [report for report in reports if report.id == show]
        if not wanted:
            raise UserError("no such caption", got=show, fix=did_you_mean(show, [report.id for report in reports]))
        return _windows(wanted[0])
    parts = [*notes, _lengths(reports, text.tokenizer.window_tokens - 2), _losses(reports), _longest(reports)]
    parts += _syntax(encoder, [caption for _, caption in captions])
    return "\n\n".join(parts)


def _fixed_length(captions: Sequence[tuple[str, str]], encoder: PromptEncoder, show: str | None) -> list[str]:
    """Parts of the answer for a model whose text length is fixed: what each encoder reads, and what none does.

    Raises:
        UserError: No caption has the id `show`.
    """
    counts = {id_: list(encoder.text.counts(caption)) for id_, caption in captions}
    plans = {id_: encoder.plan(caption) for id_, caption in captions}
    if show is not None:
        if show not in counts:
            raise UserError("no such caption", got=show, fix=did_you_mean(show, list(counts)))
        lines = [f"{show}:"]
        for one in counts[show]:
            unknown = f", {one.unknown} of them unknown" if one.unknown else ""
            lines.append(f"  {one.name}: {one.tokens} tokens{unknown}; it reads {min(one.tokens, one.capacity)}")
        lines += [f"  not read by any encoder: {' '.join(part.split())}" for part in plans[show].lost]
        return ["\n".join(lines)]
    lines = [f"{counted(len(captions), 'caption')}; the model's text length is fixed", ""]
    lines.append("encoder        reads   shortest   median   longest   longer captions   with unknown letters")
    for place in zip(*counts.values(), strict=True):
        lengths = sorted(one.tokens for one in place)
        longer = sum(one.tokens > one.capacity for one in place)
        unknown = sum(one.unknown > 0 for one in place)
        lines.append(
            f"{place[0].name:12s} {place[0].capacity:7d} {lengths[0]:10d} {lengths[len(lengths) // 2]:8d} {lengths[-1]:9d} "
            f"{longer:17d} {unknown:22d}"
        )
    cut = {id_: plan for id_, plan in plans.items() if plan.lost}
    parts = ["\n".join(lines)]
    parts.append(f"{len(cut)} of {len(captions)} captions have text that no encoder reads")
    if cut:
        longest = sorted(cut, key=lambda id_: (-cut[id_].lost_tokens, id_))[:5]
        parts[-1] += " (--show ID prints which):\n" + "\n".join(
            f"  {id_}  {cut[id_].lost_tokens} of {cut[id_].num_tokens} tokens" for id_ in longest
        )
    texts = [caption for _, caption in captions]
    return [*parts, *unknown_letters(encoder, texts, "captions")[1], *_syntax(encoder, texts)]


def _syntax(encoder: PromptEncoder, captions: list[str]) -> list[str]:
    line = syntax_line(captions, encoder, weighting=False, noun="captions")
    return [line] if line else []


def _lengths(reports: list[CaptionReport], capacity: int) -> str:
    counts = sorted(report.num_tokens for report in reports)
    long = sum(count > capacity for count in counts)
    lines = [
        f"{counted(len(counts), 'caption')}, {counts[0]} to {counts[-1]} tokens, median {counts[len(counts) // 2]}; "
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
