#!/bin/sh
# wfdb aligns skewed channels in frames, but marks the missing end in samples: most of the end is 0, not nan.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q wfdb==4.3.1
cat > check.py <<'PY'
import numpy as np
import wfdb

# Two leads of four samples a frame; the first is written five frames late, so its last 5 x 4 samples do not exist.
frames, width, skew = 100, 4, 5
lead = 1000 + np.arange(frames * width)
np.hstack([lead.reshape(frames, width)] * 2).astype("<i2").tofile("r.dat")
with open("r.hea", "w") as file:
    file.write(f"r 2 100 {frames}\nr.dat 16x{width}:{skew} 100/mV 16 0 0 0 0 I\nr.dat 16x{width} 100/mV 16 0 0 0 0 II\n")

end = wfdb.rdrecord("r", smooth_frames=False).e_p_signal[0][-skew * width :]
missing, zero = int(np.isnan(end).sum()), int((end == 0).sum())
print("wfdb", wfdb.__version__)
print(f"expected: the last {skew * width} samples of lead I are nan")
print(f"observed: {missing} are nan, {zero} are 0 mV")
raise SystemExit(0 if (missing, zero) == (skew, skew * (width - 1)) else 1)
PY
env/bin/python check.py
