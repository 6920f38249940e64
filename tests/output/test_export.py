"""The OME-TIFF opens in OpenSlide, TiffSlide and tifffile as an RGB pyramid with the right mpp."""

import json
import struct
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide
from skimage.color import rgb2hed

from tests.output.making import mean_pyramid, small_spec, tree_hash, write_all
from wsistain.errors import OutputError
from wsistain.output import export as export_module
from wsistain.output.export import export_ome_tiff
from wsistain.output.metadata import write_metadata
from wsistain.output.store import OutputSpec, create_output

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
MPP = 0.4661


def smooth(height: int, width: int) -> np.ndarray:
    """Brown and blue waves on glass: what JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    wave = 0.5 + 0.25 * np.sin(y / 19) + 0.25 * np.cos(x / 23)
    pixels = 255 - wave[..., None] * np.array([90, 140, 180]) * (x < 0.8 * width)[..., None]
    return pixels.round().astype(np.uint8)


def stain(folder: Path, height: int, width: int, **changes: object) -> tuple[OutputSpec, np.ndarray]:
    pixels = smooth(height, width)
    spec = small_spec(folder / "o.ome.zarr", height, width, mpp=MPP, **changes)
    write_all(spec, pixels)
    return spec, pixels


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("lossless")
    spec, pixels = stain(folder, 333, 517)
    export_ome_tiff(spec.path, folder / "o.ome.tif", lossless=True, tile=64)
    return folder / "o.ome.tif", pixels


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("jpeg")
    spec, pixels = stain(folder, 333, 517)
    export_ome_tiff(spec.path, folder / "o.ome.tif", tile=64)
    return folder / "o.ome.tif", pixels


def level_of(slide: object, level: int) -> np.ndarray:
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


def test_openslide_sees_the_whole_pyramid_with_the_right_mpp(lossless: tuple[Path, np.ndarray]) -> None:
    path, pixels = lossless
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(MPP, rel=1e-9)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(MPP, rel=1e-9)
        levels = mean_pyramid(pixels, slide.level_count)
        assert slide.level_dimensions == tuple((level.shape[1], level.shape[0]) for level in levels)
        assert slide.level_count == 6  # down to one chunk of 32 px
        for number, level in enumerate(levels):
            assert np.array_equal(level_of(slide, number), level)
        assert not slide.associated_images


def test_tiffslide_sees_the_whole_pyramid_with_the_right_mpp(lossless: tuple[Path, np.ndarray]) -> None:
    path, pixels = lossless
    with tiffslide.TiffSlide(path) as slide:
        assert slide.properties["tiffslide.mpp-x"] == pytest.approx(MPP, rel=1e-9)
        assert slide.properties["tiffslide.mpp-y"] == pytest.approx(MPP, rel=1e-9)
        for number, level in enumerate(mean_pyramid(pixels, slide.level_count)):
            assert np.array_equal(level_of(slide, number), level)


def test_tifffile_sees_one_ome_series_of_interleaved_rgb(lossless: tuple[Path, np.ndarray]) -> None:
    path, pixels = lossless
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert series.axes == "YXS"
        levels = mean_pyramid(pixels, len(series.levels))
        assert len(levels) == 6
        for number, level in enumerate(levels):
            assert np.array_equal(series.levels[number].asarray(), level)
        page = series.keyframe
        assert page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        assert page.photometric == tifffile.PHOTOMETRIC.RGB
        assert page.predictor == tifffile.PREDICTOR.HORIZONTAL
        assert page.is_tiled


def test_the_jpeg_export_is_close_to_the_stain_in_every_reader(jpeg: tuple[Path, np.ndarray]) -> None:
    path, pixels = jpeg
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 6
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(MPP, rel=1e-9)
        from_openslide = level_of(slide, 0).astype(int)
    with tiffslide.TiffSlide(path) as slide:
        from_tiffslide = level_of(slide, 0).astype(int)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric == tifffile.PHOTOMETRIC.YCBCR
        from_tifffile = tiff.asarray().astype(int)
    assert np.abs(from_openslide - pixels).mean() < 1.5
    assert np.abs(from_openslide - from_tiffslide).max() <= 2
    assert np.abs(from_openslide - from_tifffile).max() <= 2
    # A red wrongly read as blue would show here: the stain is more red than blue on average.
    means = from_openslide.mean((0, 1))
    assert means[0] > means[1] > means[2]


def nuclei(height: int, width: int) -> np.ndarray:
    """Brown and blue nuclei of 10 px on pale tissue, a fifth of them brown: edges that carry the colour."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    density = np.full((height, width, 3), 0.04) + rng.normal(0, 0.01, (height, width, 1))
    for k in range(height * width // 400):
        cy, cx = rng.uniform(0, (height, width))
        dye = np.array([0.35, 0.5, 0.7]) if k % 5 == 0 else np.array([0.5, 0.4, 0.18])
        density += (np.hypot(y - cy, x - cx) < 5)[..., None] * dye
    return (255 * 10 ** -np.clip(density, 0, 3)).round().astype(np.uint8)


def dab_share(pixels: np.ndarray) -> float:
    """Share of the pixels with a DAB density above 0.15, as QuPath and scikit-image unmix it."""
    dab = np.clip(rgb2hed(pixels)[..., 2], 0, None)
    scale = rgb2hed(np.array([[[200, 160, 120]]], np.uint8))[0, 0, 2]  # what a pale brown weighs
    return float((dab > 0.5 * scale).mean())


def test_dab_is_measured_alike_on_the_export_and_on_the_stain(tmp_path: Path) -> None:
    pixels = nuclei(256, 256)
    spec = small_spec(tmp_path / "o.ome.zarr", 256, 256, mpp=MPP)
    write_all(spec, pixels)
    errors = {}
    for subsampling in ("4:4:4", "4:2:0"):
        export_ome_tiff(spec.path, tmp_path / "o.ome.tif", subsampling=subsampling, tile=64, overwrite=True)
        with openslide.OpenSlide(tmp_path / "o.ome.tif") as slide:
            errors[subsampling] = abs(dab_share(level_of(slide, 0)) / dab_share(pixels) - 1)
    assert errors["4:4:4"] < 0.05
    assert errors["4:4:4"] < 0.5 * errors["4:2:0"]


def test_quality_trades_size_for_fidelity(tmp_path: Path) -> None:
    spec, _ = stain(tmp_path, 333, 517)
    sizes = [export_ome_tiff(spec.path, tmp_path / f"{q}.tif", quality=q, tile=64).size for q in (50, 90, 98)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_the_description_says_that_the_stain_is_virtual_and_where_it_comes_from(jpeg: tuple[Path, np.ndarray]) -> None:
    path, _ = jpeg
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
        assert "wsistain" in tiff.pages.first.tags["Software"].value
    assert text is not None
    root = ElementTree.fromstring(text)
    assert "Virtual stain" in (root.find(f"{OME}Image/{OME}Description").text or "")
    assert root.find(f"{OME}Image").get("Name") == "test (virtual)"
    size = root.find(f"{OME}Image/{OME}Pixels")
    assert (float(size.get("PhysicalSizeX")), size.get("PhysicalSizeXUnit")) == (MPP, "µm")
    assert (size.get("SizeC"), size.get("Interleaved")) == ("3", "true")
    entries = {m.get("K"): m.text for m in root.iter(f"{OME}M")}
    assert entries["virtual"] == "true"
    assert entries["marker"] == "ER"
    assert json.loads(entries["key"]) == {"plan": "p"}


def test_a_region_keeps_its_place_and_the_magnification_of_its_source(tmp_path: Path) -> None:
    """As Bio-Formats reads it: position of the plane in um, and of the objective what these pixels amount to."""
    spec = small_spec(tmp_path / "o.ome.zarr", 64, 64, mpp=0.5, origin_um=(300.0, 120.5))
    write_all(spec, smooth(64, 64))
    write_metadata(spec, {"slide": {"mpp": 0.25, "objective_power": 40.0}}, "region")
    export_ome_tiff(spec.path, tmp_path / "o.ome.tif")
    with tifffile.TiffFile(tmp_path / "o.ome.tif") as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata)
    plane = root.find(f"{OME}Image/{OME}Pixels/{OME}Plane")
    assert (float(plane.get("PositionY")), float(plane.get("PositionX"))) == (300.0, 120.5)
    assert (plane.get("PositionXUnit"), plane.get("PositionYUnit")) == ("µm", "µm")
    assert float(root.find(f"{OME}Instrument/{OME}Objective").get("NominalMagnification")) == 20
    notes = {m.get("K"): m.text for m in root.iter(f"{OME}M")}
    assert (float(notes["source_y_px"]), float(notes["source_x_px"]), float(notes["source_px_per_px"])) == (
        1200,
        482,
        2,
    )


def test_the_ome_xml_is_what_the_schema_asks_for(jpeg: tuple[Path, np.ndarray]) -> None:
    with tifffile.TiffFile(jpeg[0]) as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata)
    assert [child.tag.removeprefix(OME) for child in root] == ["Image", "StructuredAnnotations"]
    image = [child.tag.removeprefix(OME) for child in root.find(f"{OME}Image")]
    assert image == ["Description", "Pixels", "AnnotationRef"]
    assert [c.tag.removeprefix(OME) for c in root.find(f"{OME}Image/{OME}Pixels")] == ["Channel", "TiffData", "Plane"]


