"""Writes what a ridge job begins with: `make.py model OUT`, or `make.py table RECORDS OUT`.

The table is of y = 1.5·a − 2·b + 0.5·c + 3 plus a little noise, d being of no use; from SHAKE-256, so that it is the
same everywhere.
"""

import hashlib
import sys

import atlas_script

FEATURES = 4


def table(records):
    for record in range(records):
        stream = hashlib.shake_256(b"ridge/table" + record.to_bytes(8, "big")).digest(4 * (FEATURES + 1))
        numbers = [int.from_bytes(stream[i : i + 4], "big") / 2**31 - 1 for i in range(0, len(stream), 4)]
        a, b, c, d, noise = numbers
        yield ",".join(f"{value:.6f}" for value in (a, b, c, d, 1.5 * a - 2 * b + 0.5 * c + 3 + 0.01 * noise))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "model":
        zeros = {"weight": ("F32", (FEATURES,), bytes(4 * FEATURES)), "bias": ("F32", (1,), bytes(4))}
        atlas_script.write_tensors(sys.argv[2], zeros)
    elif len(sys.argv) == 4 and sys.argv[1] == "table":
        with open(sys.argv[3], "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in table(int(sys.argv[2])))
    else:
        sys.exit(__doc__)
