import json

import pytest

from tests.output.making import small_spec
from tests.viewing.made import MPP
from wsistain.errors import OutputError, SlideError
from wsistain.output.store import create_output
from wsistain.output.unfinished import describe_begun
from wsistain.viewing.results import check_slide, find_results, find_slide, is_result, look_at


def test_a_folder_holds_its_results_however_deep(case):
    assert find_results(case.folder) == [case.er, case.her2]
    assert find_results(case.er) == [case.er] and is_result(case.er) and not is_result(case.folder)


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_what_holds_no_results_is_refused(tmp_path, what):
    place = tmp_path / what
    if what == "empty":
        place.mkdir()
    elif what == "file":
        place.write_text("x")
    with pytest.raises(OutputError, match=what):
        find_results(place)


def test_a_region_says_where_it_lies(case):
    whole, region = look_at(case.er), look_at(case.her2)
    assert whole.state == region.state == "finished" and region.marker == "HER2"
    assert (whole.frame.y_um, whole.frame.x_um, whole.frame.mpp) == (0.0, 0.0, MPP)
    assert (region.frame.y_um, region.frame.x_um, region.frame.mpp) == (64 * MPP, 128 * MPP, 2 * MPP)
    assert whole.slide["fingerprint"] == region.slide["fingerprint"]


def test_the_slide_is_the_file_of_that_name_and_another_slide_is_refused(case):
    result = look_at(case.er)
    assert find_slide(result, [case.slide]) == case.slide and find_slide(result, []) == case.slide
    told = result.slide
    size = tuple(told["size_l0"])
    assert check_slide(result, size, told["mpp"], told["fingerprint"], "x.tiff") == ""
    assert "not the file" in check_slide(result, size, told["mpp"], "other", "x.tiff")
    with pytest.raises(SlideError, match="is not the slide of"):
        check_slide(result, (size[0] * 2, size[1]), told["mpp"], "other", "x.tiff")


def test_a_name_in_the_metadata_cannot_lead_elsewhere(case):
    result = look_at(case.er)
    for name in ("../case.tiff", "/etc/passwd", "", 7, None):
        result.slide["name"] = name
        assert find_slide(result, []) is None


def test_unfinished_and_damaged_results_say_so(tmp_path, case):
    spec = small_spec(tmp_path / "a.ER.ome.zarr", 300, 400)
    create_output(spec)
    assert look_at(spec.folder).state == "unfinished"
    describe_begun(spec, {"marker": "ER", "slide": {"name": "a.svs"}, "blocks": 12})
    begun = look_at(spec.folder)
    assert begun.state == "unfinished" and begun.blocks == (0, 12) and begun.frame.width == 400
    (spec.folder / ".wsistain" / "begun.json").write_text('{"spec": {}}')
    assert look_at(spec.folder).state == "damaged"
    broken = tmp_path / "b.ER.ome.zarr"
    broken.mkdir()
    (broken / "zarr.json").write_text("{")
    assert look_at(broken).state == "damaged" and look_at(broken).problem
    foreign = json.loads((case.er / "zarr.json").read_text())
    foreign["attributes"].pop("wsistain")
    (broken / "zarr.json").write_text(json.dumps(foreign))
    assert look_at(broken).state == "damaged"
