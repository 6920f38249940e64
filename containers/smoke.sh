#!/bin/sh
# Does what is installed work? smoke.sh PREFIX FOLDER: a synthetic slide, stained in two processes, read back, exported.
set -eu
prefix=$1 folder=$2
PATH="$prefix/bin:$PATH"
wsistain --version
wsistain phantom slide "$folder" --size 768 --marker ER --seed 7
wsistain run "$folder/he_a.tiff" --marker ER --workers 2 --output "$folder"
wsistain export "$folder/he_a.ER.ome.zarr" "$folder/he_a.ER.ome.tif"
wsistain info "$folder/he_a.ER.ome.tif"
mkdir "$folder/slides" && ln "$folder/he_a.tiff" "$folder/slides/"
wsistain batch "$folder/slides" --marker ER --output "$folder/batch" --set weights=identity
python -c "import accelerate, diffusers, peft, s3fs, transformers"
