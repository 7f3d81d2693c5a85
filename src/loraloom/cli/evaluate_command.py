"""`loraloom evaluate`: from what was named to a table of scores.

In: settings and what was named. Out: scores.json or sweep.json and report.html in a folder, and a table on the terminal.
"""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from loraloom.config.evaluate import EvaluateConfig
from loraloom.evaluate.ranking import Row
from loraloom.evaluate.report import shown_interval, shown_value
from loraloom.evaluate.run import EvaluateOptions, Evaluation, evaluate
from loraloom.evaluate.scoring import ANCHORS, Score
from loraloom.evaluate.sweep import Sweep, sweep
from loraloom.evaluate.sweep_report import record_of, write_sweep
from loraloom.evaluate.sweep_words import advice_lines, decimal, loss_text, percent, verdict_lines
from loraloom.lora.files import find_adapter
from loraloom.protocols.evaluation import ROLE_NAMES, Role
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import COMMAND
from loraloom.utils.progress import Progress, table

Say = Callable[[str], None]
Bars = Callable[[], AbstractContextManager[Callable[[str], Progress]]]
OUT, SWEEP_OUT = "evaluation", "sweep"
MAX_ROWS = 12
"""Lines of the leaderboard on the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What the command line names beside the settings; see the verb's help."""

    images: Path | None = None
    lora: Path | None = None
    sweep: Path | None = None
    reference: Path | None = None
    base: str | None = None
    domain: str | None = None
    out: Path | None = None
    prompts_file: Path | None = None
    add_triggers: bool = False


def given_options(named: Named) -> EvaluateOptions:
    """The options of the verb with their defaults.

    Raises:
        UserError: Nothing to score, or two things; or an option that has no effect beside the others.
    """
    images, lora = _what(named)
    name = SWEEP_OUT if named.sweep else OUT
    folder = named.out or (lora / name if lora and lora.is_dir() else Path(name))
    if images is not None and named.prompts_file is not None:
        raise UserError(
            "--prompts-file is for a run that generates images", fix="leave it out, or name a run with --lora"
        )
    if named.add_triggers and named.prompts_file is None:
        raise UserError("--add-triggers is for prompts of a file", fix="leave it out, or add --prompts-file FILE")
    return EvaluateOptions(
        images=images,
        lora=lora,
        reference=named.reference,
        base=named.base,
        domain=named.domain,
        out=folder,
        prompts_file=named.prompts_file,
        add_triggers=named.add_triggers,
    )


def evaluate_on_terminal(
    config: EvaluateConfig, options: EvaluateOptions, *, as_json: bool, say: Say, note: Say, bars: Bars
) -> None:
    """Score, and print a table, or with `as_json` the record; other lines then go to `note`."""
    with bars() as bar:
        evaluation = evaluate(config, options, note if as_json else say, bar)
    if as_json:
        say(json.dumps(evaluation.record, indent=1, ensure_ascii=False))
        return
    for line in lines(evaluation):
        say(line)


def sweep_on_terminal(
    config: EvaluateConfig, options: EvaluateOptions, *, as_json: bool, say: Say, note: Say, bars: Bars
) -> None:
    """Sweep, write the report, and print a leaderboard and what to keep, or with `as_json` the record."""
    with bars() as bar:
        found = sweep(config, options, note if as_json else say, bar)
    files = write_sweep(found)
    if as_json:
        say(json.dumps(record_of(found), indent=1, ensure_ascii=False))
        return
    for line in sweep_lines(found):
        say(line)
    say(f"report: {files[1]}; record: {files[0]}; images: {files[2]}")


