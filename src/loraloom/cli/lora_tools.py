"""What `loraloom lora` does and prints: opens configs, calls the tools of `lora`, says what was lost.

In: what was typed. Out: lines on stdout, files. Weights of a model are read by `extract` and `merge --into-base` only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from loraloom.lora.blend import Scale, scale_text
from loraloom.lora.files import AdapterFile, read_adapter
from loraloom.lora.kinds import base_named
from loraloom.lora.layers import LoraLayer
from loraloom.lora.low_rank import Place, RankLimit, Truncated, approximate, total_error, truncate
from loraloom.lora.record import recorded_base
from loraloom.lora.tool_input import ModelRequiredError, ToolInput, change_of, input_of, parse_place
from loraloom.lora.tool_output import Origin, check_output, metadata_of, write_lora
from loraloom.models.loading import open_model, resolve
from loraloom.prompts.notes import Losses
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.output_paths import COMMAND, check_folder
from loraloom.utils.progress import bars
from loraloom.utils.untrusted import is_there, shown

_WORST = 5
"""Layers that are listed without `--all`."""
_KEYS = 20
"""Unused keys that are listed without `--all`."""
_DTYPES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how the result is written.

    Attributes:
        out: File or folder.
        key_format: `auto` keeps that of the input where it is diffusers' or kohya's, and is diffusers' otherwise.
        dtype: `auto` keeps that of the input, fp32 where inputs differ.
        overwrite: Replace what is there.
        strict: Notes are errors.
        every: List every layer.
    """

    out: Path
    key_format: str
    dtype: str
    overwrite: bool
    strict: bool
    every: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeChoice:
    """Method of a merge, with the numbers that it takes."""

    method: str
    density: float
    seed: int


def rank_limit(rank: int | None, error: float | None, energy: float | None) -> RankLimit:
    """The limit that options ask for.

    Raises:
        UserError: An error and an energy share.
    """
    if error is not None and energy is not None:
        raise UserError("--error and --energy say the same in two ways", fix="keep one of them")
    return RankLimit(rank=rank, error=(1 - energy) ** 0.5 if energy is not None else error)


# ------------------------------------------------------------------------------------------------------------- verbs


def show_info(places: Sequence[Path], base: ModelSource | None, *, as_json: bool) -> bool:
    """Print what files are; False where one cannot be used."""
    from loraloom.cli.lora_text import facts_as_json, facts_lines, interference_lines
    from loraloom.lora.facts import read_facts
    from loraloom.lora.interference import interference

    if base:
        open_model(base)  # a mistake in it is no reason to leave the figure out
    found = [read_facts(place) for place in places]
    good = not any(facts.faults or facts.non_finite or facts.not_read for facts in found)
    figure, why_none = None, "one of the files cannot be used"
    if len(found) == 2 and good:
        try:
            figure = interference(*(_pairs(one) for one in _read_alike([facts.path for facts in found], base)))
        except UserError as error:
            why_none = f"{error.what}; {error.fix}" if error.fix else error.what
    if as_json:
        typer.echo(facts_as_json(found, figure))
        return good
    for facts in found:
        for line in facts_lines(facts):
            typer.echo(line)
        typer.echo("")
    if figure is not None:
        for line in interference_lines(figure, [facts.path.name for facts in found]):
            typer.echo(line)
    elif len(found) == 2:
        typer.echo(f"no interference is computed: {why_none}")
    return good


def check(place: Path, base: ModelSource | None, *, every: bool, strict: bool) -> bool:
    """Print the fate of every key; False where the file is refused."""
    from loraloom.cli.lora_text import fate_lines
    from loraloom.lora.fates import check_file

    model = open_model(base) if base else None
    checked = check_file(place, model)
    losses = Losses(typer.echo, strict)
    for line in fate_lines(checked, len(checked.fates) if every else _KEYS, with_used=every):
        typer.echo(line)
    losses.add(*checked.notes)
    losses.check()
    if checked.error is not None:
        typer.echo(f"refused: {checked.error}")
        return False
    if model is None:
        typer.echo("well formed; whether it fits a model is checked with --model")
    elif zeros := sum(not fate.used for fate in checked.fates):
        typer.echo(f"it is read; the {zeros:,} tensors that are not used hold no change")
    else:
        rest = f"; {checked.unchanged:,} layers of the same parts are not changed by it" if checked.unchanged else ""
        typer.echo(f"it is used as a whole{rest}")
    return True


