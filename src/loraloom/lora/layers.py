"""One low-rank update of one layer, W x + (alpha / rank) B A x: the record that is read, fused, split and exported.

LoRA: Hu et al. 2021.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraLayer:
    """A plain LoRA of one layer.

    Attributes:
        part: Part of the model, such as `denoiser`.
        module: Name of the linear or convolution layer in that part.
        down: A, (rank, in), or (rank, in, kernel height, kernel width) for a convolution.
        up: B, (out, rank), or (out, rank, 1, 1) for a convolution.
        alpha: The update is multiplied by alpha / rank.
    """

    part: str
    module: str
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Inner size of the two matrices."""
        return int(self.down.shape[0])

    @property
    def factor(self) -> float:
        """The number alpha / rank that the update is multiplied by."""
        return self.alpha / self.rank

    def change(self, own: Tensor, scale: float) -> Tensor:
        """The change of the layer's weight, float32, where the base's is `own` and the adapter has this scale."""
        down, up = (tensor.to(own.device).flatten(1).float() for tensor in (self.down, self.up))
        return (up @ down).reshape(own.shape) * (self.factor * scale)
