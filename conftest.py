"""Tests that run only where `-m` names their marker, for they take long; and what makes the others cheap."""

import gc
from typing import Any

import pytest

ASKED_FOR = {
    "hostile": "reads every kind of hostile file: pytest -m hostile",
    "long": "trains several times or for minutes, often in several processes: pytest -m long",
    "netns": "makes hosts of network namespaces: pytest -m netns",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip them, with the command that runs them."""
    asked = config.getoption("-m") or ""
    for item in items:
        for marker, reason in ASKED_FOR.items():
            if marker not in asked and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: a collection need not walk through torch, diffusers and all tests each time.

    Each part of a model that is dropped costs one collection, hundreds in a run of the suite.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, a run of neighbours for each worker, and whoever is done takes over some of another's.

    Dealt out one by one, tests of a module meet in all workers, and each makes the models and runs that they share.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Extensions of Python that count their objects at exit find them released."""
    gc.unfreeze()
