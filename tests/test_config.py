"""Configuration: unknown keys name the nearest valid one; nothing is guessed or merged."""

from pathlib import Path

import pytest

from wsistain.config import RunConfig, apply_overrides, dump_yaml, load_config, read_yaml, validate
from wsistain.errors import ConfigError
from wsistain.markers import find_marker, parse_markers


def test_a_dumped_configuration_loads_to_the_same(tmp_path):
    config = validate(RunConfig, {"tiling": {"overlap": 64}, "weights": "identity"}, "test")
    (tmp_path / "c.yaml").write_text(dump_yaml(config))
    assert load_config(RunConfig, tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"tiling": {"overlp": 1}}, "tiling.overlp is not a known key; did you mean 'overlap'"),
        ({"weight": "x"}, "did you mean 'weights'"),
        ({"tiling": {"overlap": -1}}, "tiling.overlap"),
        ({"output": {"chunk": 512, "shard": 700}}, "not a multiple of chunk"),
        ({"norm": "mean"}, "norm"),
        ([1, 2], "wanted keys and values"),
    ],
)
def test_bad_values_say_where_and_what(values, wanted):
    with pytest.raises(ConfigError, match=wanted.replace("(", "\\(")):
        validate(RunConfig, values, "c.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object/apply:os.system ['true']", "- 1\n- 2", "{" * 3000])
def test_files_that_are_not_plain_yaml_are_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError):
        read_yaml(tmp_path / "c.yaml")


def test_overrides_set_nested_keys_and_leave_the_original_alone():
    values = {"tiling": {"overlap": 1}}
    changed = apply_overrides(values, ["tiling.halo=8", "options.lr=1e-4", "norm=tile"])
    assert changed == {"tiling": {"overlap": 1, "halo": 8}, "options": {"lr": 1e-4}, "norm": "tile"}
    assert values == {"tiling": {"overlap": 1}}


def test_what_is_quoted_stays_text_and_a_version_may_be_a_number(tmp_path):
    assert apply_overrides({}, ["weights='1e5'", 'licence="0.4"']) == {"weights": "1e5", "licence": "0.4"}
    for overrides in (["output.ngff=0.4"], ["output.ngff='0.4'"]):
        assert load_config(RunConfig, None, overrides).output.ngff == "0.4"
    (tmp_path / "c.yaml").write_text("output: {ngff: 0.4}")
    assert load_config(RunConfig, tmp_path / "c.yaml").output.ngff == "0.4"
    with pytest.raises(ConfigError, match=r"output\.ngff"):
        load_config(RunConfig, None, ["output.ngff=0.3"])


@pytest.mark.parametrize("item", ["overlap", "=3", "a..b=1", "weights.deep=1"])
def test_overrides_that_are_no_assignment_are_refused(item):
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"weights": "demo"}, [item])


@pytest.mark.parametrize(("text", "name"), [("er", "ER"), ("Ki-67", "Ki67"), ("ERBB2", "HER2"), (" PR ", "PR")])
def test_markers_are_found_by_any_of_their_names(text, name):
    assert find_marker(text).name == name


def test_a_list_of_markers_keeps_its_order_and_drops_repeats():
    assert [m.name for m in parse_markers("PR,ER,pgr")] == ["PR", "ER"]
    with pytest.raises(ConfigError, match="known"):
        parse_markers("ER,,PR")


LAUGHS = "weights: [&a [x, x, x, x, x, x, x, x, x]" + "".join(
    f", &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [{','.join([f'*a{k - 1}'] * 9)}]}}\n" for k in range(1, 10))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS + "]", "10000 values"),
        (MERGES, "10000 values"),
        ("a: &a [*a]", "10000 values"),
        ("mpp: " + "9" * 5000, "none|finite|number"),
        ("mpp: !!timestamp 2020-13-45", "none"),
        ("mpp: .inf", "finite"),
        ("mpp: 0.5\nmpp: 0.25", "'mpp' is there twice"),
        ("weights: " + "[" * 5000, "nested too deep|not YAML"),
        ("1: 2\n", "1"),
        ("? [a]\n: b\n", "not YAML|none"),
        ("x: !!binary 'a'", "not YAML|none"),
        ("weights: " + "x" * (2 << 20), "larger than a configuration"),
        ("weights: 'a\x1bb'", "not YAML"),
        ("!!python/object/apply:os.system [x]", "not YAML"),
    ],
)
def test_a_hostile_file_is_one_sentence(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        load_config(RunConfig, tmp_path / "c.yaml")
    assert len(str(error.value)) < 900


@pytest.mark.parametrize(
    "item",
    [
        *("weights=" + "[" * 3000, ".".join("a" * 5000) + "=1", "mpp=" + "9" * 5000, "mpp=!!int x", "mpp=*a", "=1"),
        *("norm=2020-13-45", "mpp=infinity", "mpp=1e999", "seed=1:2:3:4:5:6:7:8:9:0:1:2x", "weights={a: 1, a: 2}"),
    ],
)
def test_a_hostile_override_is_one_sentence(item):
    with pytest.raises(ConfigError) as error:
        load_config(RunConfig, None, [item])
    assert len(str(error.value)) < 900


def test_what_looks_like_a_date_is_a_name(tmp_path):
    (tmp_path / "c.yaml").write_text("weights: 2020-13-45\n")
    assert load_config(RunConfig, tmp_path / "c.yaml").weights == "2020-13-45"
    assert load_config(RunConfig, None, ["weights=2026-01-01"]).weights == "2026-01-01"


def test_devices_pipes_and_folders_are_no_configurations(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/zero", tmp_path, tmp_path / ("x" * 300), tmp_path / "none"):
        with pytest.raises(ConfigError):
            load_config(RunConfig, Path(place))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 010", "holds 010, which YAML takes for a number in base 8"),
        ("batch_size: 1:30", "holds 1:30, which YAML takes for a number in base 60"),
        ("tiling: {stride: 1:30.5}", "base 60"),
        ("mpp: yes", "mpp: .*a number, not yes or no"),
        ("tiling: {stride: on}", "tiling.stride: .*a number, not yes or no"),
    ],
)
def test_numbers_that_yaml_reads_otherwise_than_people_are_refused(tmp_path, text, told):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_config(RunConfig, tmp_path / "c.yaml")


def test_plain_numbers_truths_and_names_stay_what_they_are(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "mpp: 0.5\nseed: 0\nstrict: yes\nall_tiles: true\nweights: '010'\nbatch_size: 1_0\n"
    )
    config = load_config(RunConfig, tmp_path / "c.yaml")
    assert (config.mpp, config.seed, config.strict, config.all_tiles) == (0.5, 0, True, True)
    assert (config.weights, config.batch_size) == ("010", 10)
