"""The plan of a run: tiles, blocks, and how tiles are blended."""
