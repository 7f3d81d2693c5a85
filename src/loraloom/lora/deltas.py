"""Updates of a layer's whole weight: LoHa, LoKr, LoCon with a core (tucker), full differences, and DoRA.

In: the tensors of one layer by role, float32, and a scale. Out: the change of the layer's weight. Only a DoRA's depends on
the base's own weight, see `Delta.requires_base`. Formulas: LoHa (Hyeon-Woo et al. 2022, FedPara), LoKr (Yeh et al. 2024,
LyCORIS; Edalati et al. 2022), tucker (LyCORIS' `lora_mid`), DoRA (Liu et al. 2024). For an adapter scale s and a base
weight W:

    all but DoRA   W + s d
    DoRA           m (W + s d) / |W + s d|, as peft has it: s scales the update before the norm; s = 0 is W itself
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loraloom.utils.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The update of one layer's whole weight.

    Attributes:
        part: Part of the model, such as `denoiser`.
        module: Name of the linear or convolution layer in that part.
        kind: Name of the formula in `FORMULAS`.
        tensors: The formula's tensors by role, float32.
        factor: What the formula's result is multiplied by, alpha / rank in most files.
        magnitude: DoRA's norms: (out, 1, ...) for one per output, (1, in, ...) for one per input; None without.
        bias: (out,) added to the layer's bias; None without.
    """

    part: str
    module: str
    kind: str
    tensors: Mapping[str, Tensor]
    factor: float = 1.0
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    @property
    def requires_base(self) -> bool:
        """Whether the change depends on the base's own weight, as a DoRA's does."""
        return self.magnitude is not None

    def change(self, own: Tensor, scale: float) -> Tensor:
        """The change of the layer's weight, float32, where the base's is `own` and the adapter has this scale.

        Raises:
            UserError: It is not finite.
        """
        if scale == 0 or (not self.tensors and self.magnitude is None):
            return torch.zeros_like(own, dtype=torch.float32)
        change = self._change(own.float(), scale)
        if not bool(change.isfinite().all()):
            raise UserError(
                "an adapter's update is not finite",
                got=f"a {self.kind} update with scale {scale:g}",
                fix="use a smaller --adapter-weight, or another adapter",
            )
        return change

    def _change(self, base: Tensor, scale: float) -> Tensor:
        tensors = {role: tensor.to(base.device) for role, tensor in self.tensors.items()}
        update = FORMULAS[self.kind].compute(tensors).reshape(base.shape) * (self.factor * scale)
        if self.magnitude is None:
            return update
        magnitude, changed = self.magnitude.to(base.device), base + update
        axes = [axis for axis in range(changed.dim()) if magnitude.shape[axis] == 1]
        norm = torch.linalg.vector_norm(changed, dim=axes, keepdim=True)
        return changed * (magnitude / norm.clamp_min(torch.finfo(torch.float32).tiny)) - base


# ------------------------------------------------------------------------------------------------------- formulas


@dataclass(frozen=True, slots=True)
class Formula:
    """How one kind of update is computed.

    Attributes:
        compute: Tensors by role to the change of the weight, up to its shape.
        fits: Whether shapes by role make a weight of (out, in, ...).
        rank: The rank that alpha is divided by; None where the tensors have none.
    """

    compute: Callable[[Mapping[str, Tensor]], Tensor]
    fits: Callable[[Shapes, tuple[int, ...]], bool]
    rank: Callable[[Shapes], int | None]


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _is_flat(shape: tuple[int, ...], rows: int, columns: int) -> bool:
    """Whether a tensor is a matrix (rows, columns), however its columns are spread over further dimensions."""
    return len(shape) >= 2 and shape[0] == rows and _product(shape[1:]) == columns


