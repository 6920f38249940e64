"""H&E and virtual stains side by side in a browser, a notebook or napari."""
