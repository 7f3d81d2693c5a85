"""Open a domain with the settings that a dataset or an adapter recorded.

In: a name and the recorded settings. Out: the domain as `prepare` used it, so that training, token counts and generation
read captions and images in the same way.
"""

from collections.abc import Mapping
from typing import Any

from loraloom import plugins
from loraloom.config.reading import read_settings
from loraloom.protocols.domain import Domain


def open_domain(name: str, recorded: Mapping[str, Any]) -> Domain:
    """The domain `name` with the recorded values of its settings; settings that were not recorded have their defaults.

    Raises:
        UserError: No such domain, or a recorded value is out of range.
    """
    domain = plugins.load("domains", name)
    if getattr(domain, "settings", None) is None:
        return domain
    return domain.configured(recorded_options(name, recorded))


def recorded_options(name: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a domain with their recorded values; empty if it has none.

    Raises:
        UserError: As `open_domain`.
    """
    settings = getattr(plugins.load("domains", name), "settings", None)
    if settings is None:
        return {}
    values = {key: recorded[key] for key in settings.model_fields if key in recorded}
    return read_settings(settings, values=values).model_dump(mode="json")
