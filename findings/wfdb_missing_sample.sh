#!/bin/sh
# wfdb averages the code for "no sample" into the frame around it: one missing sample becomes a spike, not nan.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q wfdb==4.3.1
cat > check.py <<'PY'
import numpy as np
import wfdb

# One lead of four samples a frame, 1 mV throughout; sample 41 is missing, which format 16 writes as -32768.
samples = np.full(400, 1000, "<i2")
samples[41] = -32768
samples.tofile("r.dat")
with open("r.hea", "w") as file:
    file.write("r 1 100 100\nr.dat 16x4 1000/mV 16 0 0 0 0 II\n")

every = wfdb.rdrecord("r", smooth_frames=False).e_p_signal[0]
assert np.isnan(every[41]) and np.isnan(every).sum() == 1, "read sample by sample, the missing one is nan"
frame = wfdb.rdrecord("r").p_signal[10, 0]
print("wfdb", wfdb.__version__)
print("expected: frame 10 is nan, or 1.0 mV, the mean of the three samples that are there")
print(f"observed: frame 10 is {frame} mV = (3 x 1 mV - 32.768 mV) / 4")
raise SystemExit(0 if abs(frame - (3 - 32.768) / 4) < 0.01 else 1)
PY
env/bin/python check.py
