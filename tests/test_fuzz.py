"""Bad input from anywhere: one sentence, never a traceback, never something that looks finished."""

import json
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.batch.sheets import read_sheet
from tests.fuzzing import KINDS
from wsistain.batch.sheet import ID
from wsistain.config import RunConfig, TrainConfig, apply_overrides, load_config, validate
from wsistain.errors import ConfigError, WeightsError, WsistainError
from wsistain.slide.base import SlideInfo
from wsistain.slide.roi_file import read_roi

ROOT = Path(__file__).parents[1]
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(
    leaves, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4), max_leaves=12
)


def one_sentence(error: BaseException) -> bool:
    return 0 < len(str(error)) < 2000


@few
@given(values=st.dictionaries(st.sampled_from([*RunConfig.model_fields, *TrainConfig.model_fields]), trees, max_size=6))
def test_any_values_are_a_configuration_or_a_sentence(values):
    for model in (RunConfig, TrainConfig):
        try:
            validate(model, values, "test")
        except ConfigError as error:
            assert one_sentence(error)


@few
@given(text=st.text(alphabet=string.printable, max_size=80), override=st.text(max_size=30))
def test_any_text_is_a_configuration_or_a_sentence(tmp_path, text, override):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    for overrides in ((), (override,)):
        try:
            load_config(RunConfig, path, overrides)
        except ConfigError as error:
            assert one_sentence(error)


def test_no_yaml_tag_runs_code(tmp_path):
    path = tmp_path / "c.yaml"
    for text in (
        f"weights: !!python/object/apply:pathlib.Path.touch ['{tmp_path}/ran']",
        f"!!python/object/apply:os.system ['touch {tmp_path}/ran']",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError):
            load_config(RunConfig, path)
        with pytest.raises(ConfigError):
            apply_overrides({}, [f"weights={text.partition(' ')[2]}" if text.startswith("w") else f"weights={text}"])
    assert not (tmp_path / "ran").exists()


numbers = st.integers(-(10**7), 10**7) | st.floats()
rings = st.lists(st.lists(numbers, min_size=1, max_size=3), max_size=6)
shapes = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Polygon", "MultiPolygon", "Point", "GeometryCollection", "LineString"]),
        "coordinates": st.lists(rings, max_size=3) | st.lists(st.lists(rings, max_size=2), max_size=2) | trees,
    }
)
features = st.fixed_dictionaries({"type": st.just("Feature"), "geometry": shapes | trees})


@few
@given(document=st.lists(features, max_size=3) | shapes | trees)
def test_any_geojson_is_areas_or_a_sentence(tmp_path, document):
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps(document))
    info = SlideInfo("x", (3000, 4000), 0.5, "given", ((3000, 4000),), (1.0,), (64, 64), "x", "x", "0")
    try:
        mask = read_roi(path).mask(info, 50.0, (60, 80))
    except ConfigError as error:
        assert one_sentence(error)
    else:
        assert mask.shape == (60, 80) and mask.dtype == np.bool_


cells = st.text(max_size=12) | st.sampled_from(["ER", "a", "../../x", "/etc/passwd", "0.25", "s3://b/c.svs", "x.svs"])


@few
@given(
    header=st.permutations(["slide", "path", "markers", "mpp"]),
    rows=st.lists(st.lists(cells, min_size=1, max_size=5), max_size=4),
)
def test_any_sheet_is_slides_or_a_sentence_and_leads_nowhere(tmp_path, header, rows):
    sheet = tmp_path / "s.tsv"
    lines = ["\t".join(header), *("\t".join(row) for row in rows)]
    sheet.write_text("\n".join(lines), encoding="utf-8", newline="")
    try:
        entries = read_sheet(sheet, ["ER"])
    except ConfigError as error:
        assert one_sentence(error)
        return
    for entry in entries:
        assert ID.fullmatch(entry.slide)
        out = tmp_path / "out"
        assert out in (out / f"{entry.slide}.done").resolve().parents


@few
@given(values=st.dictionaries(st.sampled_from(["system", "options", "markers", "mpp", "tile_px", "norm"]), trees))
def test_any_weights_header_is_weights_or_a_sentence(tmp_path, values):
    import torch
    from safetensors.torch import save_file

    from wsistain.weights.file import load_network

    good = {"format": 1, "system": "cut", "options": {"n_blocks": 1, "ngf": 2}, "markers": ["ER"], "mpp": 0.5}
    header = json.dumps({**good, "tile_px": 64, **values})
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, str(path), metadata={"wsistain": header})
    with pytest.raises(WsistainError) as error:  # the one tensor fits no network
        load_network(path)
    assert isinstance(error.value, WeightsError | ConfigError) and one_sentence(error.value)


def test_mutated_files_of_every_kind_are_refused_or_read(tmp_path):
    command = [sys.executable, "-m", "tests.fuzzing", "--cases", "250", "--seed", "1", "--keep", str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=900)
    assert child.stdout, child.stderr
    result = json.loads(child.stdout)
    assert not result["faults"], result["faults"]
    assert all(any(k.startswith(kind) for k in result["counts"]) for kind in KINDS)
