"""Every file of a folder is a slide or a row with its reason, and none of them ends the others."""

import os
import struct
from pathlib import Path

import pytest

from tests.pipeline.slides import small_config, tissue_picture, write_slide
from wsistain.batch import scan
from wsistain.batch.dicom import Instance, read_instance
from wsistain.batch.scan import Terms, check_entries, scan_folder
from wsistain.batch.sheet import Entry
from wsistain.errors import ConfigError
from wsistain.pipeline.run import run


def found(folder, **options):
    """Paths of the slides, and (path, is_slide, reason) of the others, below the folder."""
    entries, refused = scan_folder(folder, ["ER"], options.pop("terms", Terms()), **options)
    below = lambda place: Path(place).relative_to(folder).as_posix()  # noqa: E731
    return [below(e.path) for e in entries], {below(r.path): (r.is_slide, r.reason) for r in refused}


@pytest.fixture
def good(tmp_path):
    """A small slide outside the folder that is searched."""
    return write_slide(tmp_path / "good.tiff", tissue_picture(96, 128)).read_bytes()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("name", "is_slide"),
    [
        *(
            (f"cut.{end}", True)
            for end in ("svs", "qptiff", "czi", "isyntax", "vsi", "mrxs", "ndpi", "lif", "ets", "dcm")
        ),
        *(("copying.svs.part", True), ("packed.ndpi.gz", True), ("no_ending", True), ("x.ome.zarr", True)),
        *(("notes.txt", False), ("table.csv", False), ("photo.png", False), (".hidden.svs", False)),
    ],
)
def test_what_was_meant_as_a_slide_counts_as_failed(folder, good, name, is_slide):
    (folder / name).write_bytes(good[:600] if ("photo" not in name and "." in name) or is_slide else b"\x89PNG\r\n")
    if name in ("notes.txt", "table.csv"):
        (folder / name).write_text("hello")
    entries, refused = found(folder)
    assert not entries and refused[name][0] is is_slide and refused[name][1]


def test_pictures_are_meant_when_their_scale_is_given(folder):
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n")
    assert found(folder)[1]["photo.png"][0] is False
    assert found(folder, terms=Terms(mpp=0.5))[1]["photo.png"][0] is True


@pytest.mark.parametrize(
    "fault", [RuntimeError("x\x1b"), AttributeError("lower"), MemoryError(), RecursionError(), KeyError()]
)
def test_any_fault_with_one_file_is_its_row(folder, good, monkeypatch, fault):
    for name in ("a.tiff", "b.tiff"):
        (folder / name).write_bytes(good)
    real = scan.open_slide

    def opens(path, **options):
        if path.endswith("a.tiff"):
            raise fault
        return real(path, **options)

    monkeypatch.setattr(scan, "open_slide", opens)
    entries, refused = found(folder)
    assert entries == ["b.tiff"] and refused["a.tiff"][0] and type(fault).__name__ in refused["a.tiff"][1]


def test_special_files_and_shut_folders_are_rows_and_nothing_waits(folder, good):
    os.mkfifo(folder / "pipe.svs")
    (folder / "gone.svs").symlink_to(folder / "nowhere")
    (folder / "loop.tif").symlink_to(folder / "loop.tif")
    (folder / "z.zarr").mkdir()
    os.mkfifo(folder / "z.zarr" / "zarr.json")
    _, refused = found(folder, recursive=True)
    assert (
        {name for name, (is_slide, _) in refused.items() if is_slide}
        == set(refused)
        == {*("pipe.svs", "gone.svs", "loop.tif", "z.zarr")}
    )


def test_linked_folders_are_followed_once(folder, good, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "s.tiff").write_bytes(good)
    (folder / "real").mkdir()
    (folder / "real" / "s.tiff").write_bytes(good)
    (folder / "a_link").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder / "real")
    (folder / "real" / "up").symlink_to(folder)
    entries, refused = found(folder, recursive=True)
    assert entries == ["a_link/deep/s.tiff", "real/s.tiff"]
    assert set(refused) == {"again", "real/up"} and all("searched already" in why for _, why in refused.values())
    assert "--recursive" in found(folder)[1]["real"][1]


