"""`loraloom train --dry-run`: a few steps in a temporary folder, then a prediction for more ranks and machines."""

import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.utils.reporting import Say

if TYPE_CHECKING:
    from loraloom.config.run import RunConfig

STEPS = 5
"""Steps that are measured; the first one warms up."""


def dry_run(settings: "RunConfig", ranks: int, nodes: int, network_gbit_per_s: float, say: Say, *, cpu: bool) -> None:
    """Train a few steps on one rank, write nothing but the cache, and say how more ranks would scale.

    Raises:
        UserError: Whatever would end the training before its first step.
    """
    from loraloom.train.run import train
    from loraloom.train.scaling import Links, prediction_lines

    with tempfile.TemporaryDirectory() as name:
        changes = {
            "train": {"output": str(Path(name) / "run"), "max_steps": STEPS, "log_every": 1, "validation_every": 0},
            "checkpoints": {"every": 0, "latest_every": 0, "resume": "never"},
            "samples": {"enabled": False},
            "export": {"verify": False},
            "tracking": {"tensorboard": False, "wandb": False},
            "optim": {"warmup_steps": 0},
        }
        groups = {group: getattr(settings, group).model_copy(update=values) for group, values in changes.items()}
        numbers: list[dict[str, float]] = []
        train(settings.model_copy(update=groups), say=say, report=lambda _, row: numbers.append(row), cpu=cpu)
        events = (Path(name) / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        learning = next(row["learning_numbers"] for line in events if "learning_numbers" in (row := json.loads(line)))
    batch = settings.data.batch_size * settings.train.gradient_accumulation
    lines = prediction_lines(
        step_seconds=statistics.median(1 / row["steps_per_second"] for row in numbers[1:]),
        images=batch,
        num_bytes=4.0 * learning,
        ranks=ranks,
        nodes=nodes,
        links=Links(network_gbit_per_s=network_gbit_per_s),
    )
    for line in lines:
        say(line)
    say("dry run: nothing was trained, and no run folder was written")
