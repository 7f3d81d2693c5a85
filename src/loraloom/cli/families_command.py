"""`loraloom families`: what each family takes, how much memory its training needs, and which exports it has.

In: the families of the registry and their cards. Out: records, a table for people, JSON for programs. Every figure comes from
the family: its card's configs are opened without weights, and a training step is tried on tensors without data. The memory of
a step takes seconds to find and is remembered in the user's cache.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from loraloom import __version__, plugins
from loraloom.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from loraloom.protocols.family_card import FamilyCard
    from loraloom.protocols.model import DiffusionModel

GIB = 1 << 30
PRECISION = "bf16"
LOW_BITS = ("fp8", "nf4")
MODES = ("plain", "gradient_checkpointing", *LOW_BITS)
YES = "yes"
NATIVE = "native"
"""The layout of a model's original code, which adapts the denoiser only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """One family.

    Attributes:
        name: Its name, the value of `--family`.
        package: Where it comes from: `loraloom itself`, or another package.
        takes: The models that it opens.
        base: Hub id of the base that people usually train.
        licence: Note on that base's licence.
        denoiser: Name of the part that learns.
        parameters: Part of that base -> its number of weights.
        size_px: Side of the images that it is usually trained on, pixels.
        size_multiple: Sides of images are multiples of this many pixels.
        text_tokens: Text encoder -> tokens that it reads at once.
        max_windows: Windows of a prompt that are read; None: any number.
        prediction_type: What the denoiser predicts.
        guidance: `cfg` or `embedded`.
        lora_rank, lora_target: Rank and target of the adapter that `step_gib` is for.
        step_gib: GiB of a training step: `plain`, `gradient_checkpointing`, and for one family alone `fp8` and `nf4` with
            gradient checkpointing; each with weights, adapter, activations, total.
        caching_gib: GiB of the text encoders and the VAE while they encode, before the first step.
        programs: Layout of an export -> programs that read it.
        exports: What learns -> layout -> `yes`, or the reason why not.
        gaps: What does not work yet.
    """

    name: str
    package: str
    takes: str
    base: str
    licence: str
    denoiser: str
    parameters: Mapping[str, int]
    size_px: int
    size_multiple: int
    text_tokens: Mapping[str, int]
    max_windows: int | None
    prediction_type: str
    guidance: str
    lora_rank: int
    lora_target: str
    step_gib: Mapping[str, Mapping[str, float]]
    caching_gib: float
    programs: Mapping[str, str]
    exports: Mapping[str, Mapping[str, str]]
    gaps: Sequence[str]


def families(name: str | None, say: Callable[[str], None]) -> list[FamilyRow]:
    """The rows of all families that have a card, or of one. Those without are named by `say`.

    Raises:
        UserError: No family has that name, or it has no card.
    """
    known = plugins.names("families")
    if name is not None and name not in known:
        raise UserError("unknown family", got=name, fix=did_you_mean(name, known))
    rows: list[FamilyRow] = []
    for one in [name] if name else known:
        card = plugins.load_card(one)
        if card is None:
            text = f"the family {one} has no card: its module exports no {plugins.CARD}"
            if name:
                raise UserError(text, got=plugins.origin("families", one), fix=f"try `loraloom extensions {one}`")
            say(f"note: {text}")
        else:
            # A mode takes seconds to minutes to find: the table shows two of them.
            rows.append(family_row(one, card, say, MODES if name else MODES[:2]))
    return rows


def family_row(name: str, card: "FamilyCard", say: Callable[[str], None], modes: Sequence[str] = MODES) -> FamilyRow:
    """One family's row, with the memory of a step in some modes. Opens the base of its card without weights."""
    from loraloom.config.run import LoraConfig
    from loraloom.models.reference import num_parameters, reference_model
    from loraloom.utils.quiet import quiet

    lora = LoraConfig()
    with quiet(), reference_model(name, card) as model:
        info = model.info
        numbers = {part.name: num_parameters(model, card, part.name) for part in info.parts}
        encoders = [part.name for part in info.text_encoders]
        return FamilyRow(
            name=name,
            package=plugins.origin("families", name),
            takes=card.takes,
            base=card.base,
            licence=card.licence,
            denoiser=info.denoiser.name,
            parameters=numbers,
            size_px=card.size_px,
            size_multiple=info.size_multiple,
            text_tokens=dict(card.text_tokens),
            max_windows=model.text.max_windows,
            prediction_type=info.schedule.prediction_type,
            guidance=info.guidance,
            lora_rank=lora.rank,
            lora_target=lora.target,
            step_gib={mode: step_gib(model, name, card, say, mode) for mode in modes},
            # One after the other: first the VAE, then all text encoders, float32.
            caching_gib=round(4 * max(numbers[info.vae.name], sum(numbers[one] for one in encoders)) / GIB, 2),
            programs=dict(model.lora_format.programs),
            exports=exports(model),
            gaps=list(card.gaps),
        )


def exports(model: "DiffusionModel") -> dict[str, dict[str, str]]:
    """What can learn -> layout -> `yes` or the reason. The contract suite takes every `yes` through its export and back."""
    layouts = list(model.lora_format.programs)
    cells = {target: dict.fromkeys(layouts, YES) for target in model.info.denoiser.lora_targets}
    for part in model.info.text_encoders:
        cells[part.name] = dict.fromkeys(layouts, YES if part.lora_targets else "does not learn")
        if part.lora_targets and NATIVE in layouts:
            cells[part.name][NATIVE] = "holds the denoiser only"
    return cells


