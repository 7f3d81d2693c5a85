"""The flags of diffusers' `train_text_to_image_lora.py`: supported ones, ones without effect, refused ones.

In: a command line. Out: `Flags` with that script's defaults, and notes for the user. Imports nothing heavy.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from loraloom.utils.errors import UserError, did_you_mean

SCHEDULERS = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine", "linear": "linear"}
"""Their scheduler -> ours. Warm-up is a separate setting."""
RESAMPLES = ("lanczos", "bicubic", "box", "nearest")

REFUSED = {
    "dataset_name": "nothing is downloaded: save the dataset as a folder with metadata.jsonl and name it with "
    "--train_data_dir",
    "dataset_config_name": "it belongs to --dataset_name, and nothing is downloaded: use --train_data_dir",
    "image_column": "a folder's metadata file names the image in file_name: rename the column",
    "max_train_samples": "training uses all images of --train_data_dir: give a smaller folder",
    "cache_dir": "set HF_HOME, which every Hugging Face library reads",
    "scale_lr": "compute the product and give it as --learning_rate: rate x batch x accumulation x devices",
    "push_to_hub": "nothing is uploaded: run `hf upload` with --output_dir afterwards",
    "hub_model_id": "nothing is uploaded: run `hf upload` with --output_dir afterwards",
    "hub_token": "a token on a command line can be read by others: run `hf auth login`",
}
"""Flags of their script that are refused, and what to do instead."""

WITHOUT_EFFECT = {
    "dataloader_num_workers": "latents and captions are encoded once and cached, so no data is loaded during training",
    "local_rank": "the launcher sets LOCAL_RANK",
    "allow_tf32": "float32 is computed in full precision; for speed use --mixed_precision bf16",
    "enable_xformers_memory_efficient_attention": "torch's own memory-efficient attention is always used",
    "logging_dir": "TensorBoard files are in OUTPUT_DIR/tensorboard",
    "validation_epochs": "sample images are generated at every checkpoint, and at the end of an epoch if the last "
    "ones are 50 steps old",
}
"""Flags that would not change what is learned: accepted with a note that says why they have no effect."""


THEIR_WORDS = {
    # Whole phrases first: what our flag does there may need another word.
    "drop --resume never to resume": "add --resume_from_checkpoint latest to resume",
    "drop --resume to resume": "say --resume_from_checkpoint latest to resume",
    "the same command resumes from here": "--resume_from_checkpoint latest resumes from here",
    "and the same command resumes": "and --resume_from_checkpoint latest resumes",
    "name one with --trigger, or write another --caption: 'a photo of {folder}'":
        "write a text for every image into metadata.jsonl",
    " (--caption)": "",
    "run `loraloom prepare` again": "delete OUTPUT_DIR/dataset and start the same command again",
    "--out": "--output_dir", "train.output": "--output_dir",
    "--resume": "--resume_from_checkpoint", "checkpoints.resume": "--resume_from_checkpoint",
    "--model": "--pretrained_model_name_or_path", "model.source": "--pretrained_model_name_or_path",
    "model.revision": "--revision", "model.variant": "--variant",
    "--size": "--resolution", "--caption-column": "--caption_column", "caption_column": "--caption_column",
    "--batch-size": "--train_batch_size", "data.batch_size": "--train_batch_size",
    "--random-flip": "--random_flip", "data.random_flip": "--random_flip",
    "--max-steps": "--max_train_steps", "train.max_steps": "--max_train_steps",
    "--gradient-accumulation": "--gradient_accumulation_steps",
    "train.gradient_accumulation": "--gradient_accumulation_steps",
    "--gradient-checkpointing": "--gradient_checkpointing", "train.gradient_checkpointing": "--gradient_checkpointing",
    "--mixed-precision": "--mixed_precision", "train.mixed_precision": "--mixed_precision",
    "train.seed": "--seed", "lora.rank": "--rank",
    "--learning-rate": "--learning_rate", "optim.learning_rate": "--learning_rate",
    "--lr-scheduler": "--lr_scheduler", "optim.scheduler": "--lr_scheduler",
    "--warmup-steps": "--lr_warmup_steps", "optim.warmup_steps": "--lr_warmup_steps",
    "--weight-decay": "--adam_weight_decay", "optim.weight_decay": "--adam_weight_decay",
    "optim.betas": "--adam_beta1, --adam_beta2", "optim.eps": "--adam_epsilon",
    "--max-grad-norm": "--max_grad_norm", "optim.max_grad_norm": "--max_grad_norm",
    "optim.optimizer=adamw8bit": "--use_8bit_adam",
    "--snr-gamma": "--snr_gamma", "objective.snr_gamma": "--snr_gamma",
    "--noise-offset": "--noise_offset", "objective.noise_offset": "--noise_offset",
    "objective.prediction_type": "--prediction_type", "--prediction-type": "--prediction_type",
    "--sample-prompt": "--validation_prompt", "samples.prompts": "--validation_prompt",
    "--checkpoint-every": "--checkpointing_steps", "checkpoints.every": "--checkpointing_steps",
    "--keep-checkpoints": "--checkpoints_total_limit", "checkpoints.keep": "--checkpoints_total_limit",
    "tracking.tensorboard": "--report_to tensorboard", "tracking.wandb": "--report_to wandb",
}  # fmt: skip
"""Our flags, settings and phrases in lines for the user -> their equivalents."""

_PHRASES = tuple(word for word in THEIR_WORDS if " " in word)
_WORDS = "|".join(re.escape(word) for word in THEIR_WORDS if " " not in word)
_FLAG = re.compile(r"(?<![\w.`'/-])--[a-z][a-z-]*[a-z](?![\w-])")
_OURS = re.compile(rf"(?<![\w.`/-])(?:{_WORDS})(?![\w-]|\.\w)")


def in_their_words(text: str) -> str:
    """A line for the user with the flags of their script instead of our flags and settings.

    A flag of ours that has no equivalent there is marked as ours.
    """
    for phrase in _PHRASES:
        text = text.replace(phrase, THEIR_WORDS[phrase])
    text = _OURS.sub(lambda match: THEIR_WORDS[match[0]], text)
    named = dict.fromkeys(_FLAG.findall(text))
    theirs = {f"--{name}" for name in (*(one.name for one in fields(Flags)), *WITHOUT_EFFECT, *REFUSED)}
    foreign = [name for name in named if name not in theirs and name in _our_flags()] if named else []
    if not foreign:
        return text
    are = "are flags" if len(foreign) > 1 else "is a flag"
    return f"{text}\n  ({', '.join(foreign)} {are} of `loraloom prepare` and `loraloom train`, not of this script)"


@cache
def _our_flags() -> set[str]:
    """All flags of settings, and the flags of verbs that are not settings."""
    from loraloom.config.describing import leaves  # pydantic: only a line that names a flag pays for it
    from loraloom.config.extending import complete
    from loraloom.config.generate import GenerateConfig
    from loraloom.config.prepare import PrepareConfig
    from loraloom.config.run import RunConfig

    of_settings = {
        leaf.flag for kind in (complete(PrepareConfig), RunConfig, GenerateConfig) for leaf in leaves(kind) if leaf.flag
    }
    return of_settings | {
        "--cpu",
        "--adapter",
        "--adapter-weight",
        "--prompt-method",
        "--config",
        "--set",
        "--num-processes",
    }


def flag(default: Any, text: str, kind: type | None = None, choices: Sequence[str] | None = None) -> Any:
    """A flag of theirs: their default, help, and the type of its value if the default does not determine it."""
    return field(default=default, metadata={"help": text, "kind": kind or type(default), "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The command line, with their script's defaults."""

    pretrained_model_name_or_path: str = flag(
        "", "Base model: hub id, diffusers folder or .safetensors checkpoint. Required."
    )
    revision: str | None = flag(None, "Branch, tag or commit of the model on the hub.", str)
    variant: str | None = flag(None, "Variant of the weight files, such as fp16.", str)
    train_data_dir: str = flag("", "Folder with images and metadata.jsonl or metadata.csv. Required.")
    output_dir: str = flag("sd-model-finetuned-lora", "Folder of the run.")
    caption_column: str = flag("text", "Caption column of the metadata file.")
    resolution: int = flag(512, "Side of the square training images in pixels.")
    center_crop: bool = flag(
        False, "Crop the centre; otherwise a random square, chosen ONCE per image, because its latents are cached."
    )
    random_flip: bool = flag(False, "Also train on mirrored images; refused if captions mention left or right.")
    image_interpolation_mode: str = flag("lanczos", "Filter for resizing.", choices=RESAMPLES)
    train_batch_size: int = flag(16, "Images per forward pass on one device.")
    gradient_accumulation_steps: int = flag(1, "Forward passes per optimizer step.")
    gradient_checkpointing: bool = flag(False, "Recompute activations: less memory, slower steps.")
    num_train_epochs: int = flag(100, "Number of passes over the dataset.")
    max_train_steps: int | None = flag(None, "Optimizer steps; overrides --num_train_epochs.", int)
    learning_rate: float = flag(1e-4, "Peak learning rate.")
    lr_scheduler: str = flag("constant", f"{', '.join(SCHEDULERS)}; constant has no warm-up, as in their script.")
    lr_warmup_steps: int = flag(500, "Warm-up steps of all schedulers but constant.")
    adam_beta1: float = flag(0.9, "Decay of the first moment, beta1.")
    adam_beta2: float = flag(0.999, "Decay of the second moment, beta2.")
    adam_weight_decay: float = flag(1e-2, "Weight decay.")
    adam_epsilon: float = flag(1e-8, "Term added to the denominator, epsilon.")
    use_8bit_adam: bool = flag(False, "Use the 8-bit AdamW of bitsandbytes.")
    max_grad_norm: float = flag(1.0, "Maximum norm of the gradients; larger ones are scaled down to it.")
    mixed_precision: str | None = flag(
        None, "Precision; default: that of `accelerate launch`, otherwise no.", str, ("no", "fp16", "bf16")
    )
    rank: int = flag(4, "Rank and alpha of every LoRA update.")
    snr_gamma: float | None = flag(None, "Limit of min-SNR loss weights.", float)
    noise_offset: float = flag(0.0, "Amplitude of the constant offset per channel that is added to the noise.")
    prediction_type: str | None = flag(
        None,
        "What the denoiser predicts; default: as in the model's scheduler config.",
        str,
        ("epsilon", "v_prediction"),
    )
    seed: int | None = flag(None, "Seed of all random numbers; default: 0.", int)
    validation_prompt: str | None = flag(None, "Prompt of the sample images during training.", str)
    num_validation_images: int = flag(4, "Number of images of --validation_prompt, each with its own seed.")
    checkpointing_steps: int = flag(500, "Optimizer steps between checkpoints.")
    checkpoints_total_limit: int | None = flag(None, "Number of newest checkpoints to keep; default: all.", int)
    resume_from_checkpoint: str | None = flag(None, "`latest`, or the folder or name of a checkpoint.", str)
    report_to: str | None = flag(
        None, "Trackers; default: tensorboard if it is installed.", str, ("tensorboard", "wandb", "all", "none")
    )