def _pair(tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors["up"].flatten(1) @ tensors["down"].flatten(1)


def fits_pair(shapes: Shapes, weight: tuple[int, ...]) -> bool:
    """down is (r, in, ...) as the layer's kernel has it, up is (out, r)."""
    rank, columns = shapes["down"][:1], _product(weight[1:])
    if len(shapes["down"]) < 2 or not _is_flat(shapes["up"], weight[0], rank[0]):
        return False
    down = shapes["down"]
    plain = down == (rank[0], columns) or (len(down) == 4 and down[1] == weight[1])
    return plain and _is_flat(down, rank[0], columns)


def _tucker(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.einsum("mn...,om,ni->oi...", tensors["mid"], tensors["up"].flatten(1), tensors["down"].flatten(1))


def _fits_tucker(shapes: Shapes, weight: tuple[int, ...]) -> bool:
    mid = shapes["mid"]
    return (
        len(mid) == len(weight) == 4
        and mid[2:] == weight[2:]
        and _is_flat(shapes["up"], weight[0], mid[0])
        and _is_flat(shapes["down"], mid[1], weight[1])
    )


def _loha(tensors: Mapping[str, Tensor]) -> Tensor:
    halves = []
    for number in "12":
        first, second = tensors[f"hada_w{number}_a"], tensors[f"hada_w{number}_b"]
        core = tensors.get(f"hada_t{number}")
        if core is None:
            halves.append(first @ second.flatten(1))
        else:
            halves.append(torch.einsum("ij...,io,jr->or...", core, first, second))
    return halves[0] * halves[1]


def _fits_loha(shapes: Shapes, weight: tuple[int, ...]) -> bool:
    for number in "12":
        first, second = shapes[f"hada_w{number}_a"], shapes[f"hada_w{number}_b"]
        core = shapes.get(f"hada_t{number}")
        if core is not None:
            rank = core[0]
            good = core == (rank, rank, *weight[2:]) and first == (rank, weight[0]) and second == (rank, weight[1])
        else:
            good = len(first) == 2 and first[0] == weight[0] and _is_flat(second, first[1], _product(weight[1:]))
        if not good:
            return False
    return ("hada_t1" in shapes) == ("hada_t2" in shapes)


def _lokr(tensors: Mapping[str, Tensor]) -> Tensor:
    left = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if "lokr_w2" in tensors:
        right = tensors["lokr_w2"]
    elif "lokr_t2" in tensors:
        right = torch.einsum("ij...,io,jr->or...", tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"])
    else:
        right = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"].flatten(1)
    return torch.kron(left.reshape(*left.shape, *[1] * (right.dim() - 2)), right.contiguous())


def _fits_lokr(shapes: Shapes, weight: tuple[int, ...]) -> bool:
    left, right, kernel = _lokr_left(shapes), _lokr_right(shapes), _product(weight[2:])
    if left is None or right is None or len(left) != 2:
        return False
    rows, columns = left[0] * right[0], left[1] * _product(right[1:])
    core = len(right) == len(weight) and right[2:] == weight[2:]
    return rows == weight[0] and columns == weight[1] * kernel and (core or len(right) == 2)


def _lokr_left(shapes: Shapes) -> tuple[int, ...] | None:
    if "lokr_w1" in shapes:
        return shapes["lokr_w1"]
    first, second = shapes["lokr_w1_a"], shapes["lokr_w1_b"]
    return (first[0], second[1]) if len(first) == len(second) == 2 and first[1] == second[0] else None


def _lokr_right(shapes: Shapes) -> tuple[int, ...] | None:
    if "lokr_w2" in shapes:
        return shapes["lokr_w2"] if len(shapes["lokr_w2"]) >= 2 else None
    first, second, core = shapes["lokr_w2_a"], shapes["lokr_w2_b"], shapes.get("lokr_t2")
    if len(first) != 2 or len(second) < 2:
        return None
    if core is None:
        return (first[0], _product(second[1:])) if first[1] == second[0] else None
    good = len(core) == 4 and len(second) == 2 and core[:2] == (first[0], second[0])
    return (first[1], second[1], *core[2:]) if good else None


def _lokr_rank(shapes: Shapes) -> int | None:
    """LyCORIS: the rank of the factored half; two whole halves have none, and their alpha counts for nothing."""
    for role in ("lokr_w1_b", "lokr_w2_b"):
        if role in shapes:
            return shapes[role][0]
    return None


FORMULAS: Mapping[str, Formula] = {
    "lora": Formula(_pair, fits_pair, lambda shapes: shapes["down"][0]),
    "tucker": Formula(_tucker, _fits_tucker, lambda shapes: shapes["down"][0]),
    "loha": Formula(_loha, _fits_loha, lambda shapes: shapes["hada_w1_b"][0]),
    "lokr": Formula(_lokr, _fits_lokr, _lokr_rank),
    "diff": Formula(
        lambda tensors: tensors["diff"],
        lambda shapes, weight: "diff" not in shapes or _is_flat(shapes["diff"], weight[0], _product(weight[1:])),
        lambda shapes: None,
    ),
}
