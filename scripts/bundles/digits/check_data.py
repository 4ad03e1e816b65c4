"""Writes a small table that looks like digits, for `script check`: `check_data.py OUT`."""

import hashlib
import sys

if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        for record in range(64):
            stream = hashlib.shake_256(record.to_bytes(4, "big")).digest(64)
            file.write(",".join(str(byte % 17) for byte in stream) + f",{record % 10}\n")
