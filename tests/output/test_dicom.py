"""The DICOM series opens in pydicom and OpenSlide as the stain, is complete, and is known again as virtual."""

from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.output.making import mean_pyramid, small_spec, write_all
from tests.output.test_export import MPP, nuclei
from wsistain.errors import OutputError, SlideError
from wsistain.output.dicom import export_dicom
from wsistain.output.metadata import write_metadata
from wsistain.output.recognise import virtual_stain
from wsistain.slide.reader import open_slide

pydicom = pytest.importorskip("pydicom")
FACTS = {
    "marker": "ER",
    "note": "trained on é",
    "date": "2026-01-02T03:04:05+00:00",
    "slide": {"objective_power": 20.0},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("dicom")
    pixels = nuclei(333, 517)
    spec = small_spec(folder / "o.ome.zarr", 333, 517, mpp=MPP, origin_um=(300.0, 120.5))
    write_all(spec, pixels)
    write_metadata(spec, FACTS, "case")
    export_dicom(spec.path, folder / "series", tile=64, quality=95)
    return folder / "series", pixels


def test_openslide_sees_the_whole_pyramid_with_the_right_mpp(made: tuple[Path, np.ndarray]) -> None:
    folder, pixels = made
    with openslide.OpenSlide(folder / "level_0.dcm") as slide:
        assert slide.level_dimensions == tuple(level.shape[1::-1] for level in mean_pyramid(pixels, slide.level_count))
        assert slide.level_count == len(list(folder.iterdir())) == 6
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(MPP, rel=1e-6)
        for number, level in enumerate(mean_pyramid(pixels, 6)):
            seen = slide.read_region((0, 0), number, slide.level_dimensions[number]).convert("RGB")
            assert np.abs(np.asarray(seen).astype(int) - level).mean() < 3
    assert {path.suffix for path in folder.iterdir()} == {".dcm"}  # the spools are gone


def test_pydicom_reads_frames_place_and_what_the_picture_is(made: tuple[Path, np.ndarray]) -> None:
    folder, pixels = made
    data = pydicom.dcmread(folder / "level_0.dcm")
    assert (data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns) == (333, 517)
    assert data.NumberOfFrames == 6 * 9 and data.ImageType == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    frames = data.pixel_array
    assert np.abs(frames[10].astype(int) - pixels[64:128, 64:128]).mean() < 3  # row 1, column 1
    (origin,) = data.TotalPixelMatrixOriginSequence
    assert (float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem)) == (
        0.1205,
        -0.3,
    )
    row, column = np.reshape([float(v) for v in data.ImageOrientationSlide], (2, 3))
    assert np.cross(row, column).tolist() == [0, 0, -1]  # rows run down before the eye: no mirrored picture
    spacing = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert float(spacing[0]) == pytest.approx(MPP / 1e3)
    assert "not for diagnosis" in data.DerivationDescription and "é" in data.ImageComments
    assert data.SeriesDescription.startswith("Virtual ER") and data.PatientName == "" and data.StudyDate == "20260102"
    levels = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    assert len({d.SeriesInstanceUID for d in levels}) == 1 and len({d.SOPInstanceUID for d in levels}) == 6


def test_it_is_known_again_as_a_virtual_stain(made: tuple[Path, np.ndarray]) -> None:
    assert virtual_stain(made[0] / "level_3.dcm") == "a virtual ER stain"


def test_exported_twice_it_is_the_same_series_byte_for_byte_and_replaced_only_when_asked_for(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o.ome.zarr", 100, 90, mpp=MPP)
    write_all(spec, nuclei(100, 90))
    export_dicom(spec.path, tmp_path / "a", tile=64)
    export_dicom(spec.path, tmp_path / "b", tile=64, threads=1)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [(tmp_path / "b" / n).read_bytes() for n in names]
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        export_dicom(spec.path, tmp_path / "a", tile=64)


def test_offsets_past_32_bits_get_a_table_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsistain.output.dicom._MOST_OFFSET", 100)
    spec, pixels = small_spec(tmp_path / "o.ome.zarr", 130, 130, mpp=MPP), nuclei(130, 130)
    write_all(spec, pixels)
    export_dicom(spec.path, tmp_path / "a", tile=64, quality=95)
    data = pydicom.dcmread(tmp_path / "a" / "level_0.dcm")
    assert len(data.ExtendedOffsetTable) == 8 * 9
    assert np.abs(data.pixel_array[4].astype(int) - pixels[64:128, 64:128]).mean() < 3


def _plane(data: "pydicom.Dataset", series: str, z: float) -> "pydicom.Dataset":
    """A focal plane as an instance of its own, in a series of a scanner's."""
    for element in [e for e in data if e.tag.group == 0x99]:
        del data[element.tag]
    data.SeriesInstanceUID, data.Manufacturer = series, "Scanner"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.TotalPixelMatrixOriginSequence[0].ZOffsetInSlideCoordinateSystem = z
    return data


@pytest.mark.parametrize("form", ["planes in one instance", "an instance a plane"])
def test_a_series_of_several_focal_planes_is_refused_in_our_words(
    made: tuple[Path, np.ndarray], tmp_path: Path, form: str
) -> None:
    series = pydicom.uid.generate_uid()
    for level in (0, 1):
        for z in (-2.0, 0.0, 2.0) if form == "an instance a plane" else (0.0,):
            data = _plane(pydicom.dcmread(made[0] / f"level_{level}.dcm"), series, z)
            if form == "planes in one instance":
                frames = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=data.NumberOfFrames))
                data.PixelData = pydicom.encaps.encapsulate(frames * 3)
                data.NumberOfFrames, data.TotalPixelMatrixFocalPlanes = 3 * len(frames), 3
            data.save_as(tmp_path / f"IM{level}{z:+.0f}.dcm")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(SlideError, match="several focal planes"):
            open_slide(path)
