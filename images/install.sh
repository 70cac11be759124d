#!/bin/sh
# Install all wheels of a folder, and nothing else, below a prefix: install.sh WHEELS PREFIX
# /opt/venv is the interpreter of every image; what lies below the other prefixes it finds by its .pth file, so that
# each can be an image layer of its own.
set -eu
wheels=$1
prefix=$2

if [ ! -e /opt/venv ]; then
    python3 -m venv /opt/venv
    /opt/venv/bin/python - <<'EOF'
import pathlib, sysconfig

layers = [sysconfig.get_path("purelib", vars={"base": prefix}) for prefix in ("/opt/reward", "/opt/hrf")]
pathlib.Path(sysconfig.get_path("purelib"), "layers.pth").write_text("\n".join(layers) + "\n")
EOF
fi
/opt/venv/bin/pip install --no-index --no-deps --no-compile --no-cache-dir --quiet --disable-pip-version-check \
    --no-warn-script-location --prefix "$prefix" "$wheels"/*.whl
# Compiled now, since a read-only file system keeps no compiled modules; by content, so that the same wheels give the
# same bytes whatever the clock says. Some packages ship templates that are no Python: those stay as they are.
/opt/venv/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash "$prefix/lib" || true
