"""Weights on disk: our file, where it is found, and how published checkpoints become one."""