def test_parts_of_slides_are_no_slides_and_data_without_its_slide_is_named(folder, good):
    for name in ("whole", "alone"):
        (folder / name).mkdir()
        (folder / name / "Slidedat.ini").write_text("[GENERAL]")
        (folder / name / "x.tiff").write_bytes(good)
    (folder / "whole.mrxs").write_bytes(b"\xff\xd8\xff")
    (folder / "_scan_").mkdir()
    (folder / "_scan_" / "frame_t.ets").write_bytes(b"x")
    (folder / "scan.vsi").write_bytes(good[:300])
    (folder / "v.vms").write_text("[Virtual Microscope Specimen]\nImageFile=v.jpg\n")
    (folder / "v.jpg").write_bytes(b"\xff\xd8\xff")
    entries, refused = found(folder, recursive=True)
    assert not entries and set(refused) == {"alone", "whole.mrxs", "scan.vsi", "v.vms"}
    assert all(is_slide for is_slide, _ in refused.values()) and "alone.mrxs is not beside it" in refused["alone"][1]


def test_our_own_stains_are_passed_over_unless_they_are_wanted(folder, tmp_path):
    slide = write_slide(folder / "a.tiff", tissue_picture(128, 128))
    run(slide, "ER", folder, config=small_config())
    (folder / "b.ER.ome.zarr" / ".wsistain").mkdir(parents=True)
    entries, refused = found(folder)
    assert entries == ["a.tiff"]
    assert {name for name, (is_slide, _) in refused.items() if is_slide} == set()
    assert "virtual ER stain" in refused["a.ER.ome.zarr"][1] and "virtual" in refused["a.ER.preview.jpg"][1]
    assert "unfinished stain" in refused["b.ER.ome.zarr"][1]
    assert "a.ER.ome.zarr" in found(folder, terms=Terms(wants_ihc=True))[0]
    _, named = check_entries([Entry("x", str(folder / "a.ER.ome.zarr"), ("ER",))], Terms())
    assert named[0].is_slide and "virtual" in named[0].reason


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        scan_folder(tmp_path / "x", ["ER"])


# ---- DICOM --------------------------------------------------------------------------------------------------------


def element(tag: int, kind: bytes, value: bytes, *, unknown: bool = False) -> bytes:
    """A data element with explicit value representation, little endian."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind
    if kind in (b"SQ", b"OB", b"UN"):
        return head + struct.pack("<2xI", 0xFFFFFFFF if unknown else len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def dicom(kind: str, series: str = "1.2.3", *, pixels: tuple[int, int] = (100, 50), modality: str = "SM") -> bytes:
    """The head of a DICOM file; a nested series UID of unknown length stands before its own."""
    other = element(0x0020000E, b"UI", b"9.9\0")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + other + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    nested = item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    text = f"DERIVED\\PRIMARY\\{kind}\\NONE"
    return (
        b"\0" * 128
        + b"DICM"
        + b"".join(
            [
                element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0"),
                element(0x00080008, b"CS", (text + " " * (len(text) % 2)).encode()),
                element(0x00080060, b"CS", modality.encode()),
                element(0x00081115, b"SQ", nested, unknown=True),
                element(0x0020000E, b"UI", (series + "\0" * (len(series) % 2)).encode()),
                element(0x00480006, b"UL", struct.pack("<I", pixels[0])),
                element(0x00480007, b"UL", struct.pack("<I", pixels[1])),
                element(0x7FE00010, b"OB", b"", unknown=True),
            ]
        )
    )


def test_a_dicom_file_says_what_it_is(tmp_path):
    (tmp_path / "x").write_bytes(dicom("VOLUME"))
    assert read_instance(tmp_path / "x") == Instance("1.2.3", "VOLUME", "SM", 5000)
    whole = dicom("LABEL")
    for end in range(132, len(whole) - 8, 7):
        (tmp_path / "x").write_bytes(whole[:end])
        read_instance(tmp_path / "x")  # None or less known; never an error


def test_a_series_is_one_slide_by_its_finest_level_and_labels_are_none(folder, monkeypatch):
    (folder / "two").mkdir()
    for name, data in {
        "IM1": dicom("VOLUME", pixels=(10, 10)),
        "IM2": dicom("LABEL"),
        "IM3": dicom("VOLUME", pixels=(900, 700)),
        "IM4": dicom("OVERVIEW"),
        "IM5.dcm": dicom("VOLUME", "1.2.4"),
        "two/IM1": dicom("VOLUME"),
        "lone.dcm": dicom("LABEL", "1.2.5"),
        "ct.dcm": dicom("AXIAL", "1.2.6", modality="CT"),
    }.items():
        (folder / name).write_bytes(data)
    monkeypatch.setattr(scan, "_opened", lambda entry, terms: entry)  # no pixels are in these files
    entries, refused = found(folder, recursive=True)
    assert entries == ["IM3", "IM5.dcm", "two/IM1"]
    assert {name: is_slide for name, (is_slide, _) in refused.items()} == {"lone.dcm": False, "ct.dcm": False}
    _, named = check_entries([Entry("x", str(folder / "IM2"), ("ER",))], Terms())
    assert "label" in named[0].reason
