"""The stain as DICOM whole-slide images, one file a level, for archives (PACS) and viewers that read DICOM.

Each level is a VL Whole Slide Microscopy Image: tiles as frames in row-major order over the whole matrix (TILED_FULL), JPEG
whose three components are red, green and blue at full resolution, so that nothing of DAB is lost to shared colours and the
photometric interpretation is the plain RGB. The picture is DERIVED; description and comments say in words that the stain is
computed, and a private element holds the provenance as JSON.

Source: DICOM PS3.3 A.32.8 (VL Whole Slide Microscopy Image IOD), C.8.12.4 to C.8.12.9; PS3.5 A.4 (encapsulated pixel data).
"""

import io
import json
import shutil
import struct
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsistain import __version__
from wsistain.errors import OutputError, shown
from wsistain.output.export import ExportDone, check_export, counting, encoded_tiles
from wsistain.output.ome_xml import STATEMENT
from wsistain.output.reading import StoredStain, open_level, read_stain
from wsistain.output.recognise import DICOM_CREATOR
from wsistain.runtime.files import local_path, replacing, reporting
from wsistain.runtime.jpeg import VIEWED, encode_jpeg

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_PRIVATE_GROUP = 0x0099
_MOST_OFFSET = 0xFFFFFFFF


def export_dicom(
    zarr_path: Path | str,
    folder: Path | str,
    *,
    quality: int = VIEWED,
    tile: int = 512,
    overwrite: bool = False,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> ExportDone:
    """Writes a finished stain as a DICOM series into `folder`, `level_0.dcm` and so on; what was written.

    quality   : of JPEG, 1 to 100. tile: edge of the frames, px, a multiple of 16.
    overwrite : replace files of that name.
    progress  : called with (tiles done, tiles in all).

    The patient's modules are empty, as the provenance holds nothing of a patient. UIDs follow from the stain: exported
    twice, it is the same series. Raises OutputError as `export_ome_tiff` does, and where pydicom is not installed.
    """
    target = local_path(folder)
    check_export(quality, tile, threads)
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise OutputError("DICOM is written with pydicom; pip install 'wsistain[dicom]'") from None
    stain = read_stain(zarr_path)
    files = [target / f"level_{level}.dcm" for level in range(len(stain.levels))]
    there = [path for path in files if path.exists()]
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; DICOM is written into a folder, one file a level")
    if there and not overwrite:
        raise OutputError(f"{there[0]} exists; pass --overwrite to replace it or choose another folder")

    encode = partial(encode_jpeg, quality=quality, as_rgb=True)
    counted = counting(stain, tile, progress)
    with reporting(target, retry="export again"):
        target.mkdir(parents=True, exist_ok=True)
        # Coarse levels first: a series whose finest level is there is whole.
        for level in reversed(range(len(stain.levels))):
            height, width = stain.levels[level]
            array = open_level(stain.path, level)
            tiles = encoded_tiles(array, height, width, tile, encode, threads)
            with replacing(files[level]) as part:
                _write_level(part, stain, level, tile, counted(tiles))
        size = sum(path.stat().st_size for path in files)
    return ExportDone(str(target), size, len(files), bigtiff=False)


def _write_level(path: Path, stain: StoredStain, level: int, tile: int, frames: Iterator[bytes]) -> None:
    """One level: frames go to a spool first, since the header and the table of offsets come before them."""
    from pydicom.filewriter import dcmwrite

    spool = path.with_name(path.name + ".frames")
    try:
        lengths = _spool(spool, frames)
        header = io.BytesIO()
        dataset = _dataset(stain, level, tile, len(lengths), sum(lengths))
        starts = [0]
        for length in lengths[:-1]:
            starts.append(starts[-1] + 8 + length)
        fits = starts[-1] <= _MOST_OFFSET
        if not fits:
            dataset.ExtendedOffsetTable = struct.pack(f"<{len(starts)}Q", *starts)
            dataset.ExtendedOffsetTableLengths = struct.pack(f"<{len(lengths)}Q", *lengths)
        dcmwrite(header, dataset, enforce_file_format=True)
        table = struct.pack(f"<{len(starts)}I", *starts) if fits else b""
        with path.open("wb") as out, spool.open("rb") as kept:
            out.write(header.getvalue())
            out.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
            out.write(struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table)
            shutil.copyfileobj(kept, out, 1 << 20)
            out.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    finally:
        spool.unlink(missing_ok=True)


def _spool(path: Path, frames: Iterator[bytes]) -> list[int]:
    """Writes each frame as an item of even length; their lengths."""
    lengths = []
    with path.open("wb") as out:
        for frame in frames:
            data = frame + b"\0" * (len(frame) % 2)
            out.write(struct.pack("<HHI", 0xFFFE, 0xE000, len(data)))
            out.write(data)
            lengths.append(len(data))
    return lengths


def _dataset(stain: StoredStain, level: int, tile: int, n_frames: int, n_bytes: int) -> "Dataset":
    """Everything but the pixels of a level."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    height, width = stain.levels[level]
    uid = _uid(stain, f"level {level}")
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(_JPEG_BASELINE)
    data.file_meta.MediaStorageSOPClassUID = UID(_WHOLE_SLIDE)
    data.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    data.file_meta.ImplementationVersionName = f"wsistain {__version__}"[:16]
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = _WHOLE_SLIDE, uid
    _describe_study(data, stain)

    # The picture: a derived one, tiles in row-major order over the whole matrix.
    data.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE" if level == 0 else "RESAMPLED"]
    data.InstanceNumber = level + 1
    data.Rows = data.Columns = tile
    data.NumberOfFrames = n_frames
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.TotalPixelMatrixFocalPlanes = 1
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.BurnedInAnnotation, data.SpecimenLabelInImage = "NO", "NO"
    data.FocusMethod, data.ExtendedDepthOfField = "AUTO", "NO"
    data.VolumetricProperties = "VOLUME"
    data.LossyImageCompression, data.LossyImageCompressionMethod = "01", "ISO_10918_1"
    data.LossyImageCompressionRatio = f"{n_frames * tile * tile * 3 / max(n_bytes, 1):.2f}"
    data.DimensionOrganizationType = "TILED_FULL"
    organization = Dataset()
    organization.DimensionOrganizationUID = _uid(stain, "dimensions")
    data.DimensionOrganizationSequence = [organization]

    # Its place, in mm from the corner of the H&E picture: x to the right, y up, so that the third axis points at who looks;
    # with y down it would be a picture seen through the glass.
    mpp = stain.mpp * 2**level
    data.ImagedVolumeWidth, data.ImagedVolumeHeight = (_decimal(n * mpp / 1e3) for n in (width, height))
    data.ImagedVolumeDepth = 1.0
    data.ImageOrientationSlide = [1, 0, 0, 0, -1, 0]
    origin = Dataset()
    origin.YOffsetInSlideCoordinateSystem, origin.XOffsetInSlideCoordinateSystem = (
        _decimal(mm) for mm in (0.0 - stain.origin_um[0] / 1e3, stain.origin_um[1] / 1e3)
    )
    data.TotalPixelMatrixOriginSequence = [origin]
    data.SharedFunctionalGroupsSequence = [_shared_groups(data.ImageType, mpp)]
    data.OpticalPathSequence, data.NumberOfOpticalPaths = [_optical_path(stain)], 1

    block = data.private_block(_PRIVATE_GROUP, DICOM_CREATOR, create=True)
    block.add_new(
        0x01, "UT", json.dumps({"wsistain": __version__, **stain.provenance, "virtual": True}, sort_keys=True)
    )
    return data


def _describe_study(data: "Dataset", stain: StoredStain) -> None:
    """Patient, study, series, equipment and specimen: what is known, and empty what is not."""
    from pydicom.dataset import Dataset

    marker = shown(str(stain.provenance.get("marker", "")))
    made = _date(stain)
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        setattr(data, name, "")
    data.ReferringPhysicianName = ""
    data.StudyDate = data.SeriesDate = data.ContentDate = f"{made:%Y%m%d}"
    data.StudyTime = data.SeriesTime = data.ContentTime = f"{made:%H%M%S}"
    data.AcquisitionDateTime = f"{made:%Y%m%d%H%M%S}"
    data.StudyInstanceUID = _uid(stain, "study")
    data.SeriesInstanceUID = _uid(stain, "series")
    data.FrameOfReferenceUID = _uid(stain, "frame of reference")
    data.PositionReferenceIndicator = "SLIDE_CORNER"
    data.Modality, data.SeriesNumber = "SM", 1
    data.SeriesDescription = f"Virtual {marker} stain, computed; research only"[:64]
    data.Manufacturer, data.ManufacturerModelName = "wsistain", "wsistain"
    data.DeviceSerialNumber, data.SoftwareVersions = "none", __version__
    data.DerivationDescription = STATEMENT
    data.ImageComments = f"{STATEMENT} {shown(str(stain.provenance.get('note') or ''))}".strip()[:1000]
    data.AcquisitionContextSequence = []
    data.ContainerIdentifier = shown(stain.name)[:64]
    data.IssuerOfTheContainerIdentifierSequence = []
    data.ContainerTypeCodeSequence = [_code("433466003", "SCT", "Microscope slide")]
    specimen = Dataset()
    specimen.SpecimenIdentifier = shown(stain.name)[:64]
    specimen.SpecimenUID = _uid(stain, "specimen")
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    specimen.SpecimenShortDescription = f"virtual {marker} stain of an H&E section"[:64]
    data.SpecimenDescriptionSequence = [specimen]


def _shared_groups(image_type: Any, mpp: float) -> "Dataset":
    from pydicom.dataset import Dataset

    measures, frame_type, path, groups = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [_decimal(mpp / 1e3)] * 2
    measures.SliceThickness = 0.001
    measures.SpacingBetweenSlices = 0.001
    frame_type.FrameType = list(image_type)
    path.OpticalPathIdentifier = "1"
    groups.PixelMeasuresSequence = [measures]
    groups.WholeSlideMicroscopyImageFrameTypeSequence = [frame_type]
    groups.OpticalPathIdentificationSequence = [path]
    return groups


def _optical_path(stain: StoredStain) -> "Dataset":
    """Bright field in sRGB, which is what the H&E was taken for."""
    from PIL import ImageCms
    from pydicom.dataset import Dataset

    path = Dataset()
    path.OpticalPathIdentifier = "1"
    path.OpticalPathDescription = "computed from an H&E picture"
    path.IlluminationTypeCodeSequence = [_code("111744", "DCM", "Brightfield illumination")]
    path.IlluminationColorCodeSequence = [_code("414298005", "SCT", "Full Spectrum")]
    path.ICCProfile = _even(_dated(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()))
    path.ColorSpace = "SRGB"
    slide = stain.provenance.get("slide")
    power = slide.get("objective_power") if isinstance(slide, dict) else None
    if isinstance(power, int | float) and not isinstance(power, bool):
        path.ObjectiveLensPower = _decimal(float(power))
    return path


def _dated(profile: bytes) -> bytes:
    """The profile without the moment of its making (header, bytes 24 to 35), so that the same stain gives the same bytes."""
    return profile[:24] + bytes(12) + profile[36:]


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def _code(value: str, scheme: str, meaning: str) -> "Dataset":
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _decimal(value: float) -> float:
    """A number that a decimal string of 16 characters holds."""
    return float(f"{value:.9g}")


def _date(stain: StoredStain) -> datetime:
    """When the stain was computed; the first day that DICOM's dates know where it does not say."""
    try:
        return datetime.fromisoformat(str(stain.provenance.get("date")))
    except ValueError:
        return datetime(1900, 1, 1)


def _uid(stain: StoredStain, what: str) -> str:
    """A UID made from what the stain is (PS3.5 B.2)."""
    facts = json.dumps([stain.name, stain.provenance, stain.levels, what], sort_keys=True)
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, facts).int}"
