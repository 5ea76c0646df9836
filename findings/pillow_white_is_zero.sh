#!/bin/sh
# Pillow inverts a white-is-zero TIFF of 8 bits, so that white becomes the largest value, but not one of 16 bits.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'EOF'
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

print("Pillow", PIL.__version__)
white = []
for dtype in (np.uint8, np.uint16):
    top = np.iinfo(dtype).max
    samples = np.full((4, 4), 0, dtype)  # 0 is white by the photometric interpretation
    samples[2:] = top
    tifffile.imwrite("scan.tif", samples, photometric="miniswhite")
    with Image.open("scan.tif") as image:
        assert image.tag_v2[262] == 0, "PhotometricInterpretation is WhiteIsZero"
        value = int(np.asarray(image)[0, 0])
        print(f"{np.dtype(dtype).name}, mode {image.mode}: white, expected {top}, is read as {value}")
        white.append(value)
sys.exit(white != [255, 0])
EOF
