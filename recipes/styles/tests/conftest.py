"""The fixtures of the package's own tests, for the recipe's tests."""

from tests.conftest import draw_folder, tiny_model  # noqa: F401 - fixtures
