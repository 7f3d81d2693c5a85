"""What a sweep found, in sentences: whether the run is underfitted or overfitted, which setting to keep, and how sure that is.

In: a ranking. Out: lines for terminal, report and record; the same in all three.
"""

from collections.abc import Sequence

from loraloom.evaluate.ranking import MIN_PROMPTS, Estimate, Ranking, Row, prompts_to_tell

MANY_PROMPTS = 10_000


def percent(one: Estimate | None, *, interval: bool = True) -> str:
    """A share with its interval, such as `71 % (60 .. 80)`."""
    if one is None:
        return ""
    text = f"{100 * one.value:.0f} %"
    return (
        f"{text} ({100 * one.low:.0f} .. {100 * one.high:.0f})"
        if interval and one.low is not None and one.high is not None
        else text
    )


def loss_text(one: Estimate | None, *, interval: bool = False) -> str:
    """How much less prompts are followed; a loss below 0 is none."""
    return "none" if one is not None and one.value <= 0 else percent(one, interval=interval)


def decimal(one: Estimate, *, interval: bool = True) -> str:
    """A score with its interval, such as `0.65 (0.51 .. 0.80)`."""
    text = f"{one.value:.2f}"
    return (
        f"{text} ({one.low:.2f} .. {one.high:.2f})"
        if interval and one.low is not None and one.high is not None
        else text
    )


def verdict_lines(ranking: Ranking) -> list[str]:
    """Whether the run as a whole is underfitted or overfitted, and from where on."""
    rows = ranking.rows
    good = [row for row in rows if row.verdict == "good"]
    gaining = [row for row in rows if row.gain.above_zero]
    if not gaining:
        none = "at no checkpoint and scale are the images surely nearer to the training set than the base's (by"
        if unsure := [row for row in rows if row.verdict == "unsure"]:
            return [
                f"unsure: {none} {ranking.ranked_by}); the best one, {unsure[0].cell.label}, gains {percent(unsure[0].gain)}, "
                "which more images show or refute: --num-prompts, --num-seeds"
            ]
        return [f"underfitted: {none} {ranking.ranked_by}): train longer, or raise the learning rate or the rank"]
    if not good:
        return [
            "overfitted: every setting that surely gains is overfitted: train with fewer steps or a lower learning rate, save "
            "checkpoints earlier, or try smaller scales"
        ]
    return [*_from_step_on(rows), *_still_learning(ranking), *_at_the_end_of_scales(ranking)]


def advice_lines(ranking: Ranking) -> list[str]:
    """Which setting to keep, why, and whether the images show that it is better than the next."""
    best = ranking.advised
    drift = f", drift {percent(best.drift)}" if best.drift else ""
    word = "" if best.verdict == "good" else f" ({best.verdict}, and the best there is)"
    lines = [
        f"advised: {best.cell.label}{word}: gain {percent(best.gain)} of {ranking.unit}{drift}, score {decimal(best.score)}"
    ]
    if not ranking.others:
        return [*lines, "it is the only setting: name more --scales or checkpoints to compare"]
    lines.append(_next_line(ranking, ranking.others[0]))
    equal = [row for row in ranking.others if row.equal]
    if len(equal) > 1:
        mildest = min(equal, key=lambda row: (abs(row.cell.scale), row.cell.step, row.cell.is_average))
        lines.append(
            f"{len(equal):,} of {len(ranking.others):,} other settings do not surely differ from it in these images; the "
            f"mildest of them is {mildest.cell.label}"
        )
    return lines


def _next_line(ranking: Ranking, row: Row) -> str:
    assert row.behind is not None
    line = f"next: {row.cell.label}, score {decimal(row.score)}, difference {decimal(row.behind)}"
    if row.behind.low is None:
        return (
            f"{line}: {ranking.num_prompts} prompts give no interval (it takes {MIN_PROMPTS}), so no difference is sure"
        )
    if row.behind.shows_difference:
        return f"{line}: the images show a difference"
    line += ": no difference that this many images can show"
    needed = prompts_to_tell(row.behind, ranking.num_prompts)
    if needed is None:
        return line
    about = f"about {needed:,}" if needed <= MANY_PROMPTS else f"more than {MANY_PROMPTS:,}"
    return f"{line} ({ranking.num_prompts} prompts; {about} would)"


def _from_step_on(rows: Sequence[Row]) -> list[str]:
    """From which checkpoint on a scale near 1 is overfitted."""
    checkpoints = [row for row in rows if not row.cell.is_average]
    scale = min((row.cell.scale for row in checkpoints), key=lambda scale: abs(scale - 1))
    column = sorted((row for row in checkpoints if row.cell.scale == scale), key=lambda row: row.cell.step)
    ending: list[Row] = []
    for row in reversed(column):
        if row.verdict != "overfitted":
            break
        ending.insert(0, row)
    if not ending:
        return []
    if len(ending) == len(column):
        return [f"overfitted at scale {scale:g} at every checkpoint: {ending[0].reasons[0]}"]
    return [f"overfitted at scale {scale:g} from step {ending[0].cell.step:,} on: {ending[0].reasons[0]}"]


def _at_the_end_of_scales(ranking: Ranking) -> list[str]:
    """Whether the best scale is the smallest or the largest one that was tried."""
    scales = sorted({row.cell.scale for row in ranking.rows})
    place = {scales[0]: "smallest", scales[-1]: "largest"}.get(ranking.advised.cell.scale)
    if len(scales) < 2 or place is None:
        return []
    return [f"the advised scale is the {place} of this sweep: {place.removesuffix('st')}r --scales may score higher"]


def _still_learning(ranking: Ranking) -> list[str]:
    """Whether the best setting is at the end of the training, which then ended early."""
    steps = sorted({row.cell.step for row in ranking.rows if not row.cell.is_average})
    best = ranking.advised.cell
    if len(steps) < 2 or best.is_average or best.step != steps[-1] or ranking.advised.verdict != "good":
        return []
    return ["not overfitted at the advised scale: the last checkpoint is the best one, so more steps may gain more"]
