"""The fixtures and settings of the package's own tests, for the recipe's tests."""

from tests.conftest import tiny_model  # noqa: F401 - a fixture
