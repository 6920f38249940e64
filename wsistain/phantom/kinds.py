"""The types of cells, as the tables name them, and their numbers."""

TYPES = (
    "tumour",
    "luminal",
    "myoepithelial",
    "fibroblast",
    "lymphocyte",
    "endothelial",
    "adipocyte",
    "debris",
    "plasma",
)
TUMOUR, LUMINAL, MYO, FIBRO, LYMPH, ENDO, ADIPO, DEBRIS, PLASMA = range(9)
