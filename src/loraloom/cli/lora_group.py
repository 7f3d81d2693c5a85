"""`loraloom lora`: inspect, check, convert, merge, resize and extract LoRA files.

In: the words after `loraloom lora`. Out: text on stdout, files where asked for, mistakes as a line or two; exit status 1
where `check` or `info` finds a file that cannot be used. Everything heavy is imported in `lora_tools`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraloom.utils.errors import UserError

if TYPE_CHECKING:
    from loraloom.protocols.model import ModelSource

LoraFile = Annotated[Path, typer.Argument(help="Run, checkpoint folder or LoRA file.")]
Out = Annotated[Path, typer.Option("--out", help="File to write; a folder for peft and native, and with --into-base.")]
Base = Annotated[
    str | None,
    typer.Option(
        "--model", help="Base model; only its configs are read. [default: the base that the file recorded, if required]"
    ),
]
Configs = Annotated[
    str | None,
    typer.Option(
        "--model-config", help="Folder or hub id with configs and tokenizer, if --model is a single checkpoint."
    ),
]
Variant = Annotated[str | None, typer.Option("--variant", help="Variant of the base's weight files, such as fp16.")]
Format = Annotated[
    str,
    typer.Option(
        "--format", help="Key format of the output: diffusers, kohya, peft or native. [default: as the input]"
    ),
]
Dtype = Annotated[str, typer.Option("--dtype", help="Dtype of the output: fp32, fp16 or bf16. [default: as the input]")]
Rank = Annotated[int | None, typer.Option("--rank", min=1, help="Largest rank of a layer.")]
Error = Annotated[
    float | None,
    typer.Option(
        "--error", min=0, max=1, help="Largest relative error of a layer (Frobenius norm); determines its rank."
    ),
]
Energy = Annotated[
    float | None,
    typer.Option(
        "--energy", min=0, max=1, help="Share of the squared singular values that is kept; determines the rank."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there already.")]
Strict = Annotated[bool, typer.Option("--strict", help="What is not used or kept as it was given is an error.")]
AllLayers = Annotated[bool, typer.Option("--all", help="List every layer or key, not only the first or worst ones.")]


def info(
    files: Annotated[
        list[Path], typer.Argument(help="One or more LoRA files or runs; of two the interference is computed.")
    ],
    model: Base = None,
    model_config: Configs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe LoRA files: kind, rank, base, trigger words, training, NaN; of two files also their interference."""
    from loraloom.cli import lora_tools

    if not lora_tools.show_info(files, _source(model, model_config), as_json=as_json):
        raise typer.Exit(1)


def check(
    file: LoraFile,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Base model; only its configs are read. Without it keys and halves are checked, and no layers.",
        ),
    ] = None,
    model_config: Configs = None,
    every: AllLayers = False,
    strict: Strict = False,
) -> None:
    """Say of every key whether it is used, where, and why not; exit status 1 if the file would be refused."""
    from loraloom.cli import lora_tools

    if not lora_tools.check(file, _source(model, model_config), every=every, strict=strict):
        raise typer.Exit(1)


def convert(
    file: LoraFile,
    out: Out,
    key_format: Annotated[
        str, typer.Option("--format", help="Key format of the output: diffusers, kohya, peft or native.")
    ],
    model: Base = None,
    model_config: Configs = None,
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    strict: Strict = False,
) -> None:
    """Convert a LoRA between the key formats of diffusers, kohya, peft and the model's original code."""
    from loraloom.cli import lora_tools

    target = lora_tools.Target(out=out, key_format=key_format, dtype=dtype, overwrite=overwrite, strict=strict)
    lora_tools.convert(file, _source(model, model_config), target)


