"""What every part stands on while it runs: files, memory, look-ahead, progress."""
