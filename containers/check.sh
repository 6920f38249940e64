#!/bin/sh
# The images' own steps without a builder: the files that wsistain.def lists, install.sh and smoke.sh in a clean folder.
# PYTHON: an interpreter of the version that lock.txt is made for.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
sed -n '/^%files/,/^%post/s|^ *\([^ ]*\) /src/.*|\1|p' "$root/containers/wsistain.def" | while read -r name; do
    cp -r "$root/$name" "$work/src/$name"
done
unset PYTHONPATH VIRTUAL_ENV
"$work/src/containers/install.sh" "$work/wsistain" "$work/src"
cd "$work"
"$root/containers/smoke.sh" "$work/wsistain" "$work/data"
echo "The images' steps work: $(du -sh "$work/wsistain" | cut -f1) installed"
