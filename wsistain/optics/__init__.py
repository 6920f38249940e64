"""Light and dyes: optical density, stain separation, scores."""
