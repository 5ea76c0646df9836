#!/bin/sh
# An MP3 file read in blocks gives different samples from the same file read at once: soundfile seeks after each read, and
# the MPEG decoder then lacks the bits that a frame borrows from the frames before it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q soundfile==0.14.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/tone.mp3" <<'PYTHON'
import sys

import numpy as np
import soundfile

path = sys.argv[1]
tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(20 * 44_100) / 44_100)
soundfile.write(path, tone, 44_100, format="MP3")
whole, _ = soundfile.read(path, dtype="float32")
blocks = np.concatenate(list(soundfile.blocks(path, 44_100, dtype="float32")))
difference = np.abs(blocks - whole)
print(f"soundfile {soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}")
print("expected: blocks of one second, concatenated, are the samples of the file")
print(f"observed: {(difference > 2**-15).sum():,} of {len(whole):,} samples differ, by up to {difference.max():.2f} of 1")
sys.exit(0 if difference.max() > 0.1 else 1)
PYTHON