_METAVARS = {int: "N", float: "X", str: "TEXT"}


class _Parser(argparse.ArgumentParser):
    """Raises `UserError` for mistakes, as our verbs do."""

    def error(self, message: str) -> Any:
        raise UserError(message, fix="--help lists the flags")


def read_flags(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """The flags, and a note for each one that has no effect here.

    Raises:
        UserError: A flag is unknown, refused, required and missing, or has an invalid value.
    """
    parser = _parser()
    values, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise UserError("unknown flag", got=unknown[0], fix=did_you_mean(unknown[0].partition("=")[0], known))
    given = vars(values)
    for name, instead in REFUSED.items():
        if given.pop(name) is not None:
            raise UserError(f"--{name} is not supported here", fix=instead)
    notes = [
        f"note: --{name} has no effect here: {why}"
        for name, why in WITHOUT_EFFECT.items()
        if given.pop(name) is not None
    ]
    flags = Flags(**given)
    for name in ("pretrained_model_name_or_path", "train_data_dir"):
        if not getattr(flags, name):
            raise UserError(f"--{name} is required", fix="--help lists the flags")
    return flags, notes


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m loraloom.compat.train_text_to_image_lora",
        usage="%(prog)s --pretrained_model_name_or_path MODEL --train_data_dir FOLDER [flags]",
        description="Train a LoRA by the flags of diffusers' train_text_to_image_lora.py.",
    )
    taken = parser.add_argument_group("flags")
    for one in fields(Flags):
        details: dict[str, Any] = {"default": one.default, "help": one.metadata["help"]}
        if one.metadata["kind"] is bool:
            details["action"] = "store_true"
        else:
            kind, choices = one.metadata["kind"], one.metadata["choices"]
            details |= {"type": kind, "choices": choices, "metavar": None if choices else _METAVARS[kind]}
            if one.default not in (None, ""):
                details["help"] += " [default: %(default)s]"
        taken.add_argument(f"--{one.name}", **details)
    for title, names in (("accepted, without effect", WITHOUT_EFFECT), ("not supported", REFUSED)):
        group = parser.add_argument_group(title)
        for name, why in names.items():
            group.add_argument(f"--{name}", nargs="?", const="", default=None, metavar="…", help=why)
    return parser
