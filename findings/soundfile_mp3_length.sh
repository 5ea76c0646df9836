#!/bin/sh
# Of an MP3 file of variable bit rate without a Xing table (a cut or a stream), reading ends where the size of its first
# frame lets the decoder guess the end, without an error.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys

import numpy as np
import soundfile

buffer = io.BytesIO()
noise = 0.1 * np.random.default_rng(0).standard_normal(60 * 44_100)
soundfile.write(buffer, noise, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
data = buffer.getvalue()
assert b"Xing" in data[:64]
kbps = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
table = 144_000 * kbps[data[2] >> 4] // 44_100 + (data[2] >> 1 & 1)
samples, _ = soundfile.read(io.BytesIO(data[table:]))
print(f"soundfile {soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}")
print("expected: 60 s of sound, as from the file with its table")
print(f"observed: {len(samples) / 44_100:.1f} s, no error")
sys.exit(0 if len(samples) < 30 * 44_100 else 1)
PYTHON