def convert(place: Path, base: ModelSource | None, target: Target) -> None:
    """Write the same LoRA in another key format."""
    _check_target(target)
    check_output(target.out, target.key_format, None, overwrite=target.overwrite, model_follows=True)
    model, (one,) = _read([place], base, required=True)
    assert model is not None, "required"
    layers = one.plain("converted")
    _tell([one], target)
    origin = Origin(tool="lora convert", inputs=[one], settings={"format": target.key_format})
    _write(model, layers, origin, target, target.key_format)


def resize(place: Path, base: ModelSource | None, target: Target, limit: RankLimit) -> None:
    """Write a LoRA of a smaller rank."""
    _check_target(target)
    if limit == RankLimit():
        raise UserError("resize requires a rank, an error or an energy share", fix="such as --rank 16 or --error 0.05")
    _check_early(target)
    model, (one,), key_format = _read_for(target, [place], base)
    found = [truncate(layer, limit) for layer in one.layers.values()]
    for where, delta in one.deltas.items():
        assert model is not None, "without a model there are no other kinds"
        if delta.bias is not None:
            fix = "merge it into the base with `loraloom lora merge --into-base`"
            raise UserError(f"{one.name} changes a bias, which a plain LoRA cannot hold", got=delta.module, fix=fix)
        found.append(approximate(where, change_of(delta, model), limit))
    _tell([one], target)
    small = sum(result.layer.rank == result.rank_before for result in found)
    if small:
        typer.echo(f"{small:,} of {len(found):,} layers have a rank within the limit already and are kept as they are")
    _state_errors(found, target)
    settings = {"rank": limit.rank, "error": limit.error}
    origin = Origin(tool="lora resize", inputs=[one], settings=settings, error=total_error(found))
    _write(model, _layers(found), origin, target, key_format)


def merge(
    texts: Sequence[str], base: ModelSource | None, target: Target, choice: MergeChoice, limit: RankLimit
) -> None:
    """Write one LoRA of several."""
    from loraloom.lora.merging import MergeSettings, merge_layers

    _check_target(target)
    settings = MergeSettings(method=choice.method, limit=limit, density=choice.density, seed=choice.seed)
    settings.check()
    _check_early(target)
    places, scales = _places(texts)
    model, inputs, key_format = _read_for(target, places, base, scales)
    with bars() as bar:
        found = merge_layers(inputs, settings, model, bar("layers"))
    _tell(inputs, target)
    said = {"method": choice.method}
    if choice.method in {"ties", "dare-linear", "dare-ties"}:
        said |= {"density": choice.density}
    if choice.method.startswith("dare"):
        said |= {"seed": choice.seed}
    if limit != RankLimit():
        said |= {"rank": limit.rank, "error": limit.error}
    typer.echo(
        f"{_counted(inputs)} merged by {choice.method}: "
        + ", ".join(f"{one.name} x {scale_text(one.scale)}" for one in inputs)
    )
    error = None
    if choice.method != "sum":
        _state_errors(found, target)
        error = total_error(found)
    origin = Origin(tool="lora merge", inputs=inputs, settings=said, error=error)
    _write(model, _layers(found), origin, target, key_format)


def merge_into_base(texts: Sequence[str], base: ModelSource | None, target: Target, not_taken: Sequence[str]) -> None:
    """Write the base with LoRAs merged into its weights."""
    from loraloom import __version__
    from loraloom.lora import base_merge
    from loraloom.lora.merging import check_distinct
    from loraloom.models.module_store import ModuleStore

    if not_taken:
        raise UserError("--into-base merges by sum, exactly", got=", ".join(f"--{name}" for name in not_taken))
    if target.key_format != "auto":
        raise UserError("--into-base writes a diffusers folder and has no key format", got=target.key_format)
    _check_target(target)
    check_folder(target.out)
    if is_there(target.out) and not target.overwrite:
        raise UserError(
            "the output is there already", got=str(target.out), fix="name another folder, or add --overwrite"
        )
    places, scales = _places(texts)
    model, inputs = _read(places, base, scales, required=True)
    assert model is not None, "required"
    check_distinct(inputs)
    if not isinstance(model.modules, ModuleStore):
        raise UserError("this kind of model cannot be merged into part by part", got=model.info.family)
    _tell(inputs, target)
    dtype: Any = "fp32" if target.dtype == "auto" else target.dtype
    files = [{"file": one.name, "sha256": one.file.sha256, "scale": one.scale} for one in inputs]
    record = {
        "tool": f"loraloom {__version__} lora merge --into-base",
        "inputs": files,
        "base": model.info.source.location,
        "dtype": dtype,
    }
    count = base_merge.merge_into_base(
        model,
        inputs,
        target.out,
        dtype,
        one_at_a_time=model.modules.one_at_a_time,
        reopen=lambda folder: open_model(
            ModelSource(location=str(folder), prediction_type=model.info.source.prediction_type), model.info.family
        ),
        record=record,
    )
    typer.echo(f"{_counted(inputs)} merged into {count:,} layers of {model.info.source.location}")
    typer.echo(f"saved {target.out}: {dtype}, read back and equal bit by bit")
    typer.echo(f'next: {COMMAND} generate "your prompt" --model {target.out}')


