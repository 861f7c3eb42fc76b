"""The trained model that the tests of the driver have."""

from tests.tools.conftest import output, trained  # noqa: F401
