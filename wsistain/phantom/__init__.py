"""Synthetic tissue whose truth is known."""
