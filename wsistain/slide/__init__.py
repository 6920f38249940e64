"""Whole slides: opening, reading, tissue."""
