"""One stained case for all tests of the view."""

import pytest

from tests.viewing.made import Case, make_case


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Case:
    """A slide, its whole stain for ER, a region of it for HER2 at half the fineness, and cells."""
    return make_case(tmp_path_factory.mktemp("view"))
