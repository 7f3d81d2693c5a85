"""What moves while a run trains: `TrainState`, which a step reads and updates, and `Run` around it.

Both name their components, so that a checkpoint is a loop over them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from loraloom import __version__
from loraloom.config.domains import recorded_options
from loraloom.config.run import RunConfig
from loraloom.data.batches import BatchMaker
from loraloom.data.bucket_sampler import EpochCache
from loraloom.data.manifest import Manifest
from loraloom.data.sizes import common_size
from loraloom.diffusion.balance import NoiseBalance
from loraloom.diffusion.objective import UNIFORM, Objective, TimestepSampling
from loraloom.lora.inject import Adapter
from loraloom.lora.record import FORMAT, FULL_FORMAT, relative_base
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.model import DiffusionModel
from loraloom.tracking import Tracker
from loraloom.train.checkpoint import Checkpoint, CheckpointFolder
from loraloom.train.components import AdapterWeights, BestLoss, Component, RunIdentity, UpdateCounts
from loraloom.train.distributed import Runtime
from loraloom.train.optim import Ema, Updater
from loraloom.train.sampling import Sampler
from loraloom.utils.errors import UserError
from loraloom.utils.locks import FolderLock
from loraloom.utils.untrusted import library_errors, shown


@dataclass(slots=True, kw_only=True)
class TrainState:
    """All that a step reads or updates.

    Attributes:
        model: The base model; its denoiser is on the device.
        adapter: The trained weights.
        objective: Forward process, target and loss.
        updater: Applies gradients to the weights.
        ema: The average of the weights, or None.
        batches: Makes batches of the training split.
        epochs: The images of each step.
        runtime: This process and its device.
        seed: Seed of the run; determines every random number.
        timestep_sampling: How often each timestep is trained on.
        channels_last: Whether tensors of images are laid out with channels last, for CUDA.
        balance: The noise balance, or None.
        ragged: Whether repeats of weight zero are left out of batches: alone and uncompiled, nothing requires batches of
            one size.
    """

    model: DiffusionModel
    adapter: Adapter
    objective: Objective
    updater: Updater
    ema: Ema | None
    batches: BatchMaker
    epochs: EpochCache
    runtime: Runtime
    seed: int
    timestep_sampling: TimestepSampling = UNIFORM
    channels_last: bool = True
    balance: NoiseBalance | None = None
    ragged: bool = False

    @property
    def encoder(self) -> PromptEncoder:
        """Encodes captions and prompts."""
        return self.batches.encoder

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.epochs.steps_per_epoch

    def components(self) -> dict[str, Component]:
        """What a checkpoint keeps of it, by name."""
        found: dict[str, Component] = {
            "adapter": AdapterWeights(self.adapter),
            "optimizer": self.updater,
            "loss_scale": self.updater.loss_scale,
        }
        if self.ema:
            found["ema"] = self.ema
        if self.balance:
            found["noise_balance"] = self.balance
        return found


@dataclass(slots=True, kw_only=True)
class Run:
    """A run after its setup: settings, folder, and everything that moves.

    Attributes:
        train_state: What a step reads and updates.
        held_out: Makes batches of the validation split.
        start: Finished steps of the checkpoint that the run continues from, or 0.
        best: The lowest validation loss so far.
        counts: Skipped updates and the largest gradient norm.
        sums_at_start: `weight_sums` before anything was learned or restored.
        base_sha256: Fingerprint of the denoiser's weights.
        notes: One line for each thing that was given and is not used as it was given.
        lock: The lock of the run folder, in the main process.
    """

    config: RunConfig
    folder: Path
    manifest: Manifest
    train_state: TrainState
    held_out: BatchMaker
    sampler: Sampler | None
    checkpoints: CheckpointFolder
    tracker: Tracker
    sums_at_start: Tensor
    base_sha256: str
    notes: tuple[str, ...] = ()
    start: int = 0
    best: BestLoss = field(default_factory=BestLoss)
    counts: UpdateCounts = field(default_factory=UpdateCounts)
    lock: FolderLock | None = None

    def components(self) -> dict[str, Component]:
        """All that a checkpoint keeps, by name. The identity comes first: it refuses before anything is overwritten."""
        identity = RunIdentity(
            dataset=self.manifest.fingerprint,
            devices=self.train_state.runtime.num_devices,
            base_sha256=self.base_sha256,
        )
        return {
            "identity": identity,
            **self.train_state.components(),
            "best_loss": self.best,
            "counts": self.counts,
        }

    def checkpoint(self, done: int) -> Checkpoint:
        """Everything that a resume needs after `done` finished steps."""
        return Checkpoint(
            step=done,
            components={name: component.state_dict() for name, component in self.components().items()},
            weights_of="ema" if self.train_state.ema else "adapter",
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            UserError: The dataset, the base or the number of devices has changed, or the checkpoint holds other
                components or other values than a run with these settings writes.
        """
        own, fix = self.components(), "choose another checkpoint"
        if other := own.keys() ^ checkpoint.components.keys():
            raise UserError("the checkpoint has other components than this run", got=shown(min(other)), fix=fix)
        for name, component in own.items():
            # A file from elsewhere may hold anything.
            with library_errors(f"the checkpoint's {name}", f"step {checkpoint.step}", fix=fix):
                component.load_state_dict(checkpoint.components[name])
        self.start = checkpoint.step

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
                **({"options": list(source.options)} if source.options else {}),
                "path": relative_base(source.location, self.folder),
            },
            "base_sha256": self.base_sha256,
            "clip_skip": model.info.clip_skip,
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
            "epoch": done // self.train_state.steps_per_epoch,
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
