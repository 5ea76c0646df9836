#!/bin/sh
# scipy's resample_poly, often used to downsample recordings, lets a tone just above half of the new rate through as an
# alias nearly as strong as the tone, because its default filter attenuates by only 6 dB at that frequency.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import scipy
from scipy.signal import resample_poly

level = {}
for tone_hz in (132.8, 137.5, 156.2):
    tone = np.sin(2 * np.pi * tone_hz * np.arange(60 * 500) / 500)
    alias = resample_poly(tone, 1, 2)[1000:-1000]
    level[tone_hz] = 20 * np.log10(np.sqrt(2 * np.mean(alias**2)))
print(f"scipy {scipy.__version__}")
print("expected: from 500 to 250 Hz, a tone above 125 Hz is gone, -60 dB or less, as the Kaiser window promises")
print("observed:", ", ".join(f"{tone_hz} Hz at {decibels:.1f} dB" for tone_hz, decibels in level.items()))
sys.exit(0 if -16 < level[132.8] < -12 else 1)
PYTHON