def merge(
    loras: Annotated[
        list[str],
        typer.Argument(
            metavar="PLACE[:SCALE]...",
            help="LoRAs with their scales, such as runs/anime:0.6, or by block such as a:0.6,up_blocks.1=0.",
        ),
    ],
    out: Out,
    method: Annotated[
        str, typer.Option(help="sum (exact), svd (a smaller rank), ties, dare-linear or dare-ties.")
    ] = "sum",
    rank: Rank = None,
    error: Error = None,
    energy: Energy = None,
    density: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of the values that TIES and DARE keep.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Determines which values DARE drops.")] = 0,
    into_base: Annotated[
        bool,
        typer.Option("--into-base", help="Merge into the base's weights and write a whole model, a diffusers folder."),
    ] = False,
    model: Base = None,
    model_config: Configs = None,
    variant: Variant = None,
    key_format: Format = "auto",
    dtype: Dtype = "auto",
    every: AllLayers = False,
    overwrite: Overwrite = False,
    strict: Strict = False,
) -> None:
    """Merge LoRAs into one, or into a base model."""
    from loraloom.cli import lora_tools

    target = lora_tools.Target(
        out=out, key_format=key_format, dtype=dtype, overwrite=overwrite, strict=strict, every=every
    )
    source = _source(model, model_config, variant)
    if into_base:
        given = {"method": method != "sum", "rank": rank, "error": error, "energy": energy}
        lora_tools.merge_into_base(loras, source, target, [name for name, value in given.items() if value])
        return
    choice = lora_tools.MergeChoice(method=method, density=density, seed=seed)
    lora_tools.merge(loras, source, target, choice, lora_tools.rank_limit(rank, error, energy))


def resize(
    file: LoraFile,
    out: Out,
    rank: Rank = None,
    error: Error = None,
    energy: Energy = None,
    model: Base = None,
    model_config: Configs = None,
    key_format: Format = "auto",
    dtype: Dtype = "auto",
    every: AllLayers = False,
    overwrite: Overwrite = False,
    strict: Strict = False,
) -> None:
    """Reduce the rank of a LoRA by SVD, to a rank, an error or an energy share, and state the error of each layer."""
    from loraloom.cli import lora_tools

    target = lora_tools.Target(
        out=out, key_format=key_format, dtype=dtype, overwrite=overwrite, strict=strict, every=every
    )
    lora_tools.resize(file, _source(model, model_config), target, lora_tools.rank_limit(rank, error, energy))


def extract(
    tuned: Annotated[str, typer.Argument(help="Fine-tuned model: diffusers folder, .safetensors file or hub id.")],
    model: Annotated[str, typer.Option("--model", help="The base that it was fine-tuned from.")],
    out: Out,
    rank: Rank = None,
    error: Error = None,
    energy: Energy = None,
    model_config: Configs = None,
    variant: Variant = None,
    tuned_variant: Annotated[
        str | None, typer.Option(help="Variant of the fine-tuned model's weight files, such as fp16.")
    ] = None,
    key_format: Annotated[
        str, typer.Option("--format", help="Key format of the output: diffusers, kohya, peft or native.")
    ] = "diffusers",
    dtype: Annotated[str, typer.Option("--dtype", help="Dtype of the output: fp32, fp16 or bf16.")] = "fp16",
    every: AllLayers = False,
    overwrite: Overwrite = False,
    strict: Strict = False,
) -> None:
    """Extract a LoRA from a fine-tuned model by SVD of its difference to the base."""
    from loraloom.cli import lora_tools

    target = lora_tools.Target(
        out=out, key_format=key_format, dtype=dtype, overwrite=overwrite, strict=strict, every=every
    )
    base, other = _source(model, model_config, variant), _source(tuned, None, tuned_variant)
    assert base is not None, "both are named"
    assert other is not None, "both are named"
    lora_tools.extract(other, base, target, lora_tools.rank_limit(rank, error, energy))


def _source(model: str | None, config: str | None = None, variant: str | None = None) -> "ModelSource | None":
    """The model that options name; None where they name none.

    Raises:
        UserError: Something is said of a model that is not named.
    """
    from loraloom.protocols.model import ModelSource

    if model is None:
        if config or variant:
            raise UserError("--model-config and --variant are about a --model", fix="add --model, or leave them out")
        return None
    return ModelSource(location=model, config=config, variant=variant)


COMMANDS = (info, check, convert, merge, resize, extract)
