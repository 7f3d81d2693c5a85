"""The typed tree of one training run: `RunConfig` and its groups.

Field order is reading order; `loraloom config` prints the tree as commented YAML.
"""

from typing import Literal

from pydantic import field_validator, model_validator

from loraloom.config.augment import AugmentConfig
from loraloom.config.base import Settings, setting
from loraloom.config.contradictions import contradictions
from loraloom.config.pairs import read_batch_sizes, read_class_weights, read_encoder_dropout

PromptMethod = Literal["attention", "truncate", "smart", "mean", "max", "weighted"]
Precision = Literal["no", "fp16", "bf16"]


MAX_CLIP_SKIP = 64
"""Limit of `model.clip_skip`: as many layers as a text encoder may have."""


class ModelConfig(Settings):
    """The base model."""

    source: str = setting(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Base model: hub id, diffusers folder or .safetensors checkpoint.",
        flag="--model",
        resumable=True,  # the weights are compared, not the name
    )
    family: str = setting("auto", "Model family; auto detects it from the configuration.", flag="--family")
    revision: str | None = setting(
        None, "Branch, tag or commit on the hub; default: the main branch.", flag="--revision"
    )
    variant: str | None = setting(
        None, "Variant of the weight files, such as fp16; default: files without a variant.", flag="--variant"
    )
    config: str | None = setting(
        None,
        "For a single-file checkpoint: folder or hub id with configs and tokenizer of the same architecture, or a folder "
        "with CLIP's tokenizer; flow families also take text encoders and VAE from it.",
        flag="--model-config",
    )
    options: tuple[str, ...] = setting(
        (),
        "Options of the model's family, NAME=VALUE; `loraloom extensions FAMILY` lists them. Recorded with the adapter.",
        flag="--model-option",
    )
    clip_skip: int | None = setting(
        None,
        "Layer of the text encoders that is read, counted from the end as A1111 and sd-scripts do: 1 is the last one, 2 the "
        "one before it; default: the one that the model was made with.",
        flag="--clip-skip",
        ge=1,
        le=MAX_CLIP_SKIP,
    )


class DataConfig(Settings):
    """Training data."""

    dataset: str = setting(
        "", "Dataset folder, written by `loraloom prepare`.", flag="--dataset", resumable=True
    )  # its content is compared, not its path
    domain: str = setting(
        "auto", "Domain of the captions; auto takes the one that the dataset was prepared with.", flag="--domain"
    )
    batch_size: int = setting(4, "Images in one forward pass on one device.", flag="--batch-size", ge=1)
    batch_size_from: tuple[str, ...] = setting(
        (),
        "Smaller batch size of large images, as SIDE=N: 768=2 for images of at least 768 squared pixels; default: none.",
        flag="--batch-size-from",
    )
    random_flip: bool = setting(
        False,
        "Also train on mirrored images; left and right are exchanged in their captions, see augment.flip_unknown.",
        flag="--random-flip",
    )
    caption_dropout: float = setting(
        0.05,
        "Fraction of images trained with an empty caption, 0 to 1; classifier-free guidance requires some.",
        flag="--caption-dropout",
        ge=0,
        le=1,
    )
    encoder_dropout: tuple[str, ...] = setting(
        (),
        "Fraction of images for which one text encoder alone reads an empty caption, as ENCODER=P: text_encoder_2=0.1; "
        "independent of caption_dropout and of the other encoders; for models of several; default: none.",
        flag="--encoder-dropout",
    )
    cache: bool = setting(
        True,
        "Keep latents and prompt embeddings on disk for the next run; off: in memory only.",
        flag="--cache",
        resumable=True,
    )
    cache_dir: str | None = setting(
        None, "Folder of the cache; default: inside the dataset.", flag="--cache-dir", resumable=True
    )
    encode_batch_size: int = setting(
        4, "Images encoded in one batch while the cache is precomputed.", ge=1, resumable=True
    )

    @model_validator(mode="after")
    def _pairs_can_be_read(self) -> "DataConfig":
        read_batch_sizes(self.batch_size_from, self.batch_size)
        read_encoder_dropout(self.encoder_dropout)
        return self


