"""What others have made: their weights and feature networks, where they lie and how they are read."""
