import errno
import fcntl

import pytest

from wsistain.errors import OutputError
from wsistain.runtime.lock import locked


@pytest.mark.parametrize("name", [".", "lock"])
def test_a_second_holder_is_refused_and_a_later_one_is_not(tmp_path, name):
    for _ in range(2):
        with (
            locked(tmp_path / name, "first"),
            pytest.raises(OutputError, match="busy"),
            locked(tmp_path / name, "busy"),
        ):
            pass
    with pytest.raises(ValueError, match="x"), locked(tmp_path / name, ""):
        raise ValueError("x")
    with locked(tmp_path / name, ""):
        assert [p.name for p in tmp_path.iterdir()] == ([] if name == "." else ["lock"])


def test_without_locks_one_goes_on_with_a_warning_and_other_faults_come_up(tmp_path, monkeypatch, caplog):
    def refuse(code):
        def flock(*_):
            raise OSError(code, "x")

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with locked(tmp_path, "busy"):
        assert "has no locks" in caplog.text
    refuse(errno.EIO)
    with pytest.raises(OSError, match="x"), locked(tmp_path, "busy"):
        pass