class PromptConfig(Settings):
    """How long captions are encoded."""

    method: PromptMethod = setting(
        "attention",
        "How captions longer than one encoder window are encoded; `loraloom tokens` compares the methods.",
        flag="--prompt-method",
    )
    max_windows: int = setting(
        8, "Maximum number of encoder windows of one caption; a longer caption is an error that names it.", ge=1
    )


class LoraConfig(Settings):
    """Which layers are adapted, and the size of their updates."""

    target: str = setting(
        "cross_attention",
        "Layers to adapt: cross_attention, attention, all_linear, all_linear_conv, or a regular expression on layer names.",
        flag="--target",
    )
    rank: int = setting(16, "Rank of every LoRA update.", flag="--rank", ge=1)
    alpha: float | None = setting(
        None, "LoRA alpha: updates are multiplied by alpha / rank; default: the rank.", flag="--alpha", gt=0
    )
    dropout: float = setting(
        0.0, "Dropout probability on the input of every update.", flag="--lora-dropout", ge=0, lt=1
    )
    text_encoder: bool = setting(
        False,
        "Also train the text encoder: LoRA on its attention layers, or all its weights with method full.",
        flag="--text-encoder",
    )
    ema_decay: float | None = setting(
        None,
        "Decay of an exponential moving average of the weights, which is exported instead of them; default: no average.",
        flag="--ema-decay",
        gt=0,
        lt=1,
    )


class OptimConfig(Settings):
    """Optimizer and learning rate."""

    optimizer: Literal["adamw", "muon", "adamw8bit", "prodigy"] = setting(
        "adamw",
        "Optimizer; adamw8bit and prodigy require the extra `optim`.",
        flag="--optimizer",
    )
    learning_rate: float = setting(1e-4, "Peak learning rate; use 1.0 with prodigy.", flag="--learning-rate", gt=0)
    text_encoder_learning_rate: float | None = setting(
        None, "Peak learning rate of the text encoder's LoRA; default: learning_rate.", gt=0
    )
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "Decay rates of the optimizer's running averages of gradient and squared gradient."
    )
    eps: float = setting(1e-8, "Added to the optimizer's denominator for numerical stability.", gt=0)
    weight_decay: float = setting(1e-2, "Decoupled weight decay.", flag="--weight-decay", ge=0)
    max_grad_norm: float = setting(
        1.0, "Gradients with a larger norm are scaled down to it; 0: no clipping.", flag="--max-grad-norm", ge=0
    )
    scheduler: Literal["constant", "cosine", "linear"] = setting(
        "constant", "Learning rate schedule after warm-up.", flag="--lr-scheduler"
    )
    warmup_steps: int = setting(
        0, "Optimizer steps over which the learning rate rises linearly from 0.", flag="--warmup-steps", ge=0
    )


