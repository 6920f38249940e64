"""Patch data sets and their layouts."""