def sweep_lines(found: Sweep) -> list[str]:
    """The leaderboard, the verdicts, the advice, and the command that generates with the advised setting."""
    rows = found.ranking.rows
    shown = rows[:MAX_ROWS]
    lines = [table(*_leaderboard(shown))]
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown):,} more settings, in the report")
    counts = Counter(row.verdict for row in rows)
    lines.append(f"{len(rows):,} settings: " + ", ".join(f"{count:,} {word}" for word, count in counts.most_common()))
    lines += [*verdict_lines(found.ranking), *advice_lines(found.ranking)]
    lines += [f"note: {note}" for note in found.ranking.notes]
    best = next(cell for cell in found.cells if cell.name == found.ranking.advised.cell.name)
    place = shlex.quote(f"{best.candidate.place}:{best.scale:g}")
    return [*lines, f'generate with it: {COMMAND} generate "..." --lora {place}']


def _leaderboard(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("", "setting", "score", "gain", "drift", "prompts followed less", "copies", "verdict")
    found: list[tuple[str, ...]] = []
    for place, row in enumerate(rows, 1):
        copies = row.cell.figures.get("copies")
        found.append(
            (
                str(place),
                row.cell.label,
                decimal(row.score),
                percent(row.gain),
                percent(row.drift, interval=False),
                loss_text(row.fit_loss),
                f"{copies.value:.0%}" if copies and copies.value is not None else "",
                row.verdict,
            )
        )
    kept = [column for column in range(len(header)) if column == 0 or any(row[column] for row in found)]
    return tuple(header[column] for column in kept), [tuple(row[column] for column in kept) for row in found]


def lines(evaluation: Evaluation) -> list[str]:
    """The table of scores, what says nothing, and where the rest is."""
    scores = evaluation.scores
    solid = [score for score in scores if not score.figure.says_nothing]
    found = [table(*_table(solid))] if solid else []
    found += [score.figure.says_nothing for score in scores if score.figure.says_nothing]
    found += [score.doubt for score in scores if score.doubt]
    scored = evaluation.record["scored"]
    sure = any(score.figure.low is not None for score in scores)
    intervals = "intervals are of 95 %" if sure else "no intervals: they need 4 prompts"
    found.append(f"extractors: {scored['extractors']}; seeds: {scored['seeds']}; {intervals}")
    found.append(f"scores: {evaluation.scores_file}; with images: {evaluation.report_file}")
    return found


def _table(scores: Sequence[Score]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    anchors: list[Role] = [role for role in ANCHORS if any(role in score.anchors for score in scores)]
    header = ("score", "value", "interval", *(ROLE_NAMES[role] for role in anchors), "better", "images")
    rows = [
        (
            score.figure.label,
            shown_value(score.figure),
            shown_interval(score.figure),
            *(shown_value(score.anchors.get(role)) for role in anchors),
            {1: "higher", -1: "lower", 0: ""}[score.figure.better],
            f"{score.figure.count:,}" + (f" with {score.figure.references:,}" if score.figure.references else ""),
        )
        for score in scores
    ]
    return header, rows


def _what(named: Named) -> tuple[Path | None, Path | None]:
    """What is scored: a folder of images, or a run; an adapter in the place of the images is a run."""
    images, lora = named.images, named.lora
    if named.sweep is not None:
        if images is not None or lora is not None:
            raise UserError(
                "--sweep and something else to score were both named",
                got=f"{named.sweep} and {images or lora}",
                fix="leave out one: a sweep generates its own images",
            )
        return None, named.sweep
    if images is not None and lora is None and _is_adapter(images):
        return None, images
    if images is not None and lora is not None:
        raise UserError(
            "images and a run were both named",
            got=f"{images} and {lora}",
            fix="leave out one: a run generates its own images; images are compared with --reference",
        )
    if images is None and lora is None:
        raise UserError(
            "nothing to score",
            fix="name a folder of images, or --lora RUN; such as: loraloom evaluate --lora runs/dog",
        )
    return images, lora


def _is_adapter(place: Path) -> bool:
    if place.is_file():
        return place.suffix == ".safetensors"
    if not place.is_dir() or not any(
        (place / name).exists() for name in ("adapter.safetensors", "checkpoints", "run.yaml")
    ):
        return False
    find_adapter(place)
    return True
