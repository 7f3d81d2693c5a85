"""`loraloom train --dry-run`: a few steps in a temporary folder, then a prediction for more ranks and machines."""

import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.utils.reporting import Say

if TYPE_CHECKING:
    from loraloom.config.run import RunConfig
    from loraloom.data.ledger import Ledger

STEPS = 5
"""Steps that are measured; the first one warms up."""


def dry_run(settings: "RunConfig", ranks: int, nodes: int, network_gbit_per_s: float, say: Say, *, cpu: bool) -> None:
    """Train a few steps on one rank, write nothing but the cache, and say how more ranks would scale.

    Raises:
        UserError: Whatever would end the training before its first step.
    """
    from loraloom.data.ledger import LEDGER_FILE, updates_sentence
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

        def tell(line: str) -> None:
            if name not in line:  # what lies there is gone when the user reads of it
                say(line)

        train(settings.model_copy(update=groups), say=tell, report=lambda _, row: numbers.append(row), cpu=cpu)
        events = (Path(name) / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        learning = next(row["learning_numbers"] for line in events if "learning_numbers" in (row := json.loads(line)))
        ledger = planned_ledger(settings, Path(name) / "run" / LEDGER_FILE)
    batch = settings.data.batch_size * settings.train.gradient_accumulation
    step_seconds = statistics.median(1 / row["steps_per_second"] for row in numbers[1:])
    say(f"{updates_sentence(ledger, steps=settings.train.max_steps, step_seconds=step_seconds)} on one process")
    lines = prediction_lines(
        step_seconds=step_seconds,
        images=batch,
        num_bytes=4.0 * learning,
        ranks=ranks,
        nodes=nodes,
        links=Links(network_gbit_per_s=network_gbit_per_s),
    )
    for line in lines:
        say(line)
    say("dry run: nothing was trained, and no run folder was written")


def planned_ledger(settings: "RunConfig", file: Path) -> "Ledger":
    """The ledger of the whole run on one process, from the rows that the measured steps wrote."""
    from loraloom.config.pairs import read_batch_sizes
    from loraloom.data.bucket_sampler import Plan
    from loraloom.data.ledger import make_ledger

    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    plan = Plan(
        sizes=tuple((row["width"], row["height"]) for row in rows),
        batch_size=settings.data.batch_size,
        num_devices=1,
        accumulation=settings.train.gradient_accumulation,
        seed=settings.train.seed,
        repeats=tuple(row["seen_per_epoch"] for row in rows),
        weights=tuple(row["weight"] for row in rows),
        batch_sizes=tuple(row["batch_size"] for row in rows) if any(row["batch_size"] for row in rows) else (),
        smaller_batches=read_batch_sizes(settings.data.batch_size_from, settings.data.batch_size),
    )
    return make_ledger(plan, [row["id"] for row in rows], settings.train.max_steps)
