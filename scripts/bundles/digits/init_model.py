"""Writes the initial model: `init_model.py SEED OUT [HIDDEN]`.

From SHA-256 and exact float operations alone, so that every machine and every version of Python writes the same bytes:
even a library's `normal_` differs between instruction sets. Weights are uniform in ±sqrt(6 / inputs) (He et al.,
arXiv 1502.01852), biases zero.
"""

import hashlib
import struct
import sys

import atlas_script

PIXELS, CLASSES = 64, 10


def uniform(seed, name, count, bound):
    """`count` float32 in ±bound as little-endian bytes; 24 bits of SHA-256 each."""
    values, counter = [], 0
    while len(values) < count:
        digest = hashlib.sha256(f"digits/init/{seed}/{name}/{counter}".encode()).digest()
        values += [int.from_bytes(digest[i : i + 3], "big") for i in range(0, 30, 3)]
        counter += 1
    return struct.pack(f"<{count}f", *((value / (1 << 23) - 1) * bound for value in values[:count]))


def tensors(seed, hidden):
    layers = {"hidden1": (PIXELS, hidden), "hidden2": (hidden, hidden), "output": (hidden, CLASSES)}
    named = {}
    for layer, (inputs, outputs) in layers.items():
        weights = uniform(seed, layer, inputs * outputs, (6 / inputs) ** 0.5)
        named[f"{layer}.weight"] = ("F32", (inputs, outputs), weights)
        named[f"{layer}.bias"] = ("F32", (outputs,), bytes(4 * outputs))
    return named


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    atlas_script.write_tensors(sys.argv[2], tensors(int(sys.argv[1]), int(sys.argv[3]) if sys.argv[3:] else 128))
