"""Prompt embeddings of which single text encoders read the empty text.

In: embeddings of a text and of the empty text, and which columns of which tensors each encoder makes. Out: embeddings as if
some encoders had read nothing.
"""

from collections.abc import Collection, Mapping

from loraloom.protocols.model import Tensors

ALL = slice(None)
"""All columns of a tensor."""
Outputs = Mapping[str, Mapping[str, slice]]
"""Text encoder -> tensors of `TextModel.encode` -> columns (of the last axis) that it makes."""


def without(text: Tensors, empty: Tensors, encoders: Collection[str], outputs: Outputs) -> Tensors:
    """See `protocols.model.TextModel`. Where a text has several windows, each gets the empty text's only one."""
    made = dict(text)
    for encoder in encoders:
        for name, columns in outputs[encoder].items():
            tensor = made[name].clone()
            tensor[..., columns] = empty[name][..., columns]
            made[name] = tensor
    return made
