"""Settings of a run that exclude each other, or of which one would do nothing.

In: a `RunConfig`. Out: one sentence for each contradiction, the most important ones first.
"""

from collections.abc import Iterator
from typing import Any

Run = Any
"""A `RunConfig`, which checks itself here."""


def contradictions(config: Run) -> Iterator[str]:
    """What in the settings of a run contradicts itself."""
    yield from _of_optimizer(config)
    yield from _of_objective(config)
    yield from _of_method(config)
    if config.train.shard:
        yield from _of_shard(config)
    if config.lora.text_encoder and config.data.caption_dropout == 1:
        yield "lora.text_encoder is on, but data.caption_dropout is 1: the text encoder would see no caption"


def _of_optimizer(config: Run) -> Iterator[str]:
    optim, max_steps = config.optim, config.train.max_steps
    if optim.warmup_steps > max_steps:
        yield (
            f"optim.warmup_steps is {optim.warmup_steps} but train.max_steps is {max_steps}: "
            "the learning rate would never reach its peak"
        )
    if optim.optimizer == "prodigy" and optim.learning_rate < 0.1:
        yield f"optim.learning_rate is {optim.learning_rate}, but prodigy estimates the step size itself: use about 1.0"
    if optim.optimizer == "prodigy" and optim.text_encoder_learning_rate is not None:
        yield "optim.text_encoder_learning_rate cannot be set with prodigy, which estimates one step size for all weights"


def _of_objective(config: Run) -> Iterator[str]:
    objective = config.objective
    logit = (objective.logit_mean, objective.logit_std)
    if objective.timestep_sampling == "uniform" and logit != (0.0, 1.0):
        yield "objective.logit_mean and logit_std require objective.timestep_sampling logit_normal, but it is uniform"
    if objective.balance_noise and objective.snr_gamma is not None:
        yield "objective.balance_noise and snr_gamma both set the loss weights of noise levels: choose one"


def _of_method(config: Run) -> Iterator[str]:
    of_adapter = config.lora.model_dump(exclude_defaults=True).keys() & {"target", "rank", "alpha", "dropout"}
    if config.train.method == "full" and of_adapter:
        yield f"lora.{min(of_adapter)} belongs to an adapter, but train.method is full: all weights are trained"
    if config.train.block_swap and config.train.method == "full":
        yield "train.block_swap is for frozen weights, but train.method is full: all weights are trained"
    if config.train.low_bits != "no" and config.train.method == "full":
        yield "train.low_bits is for frozen weights, but train.method is full: all weights are trained"
    if config.train.low_bits != "no" and config.train.compile:
        yield "train.low_bits and train.compile exclude each other: choose one"
    if config.train.block_swap and config.train.compile:
        yield "train.block_swap and train.compile exclude each other: choose one"


def _of_shard(config: Run) -> Iterator[str]:
    if config.train.method != "full":
        yield (
            "train.shard splits weights that are trained, but train.method is lora: for a base that does not fit use "
            "train.block_swap"
        )
    if config.train.compile:
        yield "train.shard and train.compile exclude each other: choose one"
    if config.lora.text_encoder:
        yield "train.shard splits the denoiser only, but lora.text_encoder is on: choose one"
    if config.optim.optimizer != "adamw":
        yield f"train.shard works with optim.optimizer=adamw, but it is {config.optim.optimizer}: others read whole matrices"
