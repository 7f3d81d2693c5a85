"""The flags of diffusers' `train_text_to_image_lora.py`: which we take, which do nothing here, which we refuse and why.

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
"""Theirs: ours. The warm-up is told apart elsewhere."""
RESAMPLES = ("lanczos", "bicubic", "box", "nearest")

REFUSED = {
    "dataset_name": "nothing is downloaded: save the dataset as a folder with metadata.jsonl and name it with "
    "--train_data_dir",
    "dataset_config_name": "it belongs to --dataset_name, and nothing is downloaded: use --train_data_dir",
    "image_column": "a folder's metadata file names the image in file_name: rename the column",
    "max_train_samples": "all images of --train_data_dir are learned from: point it to a smaller folder",
    "cache_dir": "set HF_HOME, which every Hugging Face library reads",
    "scale_lr": "give the product yourself as --learning_rate: rate x batch x accumulation x devices",
    "push_to_hub": "nothing is uploaded: run `hf upload` with --output_dir afterwards",
    "hub_model_id": "nothing is uploaded: run `hf upload` with --output_dir afterwards",
    "hub_token": "a token on a command line can be read by others: run `hf auth login`",
}
"""Flags of their script that we do not take, and what to do instead."""

WITHOUT_EFFECT = {
    "dataloader_num_workers": "latents and texts are encoded once and kept, there is nothing to load meanwhile",
    "local_rank": "the launcher says it in LOCAL_RANK",
    "allow_tf32": "float32 stays float32; for speed use --mixed_precision bf16",
    "enable_xformers_memory_efficient_attention": "torch's own memory-efficient attention is always used",
    "logging_dir": "TensorBoard files are in OUTPUT_DIR/tensorboard",
    "validation_epochs": "images are drawn at every checkpoint and epoch end that is 50 steps from the last ones",
}
"""Flags that change nothing about what is learned: taken, and a line says why nothing comes of them."""


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
    "objective.prediction_type": "--prediction_type",
    "--sample-prompt": "--validation_prompt", "samples.prompts": "--validation_prompt",
    "--checkpoint-every": "--checkpointing_steps", "checkpoints.every": "--checkpointing_steps",
    "--keep-checkpoints": "--checkpoints_total_limit", "checkpoints.keep": "--checkpoints_total_limit",
    "tracking.tensorboard": "--report_to tensorboard", "tracking.wandb": "--report_to wandb",
}  # fmt: skip
"""Our flags, settings and phrases in lines for the user, and theirs for the same."""

_PHRASES = tuple(word for word in THEIR_WORDS if " " in word)
_WORDS = "|".join(re.escape(word) for word in THEIR_WORDS if " " not in word)
_FLAG = re.compile(r"(?<![\w.`'/-])--[a-z][a-z-]*[a-z](?![\w-])")
_OURS = re.compile(rf"(?<![\w.`/-])(?:{_WORDS})(?![\w-]|\.\w)")


def in_their_words(text: str) -> str:
    """A line for the user with the flags of their script instead of our flags and settings.

    A flag of ours for which there is none in their script is said to be ours.
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
    """All flags of settings, and those of the verbs that have none behind them."""
    from loraloom.config.describing import leaves  # pydantic: only a line that names a flag pays for it
    from loraloom.config.extending import complete
    from loraloom.config.generate import GenerateConfig
    from loraloom.config.prepare import PrepareConfig
    from loraloom.config.run import RunConfig

    of_settings = {
        leaf.flag for kind in (complete(PrepareConfig), RunConfig, GenerateConfig) for leaf in leaves(kind) if leaf.flag
    }
    return of_settings | {"--cpu", "--adapter", "--adapter-weight", "--prompt-method", "--config", "--set"}


