"""Actions after a step: one pure function of the step and the settings."""

from dataclasses import dataclass

from loraloom.config.run import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """The actions after a step."""

    log: bool
    validate: bool
    save: bool
    sample: bool


def actions_after(done: int, config: RunConfig, steps_per_epoch: int, last_sampled: int, has_held_out: bool) -> Actions:
    """The actions when `done` steps are finished.

    Args:
        done: Finished steps, from 1.
        config: Settings of the run.
        steps_per_epoch: Steps of an epoch.
        last_sampled: Finished steps when samples were last generated.
        has_held_out: Whether there are images to validate with.
    """
    last = done == config.train.max_steps
    save = last or _every(done, config.checkpoints.every)
    epoch_end = done % steps_per_epoch == 0 and done - last_sampled >= config.samples.min_interval
    return Actions(
        log=last or _every(done, config.train.log_every),
        validate=has_held_out
        and config.train.validation_every > 0
        # With every save too: otherwise the best checkpoint is not known.
        and (save or _every(done, config.train.validation_every)),
        save=save,
        sample=config.samples.enabled and (save or epoch_end),
    )


def _every(done: int, interval: int) -> bool:
    return interval > 0 and done % interval == 0