def extract(tuned: ModelSource, base: ModelSource, target: Target, limit: RankLimit) -> None:
    """Write the LoRA that makes a base nearly a fine-tuned model."""
    from loraloom.lora import extracting

    _check_target(target)
    if limit == RankLimit():
        raise UserError("extract requires a rank, an error or an energy share", fix="such as --rank 32 or --error 0.1")
    check_output(target.out, target.key_format, None, overwrite=target.overwrite, model_follows=True)
    model, other = open_model(base), open_model(_with_configs_of(tuned, base))
    with bars() as bar:
        found = extracting.extract(model, other, limit, bar("layers"))
    losses = Losses(typer.echo, target.strict)
    if found.not_held:
        example = f", such as {found.not_held[0]}"
        losses.add(
            f"note: {len(found.not_held):,} weights differ that a LoRA of linear and convolution layers cannot hold{example}"
        )
    if found.rounded:
        typer.echo(f"{found.rounded:,} layers differ by rounding to half precision only and are left out")
    losses.check()
    _state_errors(found.layers, target)
    settings = {
        "rank": limit.rank,
        "error": limit.error,
    }
    origin = Origin(
        tool="lora extract",
        inputs=[],
        settings=settings,
        error=total_error(found.layers),
        models=[
            {"file": name, "sha256": _model_sum(one)} for name, one in ((tuned.location, other), (base.location, model))
        ],
    )
    _write(model, _layers(found.layers), origin, target, target.key_format)


# ------------------------------------------------------------------------------------------------------------ reading


def _read(
    places: Sequence[Path], base: ModelSource | None, scales: Sequence[Scale] = (), *, required: bool = False
) -> tuple[DiffusionModel | None, list[ToolInput]]:
    """Files and the model that names their layers: the user's, or where one is required the recorded base."""
    files = [read_adapter(place) for place in places]
    factors = scales or [1.0] * len(files)
    model = open_model(base) if base else None
    if model is None and required:
        model = _recorded(files)
    try:
        return model, [input_of(file, model, scale) for file, scale in zip(files, factors, strict=True)]
    except ModelRequiredError as error:
        if not any(_base_of(file) for file in files):
            raise
        try:
            model = _recorded(files)
        except UserError:
            raise error from None
    return model, [input_of(file, model, scale) for file, scale in zip(files, factors, strict=True)]


def _read_alike(places: Sequence[Path], base: ModelSource | None) -> list[ToolInput]:
    """Files whose layers have comparable names."""
    model, inputs = _read(places, base)
    if model is None and len({one.key_format for one in inputs}) > 1:
        _, inputs = _read(places, base, required=True)
    return inputs


def _read_for(
    target: Target, places: Sequence[Path], base: ModelSource | None, scales: Sequence[Scale] = ()
) -> tuple[DiffusionModel | None, list[ToolInput], str]:
    """Files, and the key format of the output. A model is required where that is not the one of all files."""
    model, inputs = _read(places, base, scales)
    formats = {one.key_format for one in inputs}
    key_format = target.key_format
    if key_format == "auto":
        key_format = "kohya" if formats == {"kohya"} else "diffusers"
    if model is None and formats != {key_format}:
        model, inputs = _read(places, base, scales, required=True)
    return model, inputs, key_format


def _base_of(file: AdapterFile) -> Mapping[str, Any] | None:
    base = file.record.get("base")
    return base if isinstance(base, dict) and base.get("source") else None


def _recorded(files: Sequence[AdapterFile]) -> DiffusionModel:
    """The base that the first file that recorded one was trained on; none of its weights are read."""
    file = next((file for file in files if _base_of(file)), None)
    if file is None:
        what = f"{files[0].path.name} does not say which model it belongs to, whose names are required here"
        fix = "name the base with --model; of it only the configs are read"
        raise UserError(what, expected=base_named(files[0].metadata) or None, fix=fix)
    base = _base_of(file)
    assert base is not None
    source, config = recorded_base(base, file.path)
    try:
        return open_model(
            ModelSource(
                location=source,
                revision=base.get("revision"),
                variant=base.get("variant"),
                config=config,
                prediction_type=base.get("prediction_type", "auto"),
                options=tuple(base.get("options") or ()),
            )
        )
    except UserError as error:
        more = f". {error.fix}" if error.fix else ""
        fix = f"{file.path.name} recorded {base['source']!r} as its base; --model overrides it{more}"
        raise UserError(error.what, got=error.got, expected=error.expected, fix=fix) from None


