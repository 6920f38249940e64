"""Wishes are not facts: what a stain was made with is resolved once, kept, told, and compared on resume."""

import json
from dataclasses import fields, replace

import pytest

from tests.pipeline.slides import small_config, tissue_picture, tree_hash, write_slide
from wsistain.config import RunConfig, validate
from wsistain.errors import ConfigError, OutputError
from wsistain.generators.device import Device, processor_name
from wsistain.generators.load import find_generator
from wsistain.pipeline import engine
from wsistain.pipeline.made import MadeWith, resolve
from wsistain.pipeline.run import run
from wsistain.slide.reader import open_slide

MADE = MadeWith(
    reader="tiff",
    series=0,
    device="cuda",
    device_names=("H200",),
    precision="bfloat16",
    compile=False,
    batch_size=16,
    norm="slide",
    norm_tiles=64,
    seed=None,
    sampling=None,
)
OTHER = MadeWith(
    reader="zarr",
    series=1,
    device="cpu",
    device_names=("Xeon",),
    precision="float32",
    compile=True,
    batch_size=1,
    norm="tile",
    norm_tiles=None,
    seed=3,
    sampling={"n_steps": 4},
)
NAME = "case.ER.ome.zarr"


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "case.tiff", tissue_picture(400, 400))


def facts_of(folder):
    return json.loads((folder / "case.ER.run.json").read_text())


def stop_after(n):
    def watch(event):
        if event.done == n:
            raise ZeroDivisionError

    return watch


def words(value):
    if isinstance(value, dict):
        return [w for v in value.values() for w in words(v)]
    return [w for v in value for w in words(v)] if isinstance(value, list) else [value]


def test_run_json_says_what_was_and_never_what_was_asked_for(slide, tmp_path):
    run(slide, "ER", tmp_path, config=small_config())
    source = facts_of(tmp_path)["provenance"]
    assert "auto" not in words(source)
    assert (source["device"], source["device_names"]) == ("cpu", [processor_name()])
    assert (source["reader"], source["precision"], source["norm"], source["sessions"]) == ("tiff", "float32", "tile", 1)
    assert source["config"]["tiling"] == {"stride": 64, "overlap": 16, "halo": 0, "block": 256}
    root = json.loads((tmp_path / NAME / "zarr.json").read_text())["attributes"]["wsistain"]
    assert {k: root[k] for k in source} == source


def test_the_configuration_that_is_kept_makes_the_same_stain_again(slide, tmp_path):
    run(slide, "ER", tmp_path / "a", config=small_config())
    kept = facts_of(tmp_path / "a")["provenance"]
    run(slide, "ER", tmp_path / "b", config=validate(RunConfig, kept["config"], "kept"))
    assert facts_of(tmp_path / "b")["provenance"]["key"] == kept["key"]
    assert tree_hash(tmp_path / "a" / NAME) == tree_hash(tmp_path / "b" / NAME)


@pytest.mark.parametrize("name", [f.name for f in fields(MadeWith)])
def test_every_fact_is_compared_but_for_the_names_of_devices(name):
    other = replace(MADE, **{name: getattr(OTHER, name)})
    assert (other.deciding() == MADE.deciding()) == (name == "device_names")


def test_a_run_that_was_begun_on_a_processor_is_not_continued_on_a_gpu(slide, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run(slide, "ER", tmp_path, config=small_config(), on_event=stop_after(2))
    before = tree_hash(tmp_path / NAME)
    monkeypatch.setattr(engine, "find_device", lambda wanted, **_: Device("cuda", "H200"))
    with pytest.raises(OutputError, match=r"the batch_size \(was 1, is 16\); the device \(was cpu, is cuda\)"):
        run(slide, "ER", tmp_path, config=small_config(), resume=True)
    assert tree_hash(tmp_path / NAME) == before
    monkeypatch.setattr(engine, "find_device", lambda wanted, **_: Device("cpu", "another processor"))
    run(slide, "ER", tmp_path, config=small_config(), resume=True)
    source = facts_of(tmp_path)["provenance"]
    assert source["device_names"] == sorted([processor_name(), "another processor"]) and source["sessions"] == 2


class Cluster:
    """A Dask client as far as `find_devices` knows one."""

    def __init__(self, workers):
        self.workers = workers

    def scheduler_info(self, n_workers):
        return {"workers": {a: {"resources": {"GPU": 1} if gpu else {}} for a, (_, gpu) in self.workers.items()}}

    def run(self, call, wanted, *, is_network, workers, on_error):
        return {address: self.workers[address][0] for address in workers}


def test_the_workers_decide_what_stains_and_must_be_of_one_kind():
    gpu, cpu = Device("cuda", "H200"), Device("cpu", "Xeon")
    mixed = Cluster({"tcp://a": (gpu, False), "tcp://b": (cpu, False)})
    with pytest.raises(ConfigError, match=r"several kinds \(cpu at tcp://b, cuda at tcp://a\).*--resources GPU=1"):
        engine.find_devices("auto", is_network=True, client=mixed)
    told = Cluster({"tcp://a": (gpu, True), "tcp://b": (cpu, False)})
    assert engine.find_devices("auto", is_network=True, client=told) == [gpu]


def test_what_a_processor_does_not_do_is_no_fact(slide):
    opened = open_slide(slide)
    spec = find_generator("identity", "ER")
    config = validate(
        RunConfig, {"weights": "identity", "batch_size": 8, "compile": True, "precision": "float16"}, "test"
    )
    made = resolve(config, opened.info, spec, [Device("cpu", "Xeon"), Device("cpu", "Xeon")])
    opened.close()
    assert (made.device, made.device_names, made.batch_size) == ("cpu", ("Xeon",), 1)
    assert (made.compile, made.precision, made.norm_tiles) == (False, "float32", None)
