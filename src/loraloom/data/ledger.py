"""How often each image is seen, exactly: after repeats, buckets and the repeats of weight zero that complete a batch.

In: the bucket batch sampler of a run and the ids of its images. Out: a `Ledger`: one row an image, one a size, the updates of
an epoch, lines for the user, and `ledger.jsonl`. It is computed from the counts; a property test compares it with what the
sampler yields.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loraloom.data.bucket_sampler import Plan
from loraloom.utils.atomic_files import write_text
from loraloom.utils.counted import counted
from loraloom.utils.progress import duration

LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One image.

    Attributes:
        id: Its id.
        width, height: Prepared size in pixels.
        weight: Loss weight each time that it is seen.
        batch_size: Batch size of its folder; None is that of the training.
        seen_per_epoch: Times that it is learned from in an epoch.
        share: Its part of an epoch's loss, 0 to 1.
        seen_in_run: Times that it is learned from in the whole run; None when the number of steps is open.
    """

    id: str
    width: int
    height: int
    weight: float
    seen_per_epoch: int
    share: float
    seen_in_run: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRow:
    """The images of one bucket in an epoch.

    Attributes:
        width, height: Pixels.
        batch_size: Images of a forward pass on one device.
        images: Number of images.
        seen: Images learned from, repeats counted.
        batches: Forward passes over all devices.
        padding: Slots that are repeats of weight zero.
    """

    width: int
    height: int
    batch_size: int
    images: int
    seen: int
    batches: int
    padding: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What an epoch and a run show.

    Attributes:
        rows: One for each image, in the order of the examples.
        sizes: One for each prepared size and batch size, sorted.
        batch: Slots of a step.
        steps_per_epoch: Optimizer steps of an epoch.
    """

    rows: tuple[LedgerRow, ...]
    sizes: tuple[SizeRow, ...]
    batch: int
    steps_per_epoch: int

    @property
    def seen_per_epoch(self) -> int:
        """Images that an epoch learns from, repeats counted."""
        return sum(row.seen_per_epoch for row in self.rows)


def make_ledger(plan: Plan, ids: Sequence[str], max_steps: int | None = None) -> Ledger:
    """The ledger of a sampler.

    Args:
        plan: The bucket batch sampler.
        ids: Id of each of its images.
        max_steps: Optimizer steps of the run; None leaves open how often an image is seen in it.
    """
    repeats, weights = plan.all_repeats(), plan.all_weights()
    total = math.fsum(repeat * weight for repeat, weight in zip(repeats, weights, strict=True))
    in_run = None if max_steps is None else _seen_in_run(plan, max_steps)
    rows = tuple(
        LedgerRow(
            id=id_,
            width=width,
            height=height,
            weight=weight,
            seen_per_epoch=repeat,
            share=repeat * weight / total,
            seen_in_run=None if in_run is None else in_run[index],
            batch_size=plan.batch_sizes[index] if plan.batch_sizes else None,
        )
        for index, (id_, (width, height), repeat, weight) in enumerate(
            zip(ids, plan.sizes, repeats, weights, strict=True)
        )
    )
    images = Counter(plan.bucket_of(index) for index in range(len(ids)))
    seen = plan.seen_by_bucket()
    sizes: list[SizeRow] = []
    for bucket in sorted(images):
        batches = -(-seen[bucket] // plan.pass_size_of(bucket))
        padding = batches * plan.pass_size_of(bucket) - seen[bucket]
        sizes.append(
            SizeRow(
                width=bucket.size[0],
                height=bucket.size[1],
                batch_size=bucket.batch_size,
                images=images[bucket],
                seen=seen[bucket],
                batches=batches,
                padding=padding,
            )
        )
    return Ledger(rows=rows, sizes=tuple(sizes), batch=plan.step_size, steps_per_epoch=plan.steps_per_epoch)


def _seen_in_run(plan: Plan, max_steps: int) -> list[int]:
    """Times that each image is learned from in the first steps of a run: whole epochs, and the beginning of one more."""
    epochs, rest = divmod(max_steps, plan.steps_per_epoch)
    seen = [epochs * repeat for repeat in plan.all_repeats()]
    for step in plan.epoch(epochs)[:rest] if rest else ():
        for forward in step:
            for slot in forward:
                seen[slot.index] += slot.weight > 0
    return seen


def ledger_lines(ledger: Ledger) -> list[str]:
    """What a user reads of a ledger: how often images are seen, with which weight, and what completes the batches."""
    times = Counter(row.seen_per_epoch for row in ledger.rows)
    number = len(ledger.rows)
    if set(times) == {1}:
        seen = "each is seen once an epoch" if number > 1 else "it is seen once an epoch"
    else:
        listed = ", ".join(f"{count:,} x {often}" for often, count in sorted(times.items()))
        seen = f"an epoch shows {ledger.seen_per_epoch:,} ({listed})"
    padding, batches = sum(size.padding for size in ledger.sizes), sum(size.batches for size in ledger.sizes)
    slots = ledger.seen_per_epoch + padding
    number_of_sizes = len({(size.width, size.height) for size in ledger.sizes})
    batch = f"{counted(batches, 'batch')} of {counted(number_of_sizes, 'size')}"
    fill = (
        f"{padding:,} of {slots:,} slots only complete a batch, with weight zero" if padding else "no slot is left over"
    )
    lines = [f"ledger: {counted(number, 'image')}; {seen}, in {batch}; {fill}"]
    weights = {row.weight for row in ledger.rows}
    if weights != {1.0}:
        least, most = min(ledger.rows, key=lambda row: row.share), max(ledger.rows, key=lambda row: row.share)
        lines.append(
            f"ledger: loss weights {min(weights):g} to {max(weights):g}; {least.id} is {least.share:.2%} of an epoch's "
            f"loss, {most.id} {most.share:.2%}"
        )
    own = Counter(row.batch_size for row in ledger.rows if row.batch_size is not None)
    if own:
        listed = ", ".join(f"{count:,} x {batch}" for batch, count in sorted(own.items()))
        lines.append(f"ledger: {own.total():,} images have the batch size of their folder ({listed})")
    return lines


def updates_sentence(ledger: Ledger, *, steps: int, step_seconds: float | None = None) -> str:
    """`63 images x 10 epochs = 160 updates of batch 4, about 2 min 40 s`.

    Args:
        ledger: The run's ledger.
        steps: Its optimizer steps.
        step_seconds: Time of one step; None leaves the time out.
    """
    number = len(ledger.rows)
    images = counted(number, "image")
    if ledger.seen_per_epoch != number:
        images += f" ({ledger.seen_per_epoch:,} an epoch with repeats)"
    epochs = steps / ledger.steps_per_epoch
    shown = f"{epochs:,.0f}" if epochs >= 100 or epochs == int(epochs) else f"{epochs:.3g}"
    time = f", about {duration(steps * step_seconds)}" if step_seconds is not None else ""
    plural = "s" * (shown != "1")
    return f"{images} x {shown} epoch{plural} = {counted(steps, 'update')} of batch {ledger.batch}{time}"


def write_ledger(folder: Path, ledger: Ledger) -> Path:
    """Write `ledger.jsonl`, one row an image; returns its path."""
    path = folder / LEDGER_FILE
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in ledger.rows))
    return path
