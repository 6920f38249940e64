#!/bin/sh
# What both images do: install.sh PREFIX SOURCE makes a virtual environment in PREFIX with the locked versions.
# TORCH_INDEX: where pip finds torch's build, unset for the default one (CUDA). PYTHON: the interpreter, python3 unless set.
set -eu
prefix=$1 source=$2
"${PYTHON:-python3}" -m venv "$prefix"
pip="$prefix/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check -c $source/containers/lock.txt"
$pip ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
$pip "$source[train,batch,remote]"
"$prefix/bin/python" -m compileall -q "$prefix/lib" || true # a file of a library for another Python is no error
