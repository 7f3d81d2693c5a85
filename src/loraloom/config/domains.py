"""Open a domain with the values of its own settings that a dataset or an adapter recorded.

In: a name and a record's settings. Out: the domain as `prepare` used it, so that training, counting and generation read
texts and images in the same way.
"""

from collections.abc import Mapping
from typing import Any

from loraloom import plugins
from loraloom.config.reading import read_settings
from loraloom.protocols.domain import Domain


def open_domain(name: str, recorded: Mapping[str, Any]) -> Domain:
    """The domain `name`; what it declares as settings has the recorded values, or its defaults where none are.

    Raises:
        UserError: No such domain, or a recorded value is out of its limits.
    """
    domain = plugins.load("domains", name)
    if getattr(domain, "settings", None) is None:
        return domain
    return domain.configured(recorded_options(name, recorded))


def recorded_options(name: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What a domain declares as settings, with the recorded values; empty where it declares none.

    Raises:
        UserError: As `open_domain`.
    """
    settings = getattr(plugins.load("domains", name), "settings", None)
    if settings is None:
        return {}
    values = {key: recorded[key] for key in settings.model_fields if key in recorded}
    return read_settings(settings, values=values).model_dump(mode="json")
