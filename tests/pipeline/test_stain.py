"""What is checked of the places of results before anything is made."""

import pytest

from tests.fuzzing import weights as made_weights
from tests.pipeline.slides import small_config, tissue_picture, write_slide
from wsistain.errors import OutputError, WeightsError
from wsistain.output.names import output_name
from wsistain.pipeline import stain
from wsistain.pipeline.run import run


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "case.tiff", tissue_picture(300, 300))


def test_a_result_that_would_replace_the_slide_is_refused(slide, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    copy = tmp_path / "in" / "case.ER.preview.jpg"
    copy.write_bytes(slide.read_bytes())
    monkeypatch.setattr(stain, "output_name", lambda path, marker: output_name(slide.name, marker))
    monkeypatch.setattr("wsistain.pipeline.run.refuse_virtual", lambda path: None)
    with pytest.raises(OutputError, match="would replace the slide itself"):
        run(copy, "ER", tmp_path / "link", config=small_config(), overwrite=True)
    assert copy.read_bytes() == slide.read_bytes() and list((tmp_path / "in").iterdir()) == [copy]


def test_one_result_that_is_there_stops_the_run_before_any_is_made(slide, tmp_path):
    run(slide, "PR", tmp_path, config=small_config())
    with pytest.raises(OutputError, match=r"case\.PR\.ome\.zarr exists"):
        run(slide, "ER,PR", tmp_path, config=small_config())
    assert not (tmp_path / "case.ER.ome.zarr").exists()


def test_weights_whose_tensors_do_not_fit_leave_nothing_behind(slide, tmp_path):
    from safetensors.torch import load_file, save_file

    from wsistain.weights.file import read_header

    (weights,) = made_weights(tmp_path)
    header, tensors = read_header(weights), load_file(weights)
    tensors.popitem()
    save_file(tensors, weights, metadata={"wsistain": header.model_dump_json()})
    with pytest.raises(WeightsError, match="missing"):
        run(slide, "ER", tmp_path / "o", config=small_config(weights=str(weights), norm="tile"))
    assert not (tmp_path / "o").exists()