def test_provenance_with_braces_quotes_and_foreign_letters_survives(tmp_path: Path) -> None:
    spec, _ = stain(tmp_path, 40, 40)
    odd = 'a "b" <c> & {d} é'
    write_metadata(spec, {"note": odd}, odd)
    export_ome_tiff(spec.path, tmp_path / "o.ome.tif")
    with tifffile.TiffFile(tmp_path / "o.ome.tif") as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata)
    assert {m.get("K"): m.text for m in root.iter(f"{OME}M")}["note"] == odd
    assert root.find(f"{OME}Image").get("Name") == odd


def directories(path: Path) -> list[tuple[int, bytes]]:
    """(offset, raw entries) of the main chain, walked by hand."""
    data = path.read_bytes()
    big = data[2:4] == b"\x2b\0"
    count, entry, pointer = ("<Q", 20, "<Q") if big else ("<H", 12, "<I")
    (place,) = struct.unpack_from(pointer, data, 8 if big else 4)
    found = []
    while place:
        start = place + struct.calcsize(count)
        (entries,) = struct.unpack_from(count, data, place)
        end = start + entries * entry
        found.append((place, data[start:end]))
        (place,) = struct.unpack_from(pointer, data, end)
    return found


@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_main_chain_holds_copies_and_never_the_sub_ifds_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bigtiff: bool
) -> None:
    if bigtiff:
        monkeypatch.setattr(export_module, "_CLASSIC_BYTES", 0)
    spec, pixels = stain(tmp_path, 333, 517)
    done = export_ome_tiff(spec.path, tmp_path / "o.ome.tif", lossless=True, tile=64)
    assert done.bigtiff == bigtiff
    chain = directories(tmp_path / "o.ome.tif")
    with tifffile.TiffFile(tmp_path / "o.ome.tif") as tiff:
        assert tiff.is_bigtiff == bigtiff
        subs = tiff.pages.first.subifds
        assert len(subs) == len(chain) - 1 == 5
        assert not set(subs) & {offset for offset, _ in chain}
        for page, sub in zip(list(tiff.pages)[1:], tiff.pages.first.pages, strict=True):
            assert page.dataoffsets == sub.dataoffsets
            assert page.is_reduced
    with openslide.OpenSlide(tmp_path / "o.ome.tif") as slide:
        assert np.array_equal(level_of(slide, 0), pixels)
        assert slide.level_count == 6


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (64, 64)])
def test_small_and_odd_stains_are_exported(tmp_path: Path, size: tuple[int, int]) -> None:
    spec, pixels = stain(tmp_path, *size)
    export_ome_tiff(spec.path, tmp_path / "o.ome.tif", lossless=True, tile=64)
    with openslide.OpenSlide(tmp_path / "o.ome.tif") as slide:
        assert slide.dimensions == size[::-1]
        assert np.array_equal(level_of(slide, 0), pixels)
    assert np.array_equal(tifffile.imread(tmp_path / "o.ome.tif"), pixels)


