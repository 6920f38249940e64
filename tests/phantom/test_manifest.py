"""What a folder of synthetic tissue says of itself, and who may fill it."""

import hashlib
import json

import pytest

from wsistain.errors import OutputError
from wsistain.phantom.manifest import claimed, digest


def test_a_digest_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"tissue")
    assert digest(tmp_path / "x") == hashlib.sha256(b"tissue").hexdigest()


def test_the_same_parameters_go_on_and_others_are_refused_unless_they_overwrite(tmp_path):
    folder = tmp_path / "a" / "b"
    with claimed(folder, {"seed": 1, "pair": (1, 2)}, overwrite=False) as manifest:
        assert json.loads(manifest.read_text())["finished"] is False
    manifest.write_text(json.dumps({"parameters": {"seed": 1, "pair": [1, 2]}, "finished": True}))
    with claimed(folder, {"seed": 1, "pair": (1, 2)}, overwrite=False):
        assert json.loads(manifest.read_text())["finished"] is True
    with pytest.raises(OutputError, match="other parameters"), claimed(folder, {"seed": 2}, overwrite=False):
        pass
    with claimed(folder, {"seed": 2}, overwrite=True):
        assert json.loads(manifest.read_text())["parameters"] == {"seed": 2}


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(OutputError, match="is not a manifest"), claimed(tmp_path, {}, overwrite=False):
        pass


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), claimed(tmp_path / "x" / "y", {}, overwrite=False):
        pass
