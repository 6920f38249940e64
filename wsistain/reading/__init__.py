"""What a pathologist reads: cells, their classes, scores, where not to believe them, and the files that tell of it."""
