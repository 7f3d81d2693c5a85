"""Components of the training state: what a checkpoint keeps, each behind `state_dict` and `load_state_dict`.

A component's state is a flat mapping of names to tensors and JSON values. The optimizer, the average and the loss scale
are in `train/optim.py`, the noise balance in `diffusion/balance.py`; the small ones are here.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from loraloom.lora.inject import Adapter
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import check_range, shown


class Component(Protocol):
    """A part of the training state."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resume needs, as tensors and JSON values by name."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UserError: A value is not one that `state_dict` returns.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What must not change between the start of a run and its resume. It loads nothing; it refuses.

    Attributes:
        dataset: Fingerprint of the dataset's manifest.
        devices: Number of processes that train together.
        base_sha256: Fingerprint of the denoiser's weights.
    """

    dataset: str
    devices: int
    base_sha256: str

    def state_dict(self) -> dict[str, Any]:
        """The three values."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare.

        Raises:
            UserError: The dataset, the number of devices or the base has changed.
        """
        for key, value in self.state_dict().items():
            if state.get(key) != value:
                raise UserError(
                    f"this run cannot continue: its {key} has changed",
                    got=value,
                    expected=shown(state.get(key)),
                    fix="restore it, or start a new run with another --out",
                )


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """The trained weights of an adapter, by key, float32 on the CPU."""

    adapter: Adapter

    def state_dict(self) -> dict[str, Any]:
        """Copies of all weights."""
        return dict(self.adapter.state())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Overwrite all weights.

        Raises:
            UserError: A key is missing, unknown or of another shape.
        """
        self.adapter.load(state)


@dataclass(slots=True, kw_only=True)
class BestLoss:
    """The lowest validation loss so far and its step; None before the first validation."""

    step: int | None = None
    loss: float | None = None

    def better(self, loss: float) -> bool:
        """Whether `loss` is finite and lower than all before."""
        return math.isfinite(loss) and (self.loss is None or loss < self.loss)

    def state_dict(self) -> dict[str, Any]:
        """Both values."""
        return {"step": self.step, "loss": self.loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take both values; they are None together.

        Raises:
            UserError: They are not a step and a number.
        """
        step, loss = state["step"], state["loss"]
        if step is not None or loss is not None:
            check_range(step, "step of the lowest validation loss", 0, 10**12)
            check_range(loss, "lowest validation loss", -1e300, 1e300, whole=False)
        self.step, self.loss = step, loss


@dataclass(slots=True, kw_only=True)
class UpdateCounts:
    """What became of the updates of a run.

    Attributes:
        skipped_in_row: Non-finite updates since the last finite one; overflows of fp16's loss scale are not counted.
        skipped: All updates that were skipped.
        largest_norm: The largest gradient norm of all updates that were not skipped.
    """

    skipped_in_row: int = 0
    skipped: int = 0
    largest_norm: float = 0.0

    def applied(self, norm: float) -> None:
        """Count an update that was not skipped."""
        self.skipped_in_row = 0
        self.largest_norm = max(self.largest_norm, norm)

    def skip(self, *, overflow: bool) -> None:
        """Count a skipped update."""
        self.skipped += 1
        self.skipped_in_row += not overflow

    def state_dict(self) -> dict[str, Any]:
        """All counts."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all counts.

        Raises:
            UserError: One of them is not a number from 0.
        """
        for key in ("skipped_in_row", "skipped"):
            check_range(state[key], key, 0, 10**12)
        check_range(state["largest_norm"], "largest_norm", 0, math.inf, whole=False)
        self.skipped_in_row, self.skipped = state["skipped_in_row"], state["skipped"]
        self.largest_norm = float(state["largest_norm"])
