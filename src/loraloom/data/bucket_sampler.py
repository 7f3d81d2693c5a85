"""Which images an optimizer step learns from: a pure function of the settings, the seed and the step.

In: image sizes, batch size, number of devices. Out: for every step of an epoch its forward passes, each a list of
slots that all ranks share out among themselves.

    epoch  -> steps          every image once, or as often as it is repeated, in an order computed from (seed, epoch)
    step   -> forward passes `gradient_accumulation` of them, fewer in an epoch's last step
    pass   -> slots          batch_size x num_devices images of one size; rank r takes its own run of them

Images whose folder has a batch size of its own share passes only with images of that batch size. A bucket's tail is
completed by repeats of weight zero, and a step's loss is divided by the slots of a whole step, so that every image has
its exact share of an epoch whatever the buckets. Because a pass spans all devices, two devices with batch 2 learn from
the same images as one with batch 4. A run keeps the passes of the number of devices that it was started with: another
number of ranks shares the same passes out, in micro-batches of at most batch_size. So steps, images and cursor do not
depend on the number of ranks that happens to be at work. For a resume only that first number is saved.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple

from loraloom.utils.rng import permutation
from loraloom.utils.untrusted import check_range

MAX_DEVICES = 1 << 16
"""Largest number of devices that a checkpoint may name."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a forward pass.

    Attributes:
        index: Which image.
        weight: Its loss weight, usually 1.0; 0.0 for a repeat that only completes the batch.
        copy: Which repetition of the image in this epoch, from 0: each has random numbers of its own.
    """

    index: int
    weight: float
    copy: int = 0


class Bucket(NamedTuple):
    """Images that share forward passes: those of one (width, height) with one batch size on a device."""

    size: tuple[int, int]
    batch_size: int


Pass = tuple[Slot, ...]
Step = tuple[Pass, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of a run.

    Attributes:
        sizes: (width, height) of every image.
        batch_size: Images in a forward pass on one device.
        num_devices: Devices that the run was started with: a forward pass has a full batch for each of them.
        accumulation: Forward passes in a step.
        seed: Decides the order.
        repeats: Times that an epoch shows each image, 1 or more; empty: once.
        weights: Loss weight of each image, above 0; empty: 1.0.
        smaller_batches: Batch size of images of at least this many pixels, the largest number of pixels first; others have
            `batch_size`.
        batch_sizes: Batch size of each image instead of `batch_size`; None is that; empty: None of all. Large images have
            the smaller one of it and that of `smaller_batches`.
    """

    sizes: tuple[tuple[int, int], ...]
    batch_size: int
    num_devices: int
    accumulation: int
    seed: int
    repeats: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    smaller_batches: tuple[tuple[int, int], ...] = ()
    batch_sizes: tuple[int | None, ...] = ()
    largest_batch: int = field(init=False)
    """Batch size of the images that have the largest one, whatever their size in pixels."""

    def __post_init__(self) -> None:
        own = {self.batch_size if one is None else one for one in self.batch_sizes}
        object.__setattr__(self, "largest_batch", max(own, default=self.batch_size))

    def all_repeats(self) -> tuple[int, ...]:
        """Times that an epoch shows each image."""
        return self.repeats or (1,) * len(self.sizes)

    def all_weights(self) -> tuple[float, ...]:
        """Loss weight of each image."""
        return self.weights or (1.0,) * len(self.sizes)

    def batch_size_of(self, size: tuple[int, int], own: int | None = None) -> int:
        """Images of a size in a forward pass on one device; `own` is the batch size of their folder."""
        pixels = size[0] * size[1]
        usual = next((batch for least, batch in self.smaller_batches if pixels >= least), None)
        return min(one for one in (usual, own or self.batch_size) if one is not None)

    def bucket_of(self, index: int) -> Bucket:
        """The bucket of an image."""
        own = self.batch_sizes[index] if self.batch_sizes else None
        return Bucket(self.sizes[index], self.batch_size_of(self.sizes[index], own))

    def pass_size_of(self, bucket: Bucket) -> int:
        """Slots of a forward pass of images of a bucket, over all devices."""
        return bucket.batch_size * self.num_devices

    @property
    def pass_size(self) -> int:
        """Slots of the largest forward pass over all devices."""
        return self.largest_batch * self.num_devices

    @property
    def step_size(self) -> int:
        """Slots of the largest optimizer step: what a step's summed loss is divided by, so that all images count alike."""
        return self.pass_size * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every image is seen once, or as often as it is repeated."""
        passes = sum(-(-count // self.pass_size_of(bucket)) for bucket, count in self.seen_by_bucket().items())
        return -(-passes // self.accumulation)

    def slots(self) -> tuple[int, int]:
        """Slots of an epoch, and how many of them are repeats of weight zero."""
        counts = [(count, self.pass_size_of(bucket)) for bucket, count in self.seen_by_bucket().items()]
        slots = sum(-(-count // full) * full for count, full in counts)
        return slots, slots - sum(count for count, _ in counts)

    def seen_by_bucket(self) -> dict[Bucket, int]:
        """Images of each bucket in an epoch, repeats counted."""
        return {bucket: len(members) for bucket, members in self._buckets().items()}

    def epoch(self, number: int) -> tuple[Step, ...]:
        """All steps of an epoch."""
        passes: list[Pass] = []
        weights = self.all_weights()
        for bucket, members in sorted(self._buckets().items()):
            usual = bucket.batch_size == self.batch_size_of(bucket.size)
            name = f"{bucket.size}" if usual else f"{bucket.size} in passes of {self.pass_size_of(bucket)}"
            order = permutation(len(members), self.seed, number, name, "bucket order")
            shuffled = [members[place] for place in order]
            full = self.pass_size_of(bucket)
            for start in range(0, len(shuffled), full):
                chunk = shuffled[start : start + full]
                fill = [Slot(chunk[k % len(chunk)][0], 0.0, chunk[k % len(chunk)][1]) for k in range(full - len(chunk))]
                passes.append((*(Slot(index, weights[index], copy) for index, copy in chunk), *fill))
        mixed = [passes[place] for place in permutation(len(passes), self.seed, number, "pass order")]
        return tuple(tuple(mixed[i : i + self.accumulation]) for i in range(0, len(mixed), self.accumulation))

    def micro_batches(self, forward: Pass, rank: int, num_ranks: int) -> tuple[Pass, ...]:
        """What one of `num_ranks` ranks computes of a forward pass: consecutive slots, at most batch_size at a time.

        With more ranks than slots some ranks have nothing to compute.
        """
        start, end = (place * len(forward) // num_ranks for place in (rank, rank + 1))
        batch = self.bucket_of(forward[0].index).batch_size
        return tuple(forward[k : min(k + batch, end)] for k in range(start, end, batch))

    def _buckets(self) -> dict[Bucket, list[tuple[int, int]]]:
        """(index, copy) of the images of each bucket."""
        buckets: dict[Bucket, list[tuple[int, int]]] = defaultdict(list)
        known: dict[tuple[tuple[int, int], int | None], Bucket] = {}
        own = self.batch_sizes or repeat(None)
        for index, (size, batch, times) in enumerate(zip(self.sizes, own, self.all_repeats(), strict=False)):
            if (bucket := known.get((size, batch))) is None:
                bucket = known[size, batch] = Bucket(size, self.batch_size_of(size, batch))
            buckets[bucket] += [(index, copy) for copy in range(times)]
        return buckets


class EpochCache:
    """The steps of the epoch that was asked for last: a step needs its epoch's order, not all epochs'.

    As a component of the training state it keeps the number of devices that the run was started with.
    """

    def __init__(self, plan: Plan) -> None:
        self._use(plan)

    def _use(self, plan: Plan) -> None:
        self.plan = plan
        self.steps_per_epoch = plan.steps_per_epoch  # walks all images: once a run, not once a step
        self._number = -1
        self._steps: Sequence[Step] = ()

    def step(self, step: int) -> tuple[int, Step]:
        """Epoch number and forward passes of an optimizer step counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._number:
            self._number, self._steps = epoch, self.plan.epoch(epoch)
        return epoch, self._steps[place]

    def state_dict(self) -> dict[str, Any]:
        """The number of devices that the run was started with."""
        return {"num_devices": self.plan.num_devices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the passes of the run's first start, whatever the number of ranks now.

        Raises:
            UserError: It is no number of devices.
        """
        check_range(state["num_devices"], "num_devices of the bucket sampler", 1, MAX_DEVICES)
        self._use(replace(self.plan, num_devices=state["num_devices"]))