def test_version_04_is_exported_just_as_well(tmp_path: Path) -> None:
    spec, pixels = stain(tmp_path, 100, 90, ngff="0.4")
    export_ome_tiff(spec.path, tmp_path / "o.ome.tif", lossless=True, tile=64)
    assert np.array_equal(tifffile.imread(tmp_path / "o.ome.tif"), pixels)


def test_bytes_do_not_depend_on_threads(tmp_path: Path) -> None:
    spec, _ = stain(tmp_path, 333, 517)
    for threads in (1, 3):
        export_ome_tiff(spec.path, tmp_path / f"{threads}.tif", tile=64, threads=threads)
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "3.tif").read_bytes()


def test_an_existing_file_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    spec, _ = stain(tmp_path, 40, 40)
    target = tmp_path / "o.ome.tif"
    target.write_text("precious")
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        export_ome_tiff(spec.path, target)
    assert target.read_text() == "precious"
    export_ome_tiff(spec.path, target, overwrite=True)
    assert tifffile.imread(target).shape == (40, 40, 3)


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    spec, _ = stain(tmp_path, 333, 517)
    shard = spec.folder / "1/c/0/0/0"  # level 0 is exported, then this is met
    data = bytearray(shard.read_bytes())
    data[:4000] = bytes(4000)
    shard.write_bytes(data)
    before = tree_hash(tmp_path)
    threads = threading.active_count()
    with pytest.raises(OutputError, match="is damaged"):
        export_ome_tiff(spec.path, tmp_path / "o.ome.tif", tile=64)
    assert tree_hash(tmp_path) == before
    assert threading.active_count() <= threads + 8  # zarr's own pool stays; the exporter's threads are gone
    assert not any(t.name.startswith("export") for t in threading.enumerate())


