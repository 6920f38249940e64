import sys

import pytest

from wsistain.errors import ConfigError
from wsistain.systems import SYSTEMS, find_system, system_class


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_row_leads_to_a_system(name: str) -> None:
    module = find_system(name)
    assert {"preset", "tiny"} <= set(dir(module.Config))
    assert callable(module.generator_network)
    assert {"training_step", "generator", "header_options", "generator_state"} <= set(dir(system_class(name)))


def test_a_misspelt_system_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'cyclegan'.*has to be installed"):
        find_system("cyclgan")


def test_a_system_whose_package_is_absent_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "far", "package_that_is_not_here.far:Far")
    with pytest.raises(
        ConfigError, match=r"needs the package package_that_is_not_here: pip install 'wsistain\[train\]'"
    ):
        find_system("far")
    monkeypatch.setitem(SYSTEMS, "gone", "wsistain.systems.gone:Gone")
    with pytest.raises(ModuleNotFoundError):
        find_system("gone")
    assert "wsistain.systems.gone" not in sys.modules
