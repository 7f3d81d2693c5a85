"""A run while it trains: everything that a checkpoint keeps, and what the adapter records about itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraloom import __version__
from loraloom.config.domains import recorded_options
from loraloom.config.run import RunConfig
from loraloom.data.batches import BatchMaker
from loraloom.data.manifest import Manifest
from loraloom.data.sizes import common_size
from loraloom.lora.record import FORMAT, FULL_FORMAT, relative_base
from loraloom.tracking import Tracker
from loraloom.train.checkpoint import Checkpoint, CheckpointFolder
from loraloom.train.optim import (
    optimizer_tensors,
    restore_optimizer,
)
from loraloom.train.sampling import Sampler
from loraloom.train.step import TrainState
from loraloom.utils.errors import UserError
from loraloom.utils.locks import FolderLock
from loraloom.utils.untrusted import library_errors, shown

Say = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """A run that stands ready.

    Attributes:
        start: Finished steps of the checkpoint it goes on from, or 0.
        best_step, best_loss: Of the lowest validation loss so far.
        skipped_in_row: Updates that were not finite since the last good one; overflows of fp16's loss scale apart.
        skipped: All updates that were skipped since `start`.
        largest_norm: Of the gradients of all updates since `start` that were not skipped.
        sums_at_start: `weight_sums` before anything was learned or restored.
        notes: What was given and is not used as it was given, a line each.
        lock: Of the run folder, in the main process.
    """

    config: RunConfig
    folder: Path
    manifest: Manifest
    train_state: TrainState
    held_out: BatchMaker
    sampler: Sampler | None
    checkpoints: CheckpointFolder
    tracker: Tracker
    say: Say
    start: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    skipped_in_row: int = 0
    skipped: int = 0
    largest_norm: float = 0.0
    sums_at_start: Tensor | None = None
    base_sha256: str = ""
    notes: tuple[str, ...] = ()
    lock: FolderLock | None = None

    def checkpoint(self, done: int) -> Checkpoint:
        """Everything that a resume needs."""
        train_state = self.train_state
        tensors, rest = optimizer_tensors(train_state.updater.optimizer)
        averaged = (
            dict(zip(train_state.adapter.parameters, train_state.ema.shadow, strict=True)) if train_state.ema else {}
        )
        scale = train_state.updater.loss_scale
        state = {
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "skipped_in_row": self.skipped_in_row,
            "loss_scale": scale.value,
            "good_steps": scale.good_steps,
            "dataset": self.manifest.fingerprint,
            "devices": train_state.runtime.num_devices,
            "base_sha256": self.base_sha256,
            "balance": train_state.balance.seen_2k.tolist() if train_state.balance else None,
        }
        return Checkpoint(
            step=done,
            adapter=train_state.adapter.state(),
            ema=averaged,
            optimizer=tensors,
            optimizer_rest=rest,
            state=state,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: The dataset, the base or the number of devices is not what it was.
        """
        train_state, state = self.train_state, checkpoint.state
        now = {
            "dataset": self.manifest.fingerprint,
            "devices": train_state.runtime.num_devices,
            "base_sha256": self.base_sha256,
        }
        for key, value in now.items():
            if state.get(key) != value:
                raise UserError(
                    f"this run cannot go on: its {key} has changed",
                    got=value,
                    expected=shown(state.get(key)),
                    fix="restore it, or start a new run with another --out",
                )
        train_state.adapter.load(checkpoint.adapter)
        with library_errors("the checkpoint's state", f"step {checkpoint.step}", fix="choose another checkpoint"):
            self._restore_state(checkpoint)

    def _restore_state(self, checkpoint: Checkpoint) -> None:
        """What a checkpoint holds beside the weights; a file from elsewhere may hold anything there."""
        train_state, state = self.train_state, checkpoint.state
        if train_state.ema and checkpoint.ema:
            for shadow, key in zip(train_state.ema.shadow, train_state.adapter.parameters, strict=True):
                shadow.copy_(checkpoint.ema[key])
        restore_optimizer(train_state.updater.optimizer, checkpoint.optimizer, checkpoint.optimizer_rest)
        train_state.updater.loss_scale.value = state["loss_scale"]
        train_state.updater.loss_scale.good_steps = state["good_steps"]
        if train_state.balance:
            train_state.balance.seen_2k.copy_(torch.tensor(state["balance"]))
        self.start = checkpoint.step
        self.best_step, self.best_loss, self.skipped_in_row = (
            state["best_step"],
            state["best_loss"],
            state["skipped_in_row"],
        )

    def record(self, done: int) -> dict[str, Any]:
        """What the adapter says of itself."""
        config, model = self.config, self.train_state.model
        source = model.info.source
        width, height = common_size(self.manifest.examples)
        return {
            "format": FULL_FORMAT if config.train.method == "full" else FORMAT,
            "loraloom": __version__,
            "family": model.info.family,
            "base": {
                "source": source.location,
                "revision": source.revision,
                "variant": source.variant,
                "config": source.config,
                "prediction_type": source.prediction_type,
                "path": relative_base(source.location, self.folder),
            },
            "base_sha256": self.base_sha256,
            "rank": config.lora.rank,
            "alpha": config.lora.alpha or config.lora.rank,
            "target": config.lora.target,
            "prompt_method": config.prompts.method,
            "domain": config.data.domain,
            "domain_settings": recorded_options(config.data.domain, self.manifest.info.get("settings", {})),
            "trigger": self.manifest.info.get("settings", {}).get("trigger", ""),
            "dataset": self.manifest.fingerprint,
            "num_images": len(self.train_state.batches.examples),
            "size": f"{width}x{height}",
            "step": done,
            "epoch": done // self.train_state.epochs.steps_per_epoch,
            "batch_size": config.data.batch_size,
            "accumulation": config.train.gradient_accumulation,
            "optimizer": config.optim.optimizer,
            "scheduler": config.optim.scheduler,
            "precision": config.train.mixed_precision,
            "base_file_sha256": model.modules.file_sha256(),
            "max_steps": config.train.max_steps,
            "learning_rate": config.optim.learning_rate,
            "seed": config.train.seed,
            "config": config.model_dump(mode="json"),
        }
