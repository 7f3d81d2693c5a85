"""The training loop: a step, then the actions after it: log, validate, save, sample.

In: a `Run` after its setup. Out: `Finished`. One loop for every family; families answer questions, nobody subclasses.
"""

import math
import time
from dataclasses import dataclass, field

import torch

from loraloom.config.reading import to_yaml
from loraloom.train.checkpoint import damage
from loraloom.train.components import AdapterWeights
from loraloom.train.intervals import NOTHING, actions_after
from loraloom.train.rank_figures import gather_figures, slowest
from loraloom.train.sharding import shared_out
from loraloom.train.signals import StopRequest
from loraloom.train.state import Run
from loraloom.train.step import StepResult, train_step, validation_loss
from loraloom.utils.atomic_files import write_text
from loraloom.utils.errors import UserError
from loraloom.utils.heartbeat import heartbeat
from loraloom.utils.reporting import log, reporter

VALIDATION_TIMESTEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a run ended.

    Attributes:
        step: Finished steps.
        stopped: Name of the signal that ended it early, or empty.
        best_step: Step of the lowest validation loss, or None.
        seconds: Time in the loop.
    """

    step: int
    stopped: str
    best_step: int | None
    seconds: float


@dataclass(slots=True)
class Window:
    """Results since the last log line; they stay on the device until then."""

    results: list[StepResult] = field(default_factory=list[StepResult])
    began: float = field(default_factory=time.perf_counter)


def train_loop(run: Run, stop: StopRequest) -> Finished:
    """Train from `run.start` to the configured end.

    Args:
        run: A run after its setup.
        stop: Set by a signal or by the end of the run's time.

    Raises:
        UserError: Too many updates in a row were not finite, or the last checkpoint could not be saved.
    """
    config, train_state, runtime = run.config, run.train_state, run.train_state.runtime
    steps_per_epoch = train_state.steps_per_epoch
    timesteps = validation_timesteps(train_state.objective.num_timesteps)
    began, window, done, stopped = time.perf_counter(), Window(), run.start, ""
    last_sampled, progress = run.start, reporter().bar("steps")
    if run.sampler and (run.start == 0 or lacks_samples(run, steps_per_epoch)):
        run.sampler.sample(run.start, train_state.ema, run.tracker, lambda: bool(stop))
        window.began = time.perf_counter()
    for step in range(run.start, config.train.max_steps):
        heartbeat().step(step)
        result = train_step(train_state, step, stop=bool(stop))
        window.results.append(result)
        done = step + 1
        progress(done, config.train.max_steps)
        due = actions_after(done, config, steps_per_epoch, last_sampled, bool(run.held_out.examples))
        # Reading the votes waits for the device, so it is done each step only where others' votes count.
        stopping = bool(stop) if runtime.num_devices == 1 else bool(result.stop_votes > 0)
        paused = time.perf_counter()
        if due != NOTHING or stopping:
            hold_on(run)
        if due.compare or stopping:
            compare_weights(run, done)
        numbers = flush_metrics(run, window, done) if due.log or due.save or due.latest or stopping else {}
        loss = validate(run, timesteps, done) if due.validate or (stopping and run.held_out.examples) else None
        if loss is not None:
            numbers["validation_loss"] = loss
        if due.log:
            reporter().numbers(done, numbers)
        if due.save or due.latest or stopping:
            save(run, done, loss, last=done == config.train.max_steps or stopping, rolling=due.latest and not stopping)
        if due.sample and run.sampler and not stopping:
            run.sampler.sample(done, train_state.ema, run.tracker, lambda: bool(stop))
            last_sampled = done
        if due.log or due.save or due.latest:
            window.began = time.perf_counter()
        else:
            window.began += time.perf_counter() - paused
        if stopping:
            stopped = stop.reason or "another process"
            break
    return Finished(step=done, stopped=stopped, best_step=run.best.step, seconds=time.perf_counter() - began)


def compare_weights(run: Run, done: int) -> None:
    """See that all ranks hold the same weights: before a checkpoint, so that no other ones are saved.

    Raises:
        UserError: They differ; names the ranks.
    """
    runtime = run.train_state.runtime
    alone = runtime.num_devices == 1 and not heartbeat().active  # the supervisor of a cluster compares too
    if alone or shared_out(run):  # of split weights each rank holds others
        return
    sha256 = AdapterWeights(run.train_state.adapter).sha256()
    heartbeat().weights(done, sha256)
    if runtime.num_devices == 1:
        return
    runtime.check_equal(
        f"the ranks no longer hold the same weights after step {done}",
        sha256,
        f"{standing(run)}; run again, and look at the memory and the driver of the named machine if it happens again",
    )


def lacks_samples(run: Run, steps_per_epoch: int) -> bool:
    """Whether the run was killed after the save of the step that it resumes from and before that step's samples were
    complete. Samples of earlier steps are complete: they come before the next step."""
    due = actions_after(run.start, run.config, steps_per_epoch, run.start, has_held_out=False)
    lacking = run.train_state.runtime.gather_texts(["lack" if run.sampler and run.sampler.lack(run.start) else ""])
    return (due.sample or due.latest) and any(lacking)


def flush_metrics(run: Run, window: Window, done: int) -> dict[str, float]:
    """Read the window's numbers from the device, find non-finite updates, and record all.

    Raises:
        UserError: `train.max_non_finite` updates in a row were skipped.
    """
    results = window.results
    if not results:
        return {}
    values = torch.stack([torch.stack([r.loss, r.grad_norm, r.finite.float()]) for r in results]).tolist()
    seconds = time.perf_counter() - window.began
    for offset, (result, (loss, norm, finite)) in enumerate(zip(results, values, strict=True)):
        step = done - len(results) + offset + 1
        if finite:
            run.counts.applied(norm)
            continue
        overflow = overflowed(result, loss)
        run.counts.skip(overflow=overflow)
        if overflow:
            run.tracker.event("overflow", step, loss=loss, loss_scale=result.loss_scale)
        else:
            log.warning(f"step {step} was skipped: loss {loss}, gradient norm {norm}; samples {', '.join(result.ids)}")
            run.tracker.event("skipped", step, loss=loss, grad_norm=norm, samples=list(result.ids))
        if run.counts.skipped_in_row >= run.config.train.max_non_finite:
            # Of many updates in a row the images are innocent; of a single one they may be the cause.
            images = f", or look at these samples: {', '.join(result.ids)}" if run.counts.skipped_in_row == 1 else ""
            raise UserError(
                f"{run.counts.skipped_in_row} updates in a row were not finite, the last at step {step}",
                got=f"loss {loss}, gradient norm {norm}",
                fix=f"{standing(run)}; {calmer(run)}{images}",
            )
    good = [row for row in values if row[2]] or values  # skipped updates would make the means infinite
    numbers = {
        "loss": sum(row[0] for row in good) / len(good),
        "learning_rate": results[-1].learning_rate,
        "grad_norm": sum(row[1] for row in good) / len(good),
        "images_per_second": sum(result.num_images for result in results) / max(seconds, 1e-9),
        "steps_per_second": len(results) / max(seconds, 1e-9),
        "peak_memory_mib": run.train_state.runtime.peak_memory_mib(),
        "epoch": results[-1].epoch,
    }
    figures = gather_figures(
        run.train_state.runtime,
        run.gpu,
        busy_seconds=sum(result.busy.seconds() for result in results),
        images=sum(len(result.ids) for result in results),
        seconds=seconds,
    )
    if len(figures) > 1:
        late = slowest(figures)
        numbers |= {"slowest_rank": late, "slowest_busy": figures[late].busy}
        numbers |= {f"rank_{rank}_images_per_second": one.images_per_second for rank, one in enumerate(figures)}
    else:
        numbers |= figures[0].gpu
    run.tracker.event("train", done, **numbers)
    for rank, one in enumerate(figures if len(figures) > 1 else ()):
        run.tracker.event(f"rank_{rank}", done, **one.numbers())
    results.clear()
    return numbers


def overflowed(result: StepResult, loss: float) -> bool:
    """Whether a skipped fp16 update only found the loss scale too high: normal, recorded, not counted and not said."""
    return result.can_overflow and math.isfinite(loss)


def calmer(run: Run) -> str:
    """What keeps updates finite, for messages: an imperative that fits the run's precision."""
    lower = "lower optim.learning_rate"
    return f"{lower}, use bf16 instead of fp16" if run.config.train.mixed_precision == "fp16" else lower


