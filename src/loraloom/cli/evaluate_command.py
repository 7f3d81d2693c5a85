"""`loraloom evaluate`: from what was named to a table of scores.

In: settings and what was named. Out: scores.json and report.html in a folder, and a table on the terminal.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from loraloom.config.evaluate import EvaluateConfig
from loraloom.evaluate.report import shown_interval, shown_value
from loraloom.evaluate.run import EvaluateOptions, Evaluation, evaluate
from loraloom.evaluate.scoring import ANCHORS, Score
from loraloom.lora.files import find_adapter
from loraloom.protocols.evaluation import ROLE_NAMES, Role
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress, table

Say = Callable[[str], None]
Bars = Callable[[], AbstractContextManager[Callable[[str], Progress]]]
OUT = "evaluation"


def given_options(
    images: Path | None,
    lora: Path | None,
    reference: Path | None,
    base: str | None,
    domain: str | None,
    out: Path | None,
) -> EvaluateOptions:
    """The options of the verb with their defaults.

    Raises:
        UserError: Nothing to score, or two things.
    """
    images, lora = _what(images, lora)
    folder = out or (lora / OUT if lora and lora.is_dir() else Path(OUT))
    return EvaluateOptions(images=images, lora=lora, reference=reference, base=base, domain=domain, out=folder)


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


def _what(images: Path | None, lora: Path | None) -> tuple[Path | None, Path | None]:
    """What is scored: a folder of images, or a run; an adapter in the place of the images is a run."""
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
