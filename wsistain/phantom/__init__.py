"""The tissue phantom: synthetic tissue whose markers, cells and section alignment are known exactly."""
