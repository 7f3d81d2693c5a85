"""The typed tree of one training run: `RunConfig` and its groups.

Field order is reading order; `loraloom config` prints the tree as commented YAML.
"""

import re
from typing import Literal

from pydantic import field_validator, model_validator

from loraloom.config.base import Settings, setting

PromptMethod = Literal["attention", "truncate", "smart", "mean", "max", "weighted"]
Precision = Literal["no", "fp16", "bf16"]


class ModelConfig(Settings):
    """The base model."""

    source: str = setting(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "hub id, diffusers folder or .safetensors checkpoint",
        flag="--model",
        resumable=True,  # its weights are compared, not how its place is spelled
    )
    family: str = setting("auto", "kind of model; auto reads its configuration", flag="--family")
    revision: str | None = setting(None, "hub branch, tag or commit", flag="--revision")
    variant: str | None = setting(None, "weight file variant such as fp16", flag="--variant")
    config: str | None = setting(
        None,
        "for a single checkpoint: folder or hub id that has the same layout's configs and tokenizer",
        flag="--model-config",
    )
    options: tuple[str, ...] = setting(
        (),
        "options of the model's family, NAME=VALUE; `loraloom extensions FAMILY` lists them; recorded with the adapter",
        flag="--model-option",
    )


class DataConfig(Settings):
    """What is learned from."""

    dataset: str = setting(
        "", "folder made by `loraloom prepare`", flag="--dataset", resumable=True
    )  # compared by content
    domain: str = setting("auto", "what the texts are about; auto is what the dataset was prepared as", flag="--domain")
    batch_size: int = setting(4, "images in one forward pass on one device", flag="--batch-size", ge=1)
    random_flip: bool = setting(
        False, "also learn from mirrored images; refused when captions speak of left and right", flag="--random-flip"
    )
    caption_dropout: float = setting(
        0.05,
        "share of images learned without caption, for classifier-free guidance",
        flag="--caption-dropout",
        ge=0,
        le=1,
    )
    cache: bool = setting(
        True,
        "keep latents and text states on disk for the next run; off: in memory only",
        flag="--cache",
        resumable=True,
    )
    cache_dir: str | None = setting(
        None, "folder of the cache; default is inside the dataset", flag="--cache-dir", resumable=True
    )
    encode_batch_size: int = setting(4, "images encoded at once while caching", ge=1, resumable=True)


class PromptConfig(Settings):
    """How long captions reach the denoiser."""

    method: PromptMethod = setting(
        "attention", "what becomes of captions longer than one window", flag="--prompt-method"
    )
    max_windows: int = setting(8, "most windows of one caption; longer captions are an error that names them", ge=1)


class LoraConfig(Settings):
    """Which layers learn, and how much."""

    target: str = setting(
        "cross_attention",
        "cross_attention, attention, all_linear, all_linear_conv, or a regular expression on layer names",
        flag="--target",
    )
    rank: int = setting(16, "rank of every update", flag="--rank", ge=1)
    alpha: float | None = setting(
        None, "scale: updates are multiplied by alpha / rank; default is the rank", flag="--alpha", gt=0
    )
    dropout: float = setting(0.0, "dropout before the update", flag="--lora-dropout", ge=0, lt=1)
    text_encoder: bool = setting(
        False,
        "the text encoder learns too: LoRA on its attention, or with method full all of it",
        flag="--text-encoder",
    )
    ema_decay: float | None = setting(
        None, "keep an exponential moving average of the adapter and export it", flag="--ema-decay", gt=0, lt=1
    )


