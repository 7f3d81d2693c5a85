"""How `mini` is made: counts of pictures and steps, and the settings of its training runs.

In: a folder of `build-mini`. Out: the settings that `prepare` and `train` are called with.
"""

from dataclasses import dataclass
from pathlib import Path

from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import RunConfig

SAMPLE_PROMPTS = (
    "a red house and two green trees on a meadow",
    "a blue car on the street at night",
    "Plain FloorPlan Generation [Number and Type of Rooms] The floorplan have 1 living room, 1 master room, 1 kitchen, "
    "1 bathroom, 1 bedroom, 1 balcony, 0 storage, 0 entrance [Connection Between Rooms] living room #1 and master room #1 "
    "are connected. living room #1 and bedroom #1 are connected. living room #1 and kitchen #1 are connected. living room "
    "#1 and bathroom #1 are connected. living room #1 and balcony #1 are connected. [Positional Relationship Between Rooms] "
    "master room #1 is left-below living room #1. bedroom #1 is left-above living room #1. kitchen #1 is above living room "
    "#1. bathroom #1 is left-of living room #1. balcony #1 is below living room #1.",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How `mini` is made; `docs/mini.md` says how far it is.

    Attributes:
        pictures: Drawn for the denoiser.
        autoencoder_pictures, autoencoder_steps: For the autoencoder.
        decoder_steps: Of its decoder alone, once the denoiser is done: until then only the encoder is needed.
        lesson_texts, reading_steps: Of the text encoder, before there are pictures.
        first_steps: Of the denoiser before it is grounded.
        grounding_steps: Of its deep layers.
        steps: Of the denoiser in a round after that, the learning rate falling to zero.
        text_encoder: Whether the text encoder learns on with the denoiser.
        contrast_steps: Of the vision tower, after them.
        batch_size, learning_rate: Of the denoiser.
        precision: `no`, or `bf16` on a GPU.
        compile: torch.compile the denoiser.
    """

    pictures: int = 8_000
    autoencoder_pictures: int = 3_400
    autoencoder_steps: int = 5_400
    decoder_steps: int = 2_400
    lesson_texts: int = 12_000
    reading_steps: int = 2_000
    first_steps: int = 600
    grounding_steps: int = 500
    steps: int = 4_000
    text_encoder: bool = False
    contrast_steps: int = 2_000
    batch_size: int = 32
    learning_rate: float = 4e-3
    precision: str = "no"
    compile: bool = False


PREPARED = PrepareConfig(
    size=256, crop="center", resample="nearest", min_size=256, domain="floorplan", validation_share=0.01,
    near_duplicate_bits=0,
)  # fmt: skip


def start_of(folder: Path, round_: Path, *, first: bool = False) -> Path:
    """The model that a round's run begins from, or the short one before grounding."""
    return round_ / "start" if (round_ / "start").is_dir() else folder / ("start" if first else "grounded")


def run_config(folder: Path, round_: Path, recipe: Recipe, *, first: bool = False) -> RunConfig:
    """The training run of a round, or the short one before grounding."""
    start = start_of(folder, round_, first=first)
    steps = recipe.first_steps if first else recipe.steps
    return RunConfig.model_validate(
        {
            "model": {"source": str(start)},
            "data": {
                "dataset": str(round_ / "dataset"), "batch_size": recipe.batch_size,
                "caption_dropout": 0.1, "encode_batch_size": 16,
            },
            "lora": {"text_encoder": recipe.text_encoder and not first, "ema_decay": 0.99},
            "optim": {
                "optimizer": "muon", "learning_rate": recipe.learning_rate, "weight_decay": 0.01, "betas": (0.9, 0.99),
                "warmup_steps": min(100, steps // 10), "scheduler": "linear",
            },
            # Much noise teaches where things are; with too little of the rest colours ran and doors were lost (decision 0011).
            "objective": {"timestep_shift": 3.0 if first else 1.0},
            "train": {
                "output": str(round_ / ("first" if first else "run")), "method": "full", "max_steps": steps, "log_every": 50,
                "mixed_precision": recipe.precision, "compile": recipe.compile, "validation_every": 500,
            },
            "checkpoints": {"every": 500, "keep": 2},
            "samples": {
                "prompts": SAMPLE_PROMPTS, "steps": 20, "guidance_scale": 4.0, "size": 256,
                "min_interval": 500,
            },
            "export": {"dtype": "fp16"},
        }
    )  # fmt: skip