class ObjectiveConfig(Settings):
    """Training objective: noise levels and loss weights."""

    snr_gamma: float | None = setting(
        None,
        "Gamma of min-SNR loss weights (Hang et al. 2023), usually 5.0; default: no such weights.",
        flag="--snr-gamma",
        gt=0,
    )
    balance_noise: bool = setting(
        False,
        "Divide each loss by its running mean at that noise level, so that all levels contribute equally (Karras et al. 2024).",
        flag="--balance-noise",
    )
    class_weights: tuple[str, ...] = setting(
        (),
        "Loss weight of a class in colour-coded images, as NAME=WEIGHT: 'interior door=5', or '#a06400=5' for a colour.",
        flag="--class-weight",
    )
    noise_offset: float = setting(
        0.0,
        "Amplitude of the constant offset per channel that is added to the noise; 0: none.",
        flag="--noise-offset",
        ge=0,
    )
    timestep_sampling: Literal["uniform", "logit_normal"] = setting(
        "uniform",
        "Distribution of training timesteps; logit_normal (Esser et al. 2024) samples medium noise levels more often.",
        flag="--timestep-sampling",
    )
    logit_mean: float = setting(
        0.0, "Mean of logit_normal; below 0 favours low noise levels, which determine details.", flag="--logit-mean"
    )
    logit_std: float = setting(1.0, "Standard deviation of logit_normal.", flag="--logit-std", gt=0)
    timestep_shift: float = setting(
        1.0,
        "Timestep shift (Esser et al. 2024) beside the model's own; above 1 favours high noise levels, which determine the "
        "layout; 1: the noise levels that the model's samplers visit.",
        flag="--timestep-shift",
        gt=0,
    )
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = setting(
        "auto", "What the denoiser predicts; auto reads it from the model's scheduler config."
    )

    @field_validator("class_weights")
    @classmethod
    def _class_weights_can_be_read(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        read_class_weights(texts)
        return texts


class TrainConfig(Settings):
    """Duration, precision, and intervals of the run."""

    method: Literal["lora", "full"] = setting(
        "lora",
        "lora: train an adapter; full: fine-tune all weights and write a model folder (about 16 bytes of memory per weight).",
        flag="--method",
    )
    output: str = setting("runs/run", "Folder of the run.", flag="--out", resumable=True)
    max_steps: int = setting(800, "Number of optimizer steps.", flag="--max-steps", ge=1)
    gradient_accumulation: int = setting(1, "Forward passes per optimizer step.", flag="--gradient-accumulation", ge=1)
    mixed_precision: Precision = setting(
        "no",
        "Precision of the forward pass; no: float32. The trained weights stay in float32.",
        flag="--mixed-precision",
    )
    gradient_checkpointing: bool = setting(
        False,
        "Recompute activations in the backward pass: less memory, slower steps.",
        flag="--gradient-checkpointing",
        resumable=True,
    )
    block_swap: float = setting(
        0.0,
        "Blocks of the frozen denoiser that stay in CPU memory and are copied to the GPU while they compute, as a number of "
        "blocks or a share below 1; their activations are recomputed; 0: off.",
        flag="--block-swap",
        ge=0,
        resumable=True,
    )
    shard: bool = setting(
        False,
        "With --method full and several processes: split weights, gradients and optimizer state over them (FSDP2), for "
        "models that do not fit one GPU.",
        flag="--shard",
        resumable=True,
    )
    low_bits: Literal["no", "fp8", "nf4"] = setting(
        "no",
        "How the frozen linear layers of the denoiser's blocks are stored: fp8 takes 8 bits a weight, nf4 4.5; no: as "
        "mixed_precision says. It saves memory and costs speed and precision: leave it at no where bf16 fits. Adapters and "
        "exports stay in full precision.",
        flag="--low-bits",
    )
    channels_last: bool = setting(
        True,
        "Channels-last memory layout of convolutions on a GPU; never used on a CPU, where small models were 5 times slower.",
        resumable=True,
    )
    compile: bool = setting(
        False, "Compile the denoiser with torch.compile: slower start, faster steps.", flag="--compile", resumable=True
    )
    seed: int = setting(0, "Seed of the run; determines every random number.", flag="--seed", ge=0)
    log_every: int = setting(10, "Optimizer steps between log lines.", flag="--log-every", ge=1, resumable=True)
    validation_every: int = setting(
        100,
        "Optimizer steps between validations on the held-out split; 0: no validation.",
        flag="--validation-every",
        ge=0,
        resumable=True,
    )
    strict: bool = setting(
        False,
        "Treat as errors: captions and sample prompts that are not read in full, or contain syntax that is plain text here.",
        flag="--strict",
        resumable=True,
    )
    compare_every: int = setting(
        100,
        "Optimizer steps between comparisons of the weights' hash over all processes, which are also compared at every "
        "checkpoint; 0: at checkpoints only.",
        flag="--compare-every",
        ge=0,
        resumable=True,
    )
    max_non_finite: int = setting(
        10,
        "End the run after this many consecutive updates were skipped because of non-finite values.",
        ge=1,
        resumable=True,
    )


class CheckpointConfig(Settings):
    """Checkpoints and resuming."""

    every: int = setting(
        100, "Optimizer steps between checkpoints; 0: only at the end.", flag="--checkpoint-every", ge=0, resumable=True
    )
    latest_every: int = setting(
        0,
        "Optimizer steps between updates of the one rolling checkpoint, latest_*, beside the numbered ones; 0: none.",
        flag="--latest-every",
        ge=0,
        resumable=True,
    )
    keep: int = setting(
        3,
        "Number of newest checkpoints to keep, in addition to the best one.",
        flag="--keep-checkpoints",
        ge=1,
        resumable=True,
    )
    resume: str = setting(
        "auto",
        "auto: resume from the newest complete checkpoint; never: error if the folder holds a run; or a checkpoint folder.",
        flag="--resume",
        resumable=True,
    )


class SampleConfig(Settings):
    """Sample images during training."""

    prompts: tuple[str, ...] = setting(
        (), "Prompt of a sample image; default: three captions of the dataset.", flag="--sample-prompt", resumable=True
    )
    prompt_file: str | None = setting(
        None,
        "Text file with a sample prompt per line (or several lines between lines of ---), which may be edited during the run; "
        "or the name of a built-in set, such as driving.",
        flag="--sample-prompts",
        resumable=True,
    )
    negative_prompt: str = setting("", "Negative prompt of all sample images.", resumable=True)
    enabled: bool = setting(
        True,
        "Generate sample images on every rank at step 0, every checkpoint, the end of every epoch, and the end.",
        flag="--samples",
        resumable=True,
    )
    min_interval: int = setting(
        50,
        "Minimum number of optimizer steps since the last samples; fewer: no samples at the end of an epoch.",
        ge=1,
        resumable=True,
    )
    steps: int = setting(10, "Denoising steps of a sample image.", flag="--sample-steps", ge=1, resumable=True)
    guidance_scale: float | None = setting(
        None,
        "Scale of classifier-free guidance; 1: off; default: the model's.",
        flag="--sample-guidance",
        ge=1,
        resumable=True,
    )
    sampler: str = setting("auto", "Sampler (solver); auto: the model's default.", resumable=True)
    seed: int = setting(
        0, "Seed of the first sample image; the following prompts use the following seeds.", ge=0, resumable=True
    )
    size: int | None = setting(
        None,
        "Side of a square sample image in pixels; default: the most common size of the dataset.",
        ge=16,
        resumable=True,
    )
    deadline_s: float = setting(
        600.0,
        "Time limit of one round of samples in seconds; after it the remaining images are skipped.",
        gt=0,
        resumable=True,
    )


class TrackingConfig(Settings):
    """Trackers; JSON lines are always written."""

    tensorboard: bool = setting(
        False, "Write TensorBoard files; requires the extra `track`.", flag="--tensorboard", resumable=True
    )
    wandb: bool = setting(
        False,
        "Log to Weights & Biases; requires the extra `track`; WANDB_MODE=offline is supported.",
        flag="--wandb",
        resumable=True,
    )
    project: str = setting("loraloom", "Name of the Weights & Biases project.", resumable=True)


class ExportConfig(Settings):
    """Adapter files for other programs."""

    dtype: Literal["fp32", "fp16", "bf16"] = setting(
        "fp16",
        "Dtype of the exported files; adapter.safetensors is always fp32.",
        flag="--export-dtype",
        resumable=True,
    )
    verify: bool = setting(
        True,
        "Load every exported file into a new pipeline and compare the images.",
        flag="--verify-export",
        resumable=True,
    )


class RunConfig(Settings):
    """One training run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
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
        for contradiction in contradictions(self):
            raise ValueError(contradiction)
        return self