def flag(default: Any, text: str, kind: type | None = None, choices: Sequence[str] | None = None) -> Any:
    """A flag of theirs: their default, help, the type of its value where the default does not tell."""
    return field(default=default, metadata={"help": text, "kind": kind or type(default), "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line said, with their script's defaults."""

    pretrained_model_name_or_path: str = flag("", "hub id, diffusers folder or .safetensors checkpoint; needed")
    revision: str | None = flag(None, "hub branch, tag or commit", str)
    variant: str | None = flag(None, "weight file variant such as fp16", str)
    train_data_dir: str = flag("", "folder with images and metadata.jsonl or metadata.csv; needed")
    output_dir: str = flag("sd-model-finetuned-lora", "folder of the run")
    caption_column: str = flag("text", "caption column of the metadata file")
    resolution: int = flag(512, "side of the square that is learned from, pixels")
    center_crop: bool = flag(
        False, "cut the middle; else a random square, chosen ONCE for each image: its latents are kept, not made anew"
    )
    random_flip: bool = flag(False, "also learn mirrored images; refused when captions speak of left and right")
    image_interpolation_mode: str = flag("lanczos", "filter for resizing", choices=RESAMPLES)
    train_batch_size: int = flag(16, "images in one forward pass on one device")
    gradient_accumulation_steps: int = flag(1, "forward passes for one step")
    gradient_checkpointing: bool = flag(False, "less memory, slower")
    num_train_epochs: int = flag(100, "how often every image is seen")
    max_train_steps: int | None = flag(None, "optimizer steps; goes before --num_train_epochs", int)
    learning_rate: float = flag(1e-4, "peak learning rate")
    lr_scheduler: str = flag("constant", f"{', '.join(SCHEDULERS)}; constant has no warm-up, as there")
    lr_warmup_steps: int = flag(500, "steps of warm-up for all but constant")
    adam_beta1: float = flag(0.9, "decay of the first average")
    adam_beta2: float = flag(0.999, "decay of the second average")
    adam_weight_decay: float = flag(1e-2, "weight decay")
    adam_epsilon: float = flag(1e-8, "added to the denominator")
    use_8bit_adam: bool = flag(False, "AdamW of bitsandbytes")
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm")
    mixed_precision: str | None = flag(
        None, "default: what `accelerate launch` says, or no", str, ("no", "fp16", "bf16")
    )
    rank: int = flag(4, "rank of every update, and its alpha")
    snr_gamma: float | None = flag(None, "min-SNR weighting", float)
    noise_offset: float = flag(0.0, "share of per-channel constant noise")
    prediction_type: str | None = flag(None, "default: what the model says", str, ("epsilon", "v_prediction"))
    seed: int | None = flag(None, "default: 0", int)
    validation_prompt: str | None = flag(None, "draw this while learning", str)
    num_validation_images: int = flag(4, "images of --validation_prompt, each with its own seed")
    checkpointing_steps: int = flag(500, "steps between checkpoints")
    checkpoints_total_limit: int | None = flag(None, "newest checkpoints kept; default: all", int)
    resume_from_checkpoint: str | None = flag(None, "`latest`, or a checkpoint's folder or name", str)
    report_to: str | None = flag(
        None, "default: tensorboard where it is installed", str, ("tensorboard", "wandb", "all", "none")
    )


_METAVARS = {int: "N", float: "X", str: "TEXT"}


class _Parser(argparse.ArgumentParser):
    """Tells a mistake as every verb of ours does."""

    def error(self, message: str) -> Any:
        raise UserError(message, fix="--help lists the flags")


def read_flags(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """The flags, and a line for each that has no effect here.

    Raises:
        UserError: A flag is unknown, refused, needed and not there, or has a value that it cannot have.
    """
    parser = _parser()
    values, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise UserError("unknown flag", got=unknown[0], fix=did_you_mean(unknown[0].partition("=")[0], known))
    given = vars(values)
    for name, instead in REFUSED.items():
        if given.pop(name) is not None:
            raise UserError(f"--{name} is not taken here", fix=instead)
    notes = [
        f"note: --{name} has no effect here: {why}"
        for name, why in WITHOUT_EFFECT.items()
        if given.pop(name) is not None
    ]
    flags = Flags(**given)
    for name in ("pretrained_model_name_or_path", "train_data_dir"):
        if not getattr(flags, name):
            raise UserError(f"--{name} is needed", fix="--help lists the flags")
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
    for title, names in (("taken, without effect", WITHOUT_EFFECT), ("not taken", REFUSED)):
        group = parser.add_argument_group(title)
        for name, why in names.items():
            group.add_argument(f"--{name}", nargs="?", const="", default=None, metavar="…", help=why)
    return parser
