"""Compare the settings of two runs, and check whether a run may be resumed with changed settings.

In: two settings of one class. Out: the settings that differ, each marked resumable or not; or an error that lists those
that may not change; or the template of a verb's settings. The field of a setting says whether it is resumable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom.config.base import Settings
from loraloom.config.caption import CaptionConfig
from loraloom.config.describing import leaves, show
from loraloom.config.evaluate import EvaluateConfig
from loraloom.config.generate import GenerateConfig
from loraloom.config.inspect import InspectConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import commented_yaml, flatten, read_settings
from loraloom.config.run import RunConfig
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError, did_you_mean

RUN_FILE = "run.yaml"


def template(verb: str) -> str:
    """Commented YAML of the settings that a verb takes.

    Raises:
        UserError: The verb has no settings.
    """
    chosen = (RunConfig, InspectConfig, CaptionConfig, PrepareConfig, GenerateConfig, EvaluateConfig)
    kinds = {kind.verb: kind for kind in chosen}
    if verb not in kinds:
        raise UserError("this verb has no settings", got=verb, fix=did_you_mean(verb, kinds))
    return commented_yaml(kinds[verb])


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that differs between two runs; `resumable` says whether a run may be resumed after the change."""

    key: str
    old: Any
    new: Any
    resumable: bool


def compare(old: Settings, new: Settings) -> list[Difference]:
    """All settings whose values differ, in reading order.

    `train.max_steps` may change where the learning rate does not depend on it: `optim.scheduler` is constant in both.
    """
    assert type(old) is type(new), (type(old), type(new))
    before, after = flatten(old), flatten(new)
    constant = before.get("optim.scheduler") == after.get("optim.scheduler") == "constant"
    return [
        Difference(
            leaf.key,
            before[leaf.key],
            after[leaf.key],
            resumable=leaf.resumable or (leaf.key == "train.max_steps" and constant),
        )
        for leaf in leaves(type(old))
        if before[leaf.key] != after[leaf.key]
    ]


def refuse_unless_resumable(old: Settings, new: Settings) -> None:
    """Check that a run with settings `old` may be resumed with `new`.

    Raises:
        UserError: Settings changed that affect what is learned; all are listed.
    """
    fixed = [difference for difference in compare(old, new) if not difference.resumable]
    if not fixed:
        return
    lines = [f"{one.key}: was {show(one.old)}, now {show(one.new)}" for one in fixed]
    if any(one.key == "train.max_steps" for one in fixed):
        lines.append("(train.max_steps may change only when optim.scheduler is constant)")
    what = counted(len(fixed), "setting")
    raise UserError(
        "\n  ".join([f"the run cannot be resumed: {what} changed", *lines]),
        fix="restore the old values, or start a new run in another folder (--out)",
    )


def read_run(path: Path) -> RunConfig:
    """The settings of a run folder, or of a settings file.

    Raises:
        UserError: The folder is not a run folder, or the file cannot be read.
    """
    if path.is_dir():
        file = path / RUN_FILE
        if not file.is_file():
            raise UserError(
                f"there is no {RUN_FILE} in this folder", got=str(path), expected="a run folder or a YAML file"
            )
        return read_settings(RunConfig, file)
    return read_settings(RunConfig, path)


def difference_table(differences: Sequence[Difference], names: tuple[str, str]) -> str:
    """Differences as a table with aligned columns."""
    if not differences:
        return "no setting differs"
    rows = [("setting", *names, "resumable")]
    rows += [(one.key, show(one.old), show(one.new), "yes" if one.resumable else "no") for one in differences]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
