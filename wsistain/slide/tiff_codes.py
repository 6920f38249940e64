"""The numbers of TIFF tags that readers and codecs compare, under their names."""

from enum import IntEnum, IntFlag


class Codec(IntEnum):
    """Values of the Compression tag that can be decoded here."""

    NONE = 1
    LZW = 5
    JPEG = 7
    DEFLATE = 8
    JP2K_YCBCR = 33003
    JP2K_LOSSY = 33004
    JP2K_RGB = 33005
    DEFLATE_OLD = 32946
    PACKBITS = 32773
    JP2K = 34712
    LERC = 34887
    LZMA = 34925
    ZSTD_OLD = 34926
    WEBP_OLD = 34927
    ZSTD = 50000
    WEBP = 50001
    JPEGXL = 50002
    JPEGXL_DNG = 52546


BYTE_CODECS = frozenset(
    {
        *(Codec.NONE, Codec.LZW, Codec.DEFLATE, Codec.DEFLATE_OLD, Codec.PACKBITS, Codec.LZMA),
        *(Codec.ZSTD, Codec.ZSTD_OLD, Codec.LERC),
    }
)
"""Codecs that keep the samples as they are, so that YCbCr stays YCbCr; the others know colour themselves."""

JP2K_CODECS = frozenset({Codec.JP2K, Codec.JP2K_YCBCR, Codec.JP2K_LOSSY, Codec.JP2K_RGB})


class Photometric(IntEnum):
    """Values of the PhotometricInterpretation tag that are told apart here."""

    MINISWHITE = 0
    MINISBLACK = 1
    RGB = 2
    PALETTE = 3
    YCBCR = 6


COLOUR = frozenset({Photometric.RGB, Photometric.YCBCR})
"""What a brightfield picture can be."""


class Extra(IntEnum):
    """Values of the ExtraSamples tag that say what lies beside the colours."""

    PREMULTIPLIED = 1
    ALPHA = 2


class PageKind(IntFlag):
    """Bits of the NewSubfileType tag."""

    REDUCED = 1
    PAGE = 2
    MASK = 4
    APERIO_MACRO = 8


class Predictor(IntEnum):
    """Values of the Predictor tag that can be undone here."""

    NONE = 1
    HORIZONTAL = 2


class Planar(IntEnum):
    """Values of the PlanarConfiguration tag."""

    INTERLEAVED = 1
    SEPARATE = 2


LERC_PARAMETERS = 50674
LERC_PACKING = {0: Codec.NONE, 1: Codec.DEFLATE, 2: Codec.ZSTD}
"""The second number of the LercParameters tag: what a LERC tile is packed in."""

UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}
"""ResolutionUnit: inch, cm; beyond the standard mm, um."""

NO_UNIT = 1
"""ResolutionUnit of a file that only states how high its pixels are beside their width."""