def step_gib(
    model: "DiffusionModel", name: str, card: "FamilyCard", say: Callable[[str], None], mode: str
) -> dict[str, float]:
    """GiB of a training step in one of `MODES`; remembered in the user's cache."""
    import torch

    from loraloom.models.files import cache_folder
    from loraloom.train.memory import step_memory
    from loraloom.utils.atomic_files import sha256_bytes, write_json
    from loraloom.utils.dtypes import DTYPES

    said = f"{name} {card!r} {mode} {__version__} {torch.__version__}"
    memo = cache_folder("step_memory") / f"{sha256_bytes(said.encode())[:32]}.json"
    try:
        return json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        say(f"finding the memory of a training step of {name} ({mode.replace('_', ' ')}), once")
    step = step_memory(
        model,
        card.text_tensors,
        size_px=card.size_px,
        dtype=DTYPES[PRECISION],
        checkpointing=mode != "plain",
        low_bits="fp8" if mode == "fp8" else "nf4" if mode == "nf4" else None,
    )
    sums = {"weights": step.weights, "adapter": step.adapter, "activations": step.activations, "total": step.total}
    found = {key: round(value / GIB, 2) for key, value in sums.items()}
    write_json(memo, found)
    return found


# ------------------------------------------------------------------------------------------------------- for people


def print_families(rows: Sequence[FamilyRow], *, detailed: bool) -> None:
    """A table of families and one of their exports; with `detailed` a page of each instead of the first."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if detailed:
        for row in rows:
            page = Table(row.name, "", box=None, pad_edge=False, show_header=False)
            for title, text in details(row):
                page.add_row(title, text)
            console.print(page)
    else:
        titles = ("family", "denoiser", "images", "LoRA memory", "text", "sides", "guidance")
        table = Table(*titles, box=None, pad_edge=False)
        for row in rows:
            table.add_row(row.name, *_cells(row))
        console.print(table)
        console.print(
            "LoRA memory: GiB of a training step, batch 1, bf16; in brackets with --gradient-checkpointing.\n"
            "loraloom families NAME shows one family in full.",
            style="dim",
        )
    layouts = list(dict.fromkeys(layout for row in rows for layout in row.programs))
    table = Table("exports: what learns", *layouts, box=None, pad_edge=False)
    for row in rows:
        for learns, cells in row.exports.items():
            table.add_row(f"{row.name}: {learns}", *(cells.get(layout, "-") for layout in layouts))
    console.print()
    console.print(table)


def details(row: FamilyRow) -> list[tuple[str, str]]:
    """Title and text of each line of a family's page."""
    plain, checkpointed = row.step_gib["plain"], row.step_gib["gradient_checkpointing"]
    parts = ", ".join(f"{part.replace('_', ' ')} {number / 1e9:.2f} B" for part, number in row.parameters.items())
    lines = [
        ("family", f"{row.name}, by {row.package}"),
        ("takes", row.takes),
        ("usual base", row.base),
        ("licence", row.licence),
        ("weights", parts),
        (
            "LoRA training",
            f"{plain['total']} GiB at {row.size_px} px, batch 1, {PRECISION}, rank {row.lora_rank} on {row.lora_target}: "
            f"weights {plain['weights']}, adapter {plain['adapter']}, activations {plain['activations']}",
        ),
        ("", f"{checkpointed['total']} GiB with --gradient-checkpointing: activations {checkpointed['activations']}"),
        *(
            (
                "",
                f"{row.step_gib[kind]['total']} GiB with --low-bits {kind} too: weights {row.step_gib[kind]['weights']}; "
                f"steps are slower than in {PRECISION}, so leave it out where that fits",
            )
            for kind in LOW_BITS
            if kind in row.step_gib
        ),
        ("before it", f"{row.caching_gib} GiB while images and captions are encoded; dropped before the first step"),
        ("text", f"{_tokens(row)} tokens, {_windows(row)}"),
        ("image sides", f"multiples of {row.size_multiple} px"),
        ("predicts", row.prediction_type.replace("_", " ")),
        ("guidance", _GUIDANCE[row.guidance]),
    ]
    lines += [(f"export {layout}", readers) for layout, readers in row.programs.items()]
    return lines + [("not yet", gap) for gap in row.gaps]


_GUIDANCE = {
    "cfg": "classifier-free, with a negative prompt",
    "embedded": "given to the denoiser; no negative prompt",
}


def _cells(row: FamilyRow) -> tuple[str, ...]:
    number = row.parameters[row.denoiser]
    plain, checkpointed = (row.step_gib[mode]["total"] for mode in ("plain", "gradient_checkpointing"))
    return (
        f"{number / 1e9:.2f} B",
        f"{row.size_px} px",
        f"{plain} ({checkpointed})",
        f"{_tokens(row)}, {_windows(row)}",
        f"x {row.size_multiple}",
        row.guidance,
    )


def _tokens(row: FamilyRow) -> str:
    return " + ".join(str(number) for number in row.text_tokens.values())


def _windows(row: FamilyRow) -> str:
    if row.max_windows is None:
        return "any number of windows"
    return "one window" if row.max_windows == 1 else f"{row.max_windows} windows"


def as_json(rows: Sequence[FamilyRow]) -> str:
    """The rows as a JSON list."""
    values: list[dict[str, Any]] = [asdict(row) for row in rows]
    return json.dumps(values, indent=2)
