"""The stained slide on disk: OME-Zarr, pyramid, metadata, journal, export."""