def standing(run: Run) -> str:
    """Which checkpoint a run can resume from, for messages."""
    whole = (step for step in reversed(run.checkpoints.steps()) if damage(run.checkpoints.path(step)) is None)
    newest = next(whole, None)
    return "there is no checkpoint yet" if newest is None else f"the checkpoint of step {newest} is whole"


def validate(run: Run, timesteps: tuple[int, ...], done: int) -> float | None:
    """The held-out loss now, without dropout, with the average weights where there are any; recorded."""
    train_state = run.train_state
    learning = [train_state.model.modules.get(part) for part in train_state.adapter.modules]
    if train_state.ema:
        train_state.ema.swap()
    for module in learning:
        module.eval()
    try:
        with torch.compiler.set_stance("force_eager"):  # its shapes are its own: not worth a compilation
            loss = validation_loss(train_state, run.held_out, timesteps)
    finally:
        for module in learning:
            module.train()
        if train_state.ema:
            train_state.ema.swap()
    if loss is not None:
        run.tracker.event("validation", done, loss=loss)
    return loss


def save(run: Run, done: int, loss: float | None, *, last: bool, rolling: bool = False) -> None:
    """Save a checkpoint, then let old ones go. A full disk is reported and training continues, unless it was the last save.

    Raises:
        UserError: The last checkpoint could not be saved.
    """
    before = run.best.step, run.best.loss
    if loss is not None and run.best.better(loss):
        run.best.step, run.best.loss = done, loss
    began = time.perf_counter()
    checkpoint = run.checkpoint(done) if run.train_state.runtime.is_main or shared_out(run) else None
    if checkpoint is None or not run.train_state.runtime.is_main:
        return
    try:
        run.checkpoints.save(checkpoint, run.record(done), rolling=rolling)
    except OSError as error:
        run.best.step, run.best.loss = before
        message = f"step {done} could not be saved ({error.strerror or error})"
        if last:
            raise UserError(
                message, got=str(run.checkpoints.folder), fix=f"{standing(run)}; free some space and run again"
            ) from error
        log.warning(f"{message}; {standing(run)}; training continues")
        run.tracker.event("save_failed", done, error=str(error))
        return
    run.checkpoints.rotate(run.config.checkpoints.keep, run.best.step)
    run.tracker.event("checkpoint", done, seconds=time.perf_counter() - began)


def hold_on(run: Run) -> None:
    """See, before something is written, that the run folder is still there and ours; a removed one is made anew.

    Raises:
        UserError: Another process took it: a run never writes into somebody else's folder.
    """
    if not run.train_state.runtime.is_main:
        return
    try:
        removed = run.lock.renew() if run.lock else False
        if removed or not (run.folder / "run.yaml").is_file():
            if not removed:
                log.warning(f"{run.folder / 'run.yaml'} was removed while training: it is written again")
            write_text(run.folder / "run.yaml", to_yaml(run.config))
    except OSError as error:  # the save itself tells what this costs
        log.warning(f"{run.folder} cannot be written ({error.strerror or error}); training continues")


def validation_timesteps(num_timesteps: int) -> tuple[int, ...]:
    """The middles of equal parts of the forward process."""
    return tuple(int((part + 0.5) / VALIDATION_TIMESTEPS * num_timesteps) for part in range(VALIDATION_TIMESTEPS))