def test_progress_counts_every_tile_once(tmp_path: Path) -> None:
    spec, _ = stain(tmp_path, 333, 517)
    seen: list[tuple[int, int]] = []
    export_ome_tiff(spec.path, tmp_path / "o.ome.tif", tile=64, progress=lambda done, total: seen.append((done, total)))
    total = sum(-(-h // 64) * -(-w // 64) for h, w in spec.levels)
    assert seen == [(n + 1, total) for n in range(total)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": 0}, "JPEG quality 0 is not in 1 to 100"),
        ({"quality": 101}, "JPEG quality 101"),
        ({"tile": 100}, "tile 100 is not a multiple of 16"),
        ({"tile": 0}, "tile 0 is not"),
        ({"threads": 0}, "threads 0"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    spec, _ = stain(tmp_path, 40, 40)
    with pytest.raises(OutputError, match=message):
        export_ome_tiff(spec.path, tmp_path / "o.ome.tif", **changes)
    assert not (tmp_path / "o.ome.tif").exists()


def test_inputs_and_names_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "unfinished", 300, 300)
    create_output(spec)
    with pytest.raises(OutputError, match="unfinished"):
        export_ome_tiff(spec.path, tmp_path / "o.ome.tif")
    with pytest.raises(OutputError, match="does not end in"):
        export_ome_tiff(spec.path, tmp_path / "o.png")
    finished, _ = stain(tmp_path, 40, 40)
    with pytest.raises(OutputError, match="cannot be written"):
        export_ome_tiff(finished.path, tmp_path / "no such folder" / "o.ome.tif")