class OptimConfig(Settings):
    """How the adapter moves."""

    optimizer: Literal["adamw", "muon", "adamw8bit", "prodigy"] = setting(
        "adamw",
        "muon learns whole models from fewer images; adamw8bit and prodigy need the extra `optim`",
        flag="--optimizer",
    )
    learning_rate: float = setting(1e-4, "peak learning rate (prodigy: use 1.0)", flag="--learning-rate", gt=0)
    text_encoder_learning_rate: float | None = setting(None, "for the text encoder's LoRA; default is the same", gt=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the optimizer's two averages")
    eps: float = setting(1e-8, "added to the denominator", gt=0)
    weight_decay: float = setting(1e-2, "decoupled weight decay", flag="--weight-decay", ge=0)
    max_grad_norm: float = setting(
        1.0, "gradients are scaled down to this norm; 0 is off", flag="--max-grad-norm", ge=0
    )
    scheduler: Literal["constant", "cosine", "linear"] = setting(
        "constant", "learning rate after warm-up", flag="--lr-scheduler"
    )
    warmup_steps: int = setting(0, "steps over which the learning rate rises", flag="--warmup-steps", ge=0)


class ObjectiveConfig(Settings):
    """What counts as right, and at which noise."""

    snr_gamma: float | None = setting(
        None, "min-SNR weighting (Hang et al. 2023), 5.0 is usual", flag="--snr-gamma", gt=0
    )
    balance_noise: bool = setting(
        False,
        "every noise level counts alike: losses are divided by their running mean there (Karras et al. 2024)",
        flag="--balance-noise",
    )
    class_weights: tuple[str, ...] = setting(
        (),
        "in colour-coded images latents that hold a class count more: NAME=WEIGHT, 'interior door=5' say, or '#a06400=5'",
        flag="--class-weight",
    )
    noise_offset: float = setting(0.0, "share of per-channel constant noise added", flag="--noise-offset", ge=0)
    timestep_sampling: Literal["uniform", "logit_normal"] = setting(
        "uniform", "logit_normal (Esser et al. 2024) learns middle noise more often", flag="--timestep-sampling"
    )
    logit_mean: float = setting(
        0.0, "of logit_normal: below 0 towards little noise, where details are decided", flag="--logit-mean"
    )
    logit_std: float = setting(1.0, "of logit_normal: how wide", flag="--logit-std", gt=0)
    timestep_shift: float = setting(
        1.0,
        "above 1 moves the timesteps to high noise, where the layout is decided (Esser et al. 2024); 1 leaves them",
        flag="--timestep-shift",
        gt=0,
    )
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = setting(
        "auto", "auto is what the model's scheduler says"
    )

    @field_validator("class_weights")
    @classmethod
    def _class_weights_can_be_read(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        read_class_weights(texts)
        return texts


def read_class_weights(texts: tuple[str, ...]) -> dict[str, float]:
    """`NAME=WEIGHT` of each text, the weight 0 or more; NAME may be a colour, `#rrggbb`.

    Raises:
        ValueError: A text that is no such thing, or a name twice.
    """
    weights: dict[str, float] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(#[0-9a-fA-F]{6}|[^#=\s][^=]*?)\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*", text)
        if not match:
            raise ValueError(f"{text!r} is not NAME=WEIGHT, such as 'interior door=5' or '#a06400=5'")
        name = match[1].lower() if match[1].startswith("#") else match[1]
        if name in weights:
            raise ValueError(f"{name!r} has two weights")
        weights[name] = float(match[2])
    return weights


class TrainConfig(Settings):
    """How long, how precise, how often."""

    method: Literal["lora", "full"] = setting(
        "lora",
        "lora: an adapter beside frozen weights; full: every weight, ends in a model folder (needs some 16 bytes a weight)",
        flag="--method",
    )
    output: str = setting("runs/run", "folder of the run", flag="--out", resumable=True)
    max_steps: int = setting(800, "optimizer steps", flag="--max-steps", ge=1)
    gradient_accumulation: int = setting(
        1, "forward passes for one optimizer step", flag="--gradient-accumulation", ge=1
    )
    mixed_precision: Precision = setting(
        "no", "no, fp16 or bf16; the adapter stays in float32", flag="--mixed-precision"
    )
    gradient_checkpointing: bool = setting(
        False, "recompute activations: less memory, slower", flag="--gradient-checkpointing", resumable=True
    )
    channels_last: bool = setting(
        True,
        "memory layout of the convolutions on a GPU; a CPU never uses it: small models were 5x slower",
        resumable=True,
    )
    compile: bool = setting(
        False, "torch.compile the denoiser: slower start, faster steps", flag="--compile", resumable=True
    )
    seed: int = setting(0, "decides every random number of the run", flag="--seed", ge=0)
    log_every: int = setting(10, "steps between log lines", flag="--log-every", ge=1, resumable=True)
    validation_every: int = setting(
        100,
        "steps between validation losses on the held-out split; 0 is off",
        flag="--validation-every",
        ge=0,
        resumable=True,
    )
    strict: bool = setting(
        False,
        "a caption or sample prompt that is not read in full, or holds syntax that is text here, is an error",
        flag="--strict",
        resumable=True,
    )
    max_non_finite: int = setting(10, "skipped updates in a row after which the run ends", ge=1, resumable=True)


class CheckpointConfig(Settings):
    """What survives a kill."""

    every: int = setting(
        100, "steps between checkpoints; 0 saves at the end only", flag="--checkpoint-every", ge=0, resumable=True
    )
    keep: int = setting(3, "newest checkpoints kept, beside the best", flag="--keep-checkpoints", ge=1, resumable=True)
    resume: str = setting(
        "auto",
        "auto: the newest whole one; never: refuse a used folder; or a directory",
        flag="--resume",
        resumable=True,
    )


class SampleConfig(Settings):
    """Images drawn while learning."""

    prompts: tuple[str, ...] = setting(
        (), "what to draw; default is three captions of the dataset", flag="--sample-prompt", resumable=True
    )
    negative_prompt: str = setting("", "what to avoid", resumable=True)
    enabled: bool = setting(
        True, "draw at step 0, at every checkpoint, every epoch end and the end", flag="--samples", resumable=True
    )
    min_interval: int = setting(
        50, "no samples at an epoch end when the last ones are fewer steps old", ge=1, resumable=True
    )
    steps: int = setting(10, "denoiser steps", flag="--sample-steps", ge=1, resumable=True)
    guidance_scale: float | None = setting(
        None,
        "classifier-free guidance; default is what suits the model",
        flag="--sample-guidance",
        ge=1,
        resumable=True,
    )
    sampler: str = setting("auto", "solver; auto is what suits the model", resumable=True)
    seed: int = setting(0, "of the first prompt; the next has the next", ge=0, resumable=True)
    size: int | None = setting(None, "side, pixels; default is the dataset's most common size", ge=16, resumable=True)
    deadline_s: float = setting(600.0, "drawing is broken off after this many seconds", gt=0, resumable=True)


class TrackingConfig(Settings):
    """Where numbers go; JSON lines are always written."""

    tensorboard: bool = setting(False, "write TensorBoard files (extra `track`)", flag="--tensorboard", resumable=True)
    wandb: bool = setting(
        False, "log to Weights & Biases (extra `track`; WANDB_MODE=offline works)", flag="--wandb", resumable=True
    )
    project: str = setting("loraloom", "Weights & Biases project", resumable=True)


class ExportConfig(Settings):
    """What is written for other programs."""

    dtype: Literal["fp32", "fp16", "bf16"] = setting(
        "fp16", "of the exported files; adapter.safetensors stays fp32", flag="--export-dtype", resumable=True
    )
    verify: bool = setting(
        True, "load every export into a fresh pipeline and compare images", flag="--verify-export", resumable=True
    )


class RunConfig(Settings):
    """One training run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    prompts: PromptConfig = PromptConfig()
    lora: LoraConfig = LoraConfig()
    optim: OptimConfig = OptimConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    samples: SampleConfig = SampleConfig()
    tracking: TrackingConfig = TrackingConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _checks_across_fields(self) -> "RunConfig":
        if self.optim.warmup_steps > self.train.max_steps:
            raise ValueError(
                f"optim.warmup_steps is {self.optim.warmup_steps} but train.max_steps is {self.train.max_steps}: "
                "the learning rate would never reach its peak"
            )
        if self.optim.optimizer == "prodigy" and self.optim.learning_rate < 0.1:
            raise ValueError(
                f"optim.learning_rate is {self.optim.learning_rate} but prodigy finds its own step and expects about 1.0"
            )
        if self.optim.optimizer == "prodigy" and self.optim.text_encoder_learning_rate is not None:
            raise ValueError(
                "optim.text_encoder_learning_rate cannot be set with prodigy, which finds one step for all"
            )
        logit = (self.objective.logit_mean, self.objective.logit_std)
        if self.objective.timestep_sampling == "uniform" and logit != (0.0, 1.0):
            raise ValueError(
                "objective.logit_mean and logit_std are for logit_normal, but objective.timestep_sampling is uniform"
            )
        if self.objective.balance_noise and self.objective.snr_gamma is not None:
            raise ValueError("objective.balance_noise and snr_gamma both weigh noise levels: choose one")
        of_adapter = self.lora.model_dump(exclude_defaults=True).keys() & {"target", "rank", "alpha", "dropout"}
        if self.train.method == "full" and of_adapter:
            raise ValueError(f"lora.{min(of_adapter)} is for an adapter, but train.method is full: every weight learns")
        if self.lora.text_encoder and self.data.caption_dropout == 1:
            raise ValueError("lora.text_encoder has nothing to learn from when data.caption_dropout is 1")
        return self
