"""Write into weights what their training pictures look like, where training did not: python scripts/tell_looks.py DATA WEIGHTS ...

DATA is a folder of the H&E patches that they were trained on (MIST's trainA), at the um per px of the weights. Weights of
`wsistain train` keep this by themselves.
"""

import sys
from pathlib import Path

from wsistain.data.pictures import read_picture
from wsistain.optics.familiar import make_familiar
from wsistain.training.header import LOOKED_AT
from wsistain.weights.file import load_tensors, read_header, save_weights


def tell(pictures: list[Path], weights: Path) -> None:
    """Add the looks of `pictures` to the header of `weights`."""
    header = read_header(weights)
    step = max(1, len(pictures) // LOOKED_AT)
    familiar = make_familiar([read_picture(p) for p in pictures[::step][:LOOKED_AT]], header.mpp)
    if familiar is None:
        raise SystemExit("the pictures hold too little tissue to say what they look like")
    save_weights(weights, header.model_copy(update={"familiar": familiar}), load_tensors(weights))
    print(f"{weights}: {len(familiar.bank)} looks")


if __name__ == "__main__":
    found = sorted(p for p in Path(sys.argv[1]).iterdir() if p.suffix in (".jpg", ".png"))
    for name in sys.argv[2:]:
        tell(found, Path(name))
