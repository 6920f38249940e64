"""Many slides: a sample sheet from a folder, the Snakemake workflow over it, and a summary of what came out."""