def _with_configs_of(tuned: ModelSource, base: ModelSource) -> ModelSource:
    """A fine-tuned model in one file has the configs and tokenizer of its base, where that has some."""
    folder = resolve(base).folder
    return tuned if tuned.config or folder is None else replace(tuned, config=str(folder))


def _counted(inputs: Sequence[ToolInput]) -> str:
    return counted(len(inputs), "LoRA")


def _model_sum(model: DiffusionModel) -> str:
    """sha256 over the sums of a model's parts."""
    sums = {part.name: model.modules.fingerprint(part.name) for part in model.info.parts}
    return sha256_bytes(json.dumps(sums, sort_keys=True).encode())


def _places(texts: Sequence[str]) -> tuple[list[Path], list[Scale]]:
    found = [parse_place(text) for text in texts]
    return [place for place, _ in found], [scale for _, scale in found]


def _pairs(one: ToolInput) -> dict[Place, tuple[Any, Any]]:
    layers = one.plain("compared")
    return {place: (layer.down, layer.up * layer.factor) for place, layer in layers.items()}


# ------------------------------------------------------------------------------------------------------------ writing


def _check_target(target: Target) -> None:
    known = ("auto", *_DTYPES.values())
    if target.dtype not in known:
        raise UserError("unknown dtype", got=target.dtype, fix=did_you_mean(target.dtype, known))


def _check_early(target: Target) -> None:
    """What can be said about the output before a file is read."""
    key_format = "diffusers" if target.key_format == "auto" else target.key_format
    check_output(target.out, key_format, None, overwrite=target.overwrite, model_follows=True)


def _dtype(target: Target, inputs: Sequence[ToolInput]) -> str:
    if target.dtype != "auto":
        return target.dtype
    found: set[str] = set()
    for one in inputs:
        found |= {_DTYPES.get(info.dtype, "fp32") for key, info in one.file.infos.items() if not key.endswith(".alpha")}
    return found.pop() if len(found) == 1 else "fp32"


def _tell(inputs: Sequence[ToolInput], target: Target) -> None:
    """Say what the files do not state, and where they were trained on different bases."""
    losses = Losses(typer.echo, target.strict)
    for one in inputs:
        losses.add(*one.notes)
    bases = {str(one.file.record.get("base_sha256")): one.name for one in inputs if one.file.record.get("base_sha256")}
    if len(bases) > 1:
        losses.add(f"note: {' and '.join(bases.values())} were trained on different bases")
    for field in ("prompt_method", "domain", "size"):
        said = {str(shown(one.file.record[field])): one.name for one in inputs if one.file.record.get(field)}
        if len(said) > 1:
            listed = ", ".join(f"{value} of {name}" for value, name in said.items())
            losses.add(f"note: the LoRAs differ in {field}: {listed}; the result states none")
    losses.check()


def _layers(found: Sequence[Truncated]) -> dict[Place, LoraLayer]:
    return {one.place: one.layer for one in found}


def _state_errors(found: Sequence[Truncated], target: Target) -> None:
    """The error of all layers, and of the worst ones or of each."""
    from loraloom.cli.lora_text import error_lines

    for line in error_lines(found, None if target.every else _WORST):
        typer.echo(line)


def _write(
    model: DiffusionModel | None, layers: Mapping[Place, LoraLayer], origin: Origin, target: Target, key_format: str
) -> None:
    from loraloom.cli.lora_text import rank_text, size_text

    dtype = _dtype(target, origin.inputs)
    metadata = metadata_of(model, layers, origin, target.out.stem)
    written = write_lora(model, layers, target.out, key_format=key_format, dtype=dtype, metadata=metadata)
    ranks = rank_text({layer.rank: 1 for layer in layers.values()})
    typer.echo(
        f"saved {written.path}: {len(layers):,} layers, {ranks}, {key_format}, {dtype}, {size_text(written.num_bytes)}; "
        f"read back and compared, rounding {written.rounding:.2g}"
    )
    if key_format == "peft" and len({part for part, _ in layers}) > 1:
        typer.echo("each part has a folder of its own there: PeftModel.from_pretrained loads one into one model")
