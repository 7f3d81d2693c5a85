"""Opening a model by the kind it says it is.

In: a `ModelSource` and a family name or `auto`. Out: an opened model of that family, no weights read.
"""

from loraloom import plugins
from loraloom.protocols.model import DiffusionModel, Family, ModelSource
from loraloom.utils.errors import UserError


def open_model(source: ModelSource, family: str = "auto") -> DiffusionModel:
    """Open a model; `auto` asks every family whether it knows the source.

    Raises:
        UserError: No family knows it, or it cannot be opened.
    """
    if family != "auto":
        return plugins.load("families", family).open(source)
    for name in plugins.names("families"):
        candidate: Family = plugins.load("families", name)
        if candidate.recognises(source):
            return candidate.open(source)
    raise UserError(
        "no family knows this model",
        got=source.location,
        expected="one of " + ", ".join(plugins.names("families")),
        fix="if you know its kind, set --family",
    )
