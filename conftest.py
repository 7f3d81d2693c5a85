"""Tests that run only where `-m` names their marker: they take many minutes."""

import pytest

ASKED_FOR = {
    "hostile": "reads every kind of hostile file: pytest -m hostile",
    "long": "trains for minutes, often in several processes: pytest -m long",
    "netns": "makes hosts of network namespaces: pytest -m netns",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip them, with the command that runs them."""
    asked = config.getoption("-m") or ""
    for item in items:
        for marker, reason in ASKED_FOR.items():
            if marker not in asked and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
