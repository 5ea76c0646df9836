#!/bin/sh
# tifffile marks the fourth band of an RGB image as alpha, although its documentation gives "unspecified" as the default:
# near infrared beside red, green and blue becomes transparency for programs that read the file by its tags.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tifffile==2026.3.3 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python - <<'EOF'
import sys

import numpy as np
import tifffile
from PIL import Image

print("tifffile", tifffile.__version__)
documented = "no transparency information (default)" in " ".join(tifffile.TiffWriter.write.__doc__.split())
print("documentation: extrasamples UNSPECIFIED is the default:", documented)
red_green_blue_infrared = np.full((8, 8, 4), (10, 20, 30, 0), np.uint8)  # no infrared light
tifffile.imwrite("scene.tif", red_green_blue_infrared, photometric="rgb")
with tifffile.TiffFile("scene.tif") as file:
    written = [int(kind) for kind in file.pages[0].extrasamples]
print("ExtraSamples, expected [0] (unspecified), is", written)
with Image.open("scene.tif") as image:
    white = Image.new("RGBA", image.size, "white")
    print("Pillow opens it as", image.mode, "and composes it on white as", Image.alpha_composite(white, image).getpixel((0, 0)))
sys.exit(not documented or written != [2])
EOF
