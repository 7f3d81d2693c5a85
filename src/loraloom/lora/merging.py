"""Several LoRAs to one: exact by concatenation, of a smaller rank by SVD, or by TIES and DARE.

In: the updates of several files with their scales. Out: layers by place, and what each lost. Methods, for changes d_i with
scales s_i:

    sum           sum_i s_i d_i, exact: the matrices stacked, ranks added
    svd           the same sum, truncated to a rank
    ties          the largest values of each d_i are kept, the sign of their sum is elected for each weight, and the mean of
                  the s_i d_i that have it is taken (Yadav et al. 2023, TIES-Merging)
    dare-linear   values of each d_i are dropped at random, the others divided by the density; then the sum (Yu et al. 2023)
    dare-ties     values dropped as in DARE, then signs elected as in TIES

TIES and DARE work on whole changes, by peft's functions, and are truncated to a rank afterwards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft.utils import merge_utils
from torch import Tensor

from loraloom.lora.deltas import Delta
from loraloom.lora.layers import LoraLayer
from loraloom.lora.low_rank import Place, RankLimit, Truncated, approximate, concatenate, norm_of, truncate
from loraloom.lora.tool_input import ToolInput, change_of
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.progress import Progress
from loraloom.utils.rng import derive_seed

METHODS = {
    "sum": None,
    "svd": None,
    "ties": merge_utils.ties,
    "dare-linear": merge_utils.dare_linear,
    "dare-ties": merge_utils.dare_ties,
}
"""Method to the function of peft that computes it."""
NO_LIMIT = RankLimit()


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """How LoRAs are merged.

    Attributes:
        method: One of `METHODS`.
        limit: The rank or error that is kept; for `sum` none.
        density: Share of the values that TIES and DARE keep, above 0 and below 1.
        seed: Determines which values DARE drops.
    """

    method: str = "sum"
    limit: RankLimit = NO_LIMIT
    density: float = 0.5
    seed: int = 0

    def check(self) -> None:
        """Raise `UserError` for settings that do not go together."""
        if self.method not in METHODS:
            raise UserError("unknown method of merging", got=self.method, fix=did_you_mean(self.method, METHODS))
        if self.method == "sum" and self.limit != NO_LIMIT:
            raise UserError("sum is exact and takes no rank and no error", fix="add --method svd, or leave them out")
        if self.method != "sum" and self.limit == NO_LIMIT:
            raise UserError(f"{self.method} requires a rank or an error", fix="add --rank N or --error X")


def merge_layers(
    inputs: Sequence[ToolInput],
    settings: MergeSettings,
    model: DiffusionModel | None,
    progress: Progress = lambda done, total: None,
) -> list[Truncated]:
    """One layer for each place that any of the files changes.

    Args:
        inputs: The files with their scales.
        settings: How they are merged.
        model: The model whose names the layers have; None for the files' own names.
        progress: Called after each layer.

    Raises:
        UserError: Files that cannot be merged: one twice, of several key formats without a model, of other sizes; or an update
            that is no plain LoRA where the method is exact.
    """
    _check_together(inputs, model)
    if settings.method == "sum":
        for one in inputs:
            one.plain("merged exactly")
    small = settings.method in {"sum", "svd"} and not any(one.deltas for one in inputs)
    places = _places(inputs)
    found: list[Truncated] = []
    for number, place in enumerate(places, 1):
        found.append(_sum(place, inputs, settings) if small else _whole(place, inputs, settings, model))
        progress(number, len(places))
    return found


def _places(inputs: Sequence[ToolInput]) -> list[Place]:
    return sorted({place for one in inputs for place in (*one.layers, *one.deltas)})


def _sum(place: Place, inputs: Sequence[ToolInput], settings: MergeSettings) -> Truncated:
    entries = [(one.layers[place], one.scale_at(place)) for one in inputs if place in one.layers]
    entries = [entry for entry in entries if entry[1] != 0] or entries[:1]  # zeros would only add to the rank
    whole = concatenate(entries)
    if settings.method == "svd":
        return truncate(whole, settings.limit)
    return Truncated(layer=whole, rank_before=whole.rank, norm=norm_of(whole), error=0.0)


def _whole(
    place: Place, inputs: Sequence[ToolInput], settings: MergeSettings, model: DiffusionModel | None
) -> Truncated:
    """A merged layer by way of the whole changes."""
    changes = [change for one in inputs if (change := _change(one, place, model)) is not None]
    scales = torch.tensor([one.scale_at(place) for one in inputs if place in one.layers or place in one.deltas])
    shape = max((change.shape for change in changes), key=len)
    changes = [change.reshape(shape) for change in changes]
    function = METHODS[settings.method]
    if function is None:
        merged = sum(scale * change for scale, change in zip(scales, changes, strict=True))
        assert isinstance(merged, Tensor)
    else:
        with torch.random.fork_rng(devices=[]):  # DARE uses the global random numbers
            torch.manual_seed(derive_seed(settings.seed, *place) % (1 << 63))
            merged = function(changes, scales, settings.density)
    return approximate(place, merged, settings.limit)


def _change(one: ToolInput, place: Place, model: DiffusionModel | None) -> Tensor | None:
    update: LoraLayer | Delta | None = one.layers.get(place) or one.deltas.get(place)
    if update is None:
        return None
    if isinstance(update, LoraLayer):
        matrix = (update.up.flatten(1) @ update.down.flatten(1)) * update.factor
        return matrix.reshape(update.up.shape[0], *update.down.shape[1:])
    _check_bias(one, update)
    assert model is not None, "without a model there are no other kinds"
    return change_of(update, model)


def _check_bias(one: ToolInput, update: Delta) -> None:
    if update.bias is not None:
        raise UserError(
            f"{one.name} changes a bias, which a plain LoRA cannot hold",
            got=update.module,
            fix="merge it into the base with --into-base",
        )


def check_distinct(inputs: Sequence[ToolInput]) -> None:
    """Raise `UserError` where one file is named twice."""
    seen: dict[str, ToolInput] = {}
    for one in inputs:
        if (first := seen.setdefault(one.file.sha256, one)) is not one:
            both = f"{first.file.path} and {one.file.path}"
            raise UserError("one LoRA is named twice", got=both, fix="name it once, with the sum of its scales")


def _check_together(inputs: Sequence[ToolInput], model: DiffusionModel | None) -> None:
    """Refuse one file twice, several key formats without a model, and layers of other sizes."""
    check_distinct(inputs)
    if model is None and len({one.key_format for one in inputs}) > 1:
        got = ", ".join(f"{one.name} as {one.key_format}" for one in inputs)
        fix = "name the base with --model; of it only the configs are read"
        raise UserError("the files name their layers in several ways", got=got, fix=fix)
    shapes: dict[Place, tuple[tuple[int, int], ToolInput]] = {}
    for one in inputs:
        for place, shape in _shapes(one):
            known, first = shapes.setdefault(place, (shape, one))
            if known != shape:
                got = f"{list(shape)} of {one.name}, {list(known)} of {first.name} at {place[1]}"
                raise UserError("the LoRAs are for models of other sizes", got=got, fix="merge LoRAs of one base")


def _shapes(one: ToolInput) -> Iterator[tuple[Place, tuple[int, int]]]:
    for place, layer in one.layers.items():
        yield place, (int(layer.up.shape[0]), layer.down[0].numel())
