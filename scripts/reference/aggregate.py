#!/usr/bin/env python3
"""An independent reading of the round arithmetic: difference, codecs, aggregate, params root.

Written from the descriptions alone (module docs of `round::aggregate`, `tensor::update`, `tensor::root`), with the
standard library only. Prints the vectors that `protocols/vectors/aggregate.json` holds and that the node's tests
recompute:

    python3 scripts/reference/aggregate.py > protocols/vectors/aggregate.json

Inputs are derived from labels, so that the file stays small: value i of label L with amplitude 2^e is the f32 of
(first 4 bytes of SHA-256("L:i") as a little-endian signed integer) / 2^31 * 2^e.
"""

import hashlib
import json
import math
import struct

SHAPES = {"b": [3], "big": [5, 443], "scalar": [], "w": [2, 130]}
NAMES = sorted(SHAPES, key=str.encode)
BLOCK, QUANT = 1024, 256


def f32(value):
    """The nearest f32, ties to even, as a Python float."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def raw(values):
    return struct.pack(f"<{len(values)}f", *values)


def derive(label, count, exponent):
    out = []
    for i in range(count):
        word = struct.unpack("<i", hashlib.sha256(f"{label}:{i}".encode()).digest()[:4])[0]
        out.append(f32(math.ldexp(word, exponent - 31)))
    return out


def model(label, exponent):
    return {name: derive(f"{label}/{name}", math.prod(SHAPES[name]), exponent) for name in NAMES}


def blocks(values, size):
    return [values[i : i + size] for i in range(0, len(values), size)]


# The encoded update.


def bf16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def scale_bits(block):
    """The smallest bf16 s with 127*s >= max|x|, found by bisection over its non-negative bit patterns."""
    largest, low, high = max(abs(x) for x in block), 0, 0x7F7F
    while low < high:
        middle = (low + high) // 2
        if 127.0 * bf16(middle) >= largest:
            high = middle
        else:
            low = middle + 1
    return low


def quantise(block):
    bits = scale_bits(block)
    scale = bf16(bits)
    # Python's round() rounds half to even.
    return struct.pack("<H", bits) + struct.pack(f"<{len(block)}b", *(round(x / scale) if scale else 0 for x in block))


def encode(delta, codec):
    head = b"ATLASUPD" + struct.pack("<HBBI", 1, {"f32": 0, "i8b256": 1}[codec], 0, len(NAMES))
    for name in NAMES:
        shape = SHAPES[name]
        head += struct.pack("<H", len(name.encode())) + name.encode() + struct.pack("<B", len(shape))
        head += b"".join(struct.pack("<Q", dimension) for dimension in shape)
    head += bytes(-len(head) % 8)
    if codec == "f32":
        return head + b"".join(raw(delta[name]) for name in NAMES)
    return head + b"".join(quantise(block) for name in NAMES for block in blocks(delta[name], QUANT))


def dequantise(delta):
    out = {name: [] for name in NAMES}
    for name in NAMES:
        for block in blocks(delta[name], QUANT):
            packed = quantise(block)
            scale = bf16(struct.unpack("<H", packed[:2])[0])
            out[name] += [f32(q * scale) for q in struct.unpack(f"<{len(block)}b", packed[2:])]
    return out


# The aggregate.


def norm(delta):
    sums = []
    for name in NAMES:
        for block in blocks(delta[name], BLOCK):
            total = 0.0
            for x in block:
                total = total + x * x
            sums.append(total)
    while len(sums) > 1:
        sums = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in blocks(sums, 2)]
    return math.sqrt(sums[0])


def aggregate(theta, velocity, deltas, samples, eta_micros, mu_micros):
    eta, mu = eta_micros / 1e6, mu_micros / 1e6
    norms = [norm(delta) for delta in deltas]
    median = sorted(norms)[(len(norms) - 1) // 2]
    factors = [float(w) * (1.0 if n == 0.0 else min(1.0, median / n)) for w, n in zip(samples, norms)]
    total = 0.0
    for w in samples:
        total = total + float(w)
    new_theta, new_velocity = {}, {}
    for name in NAMES:
        new_theta[name], new_velocity[name] = [], []
        for i, x in enumerate(theta[name]):
            s = 0.0
            for a, delta in zip(factors, deltas):
                s = s + a * delta[name][i]
            mean = s / total
            v = f32(mu * velocity[name][i] + mean)
            new_velocity[name].append(v)
            new_theta[name].append(f32(x - eta * (mean + mu * v)))
    return new_theta, new_velocity


# The params root.


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def merkle(leaves):
    """RFC 6962, by its recursive definition."""
    if not leaves:
        return sha()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha(b"\x01", merkle(leaves[:split]), merkle(leaves[split:]))


def text(value):
    return struct.pack(">I", len(value.encode())) + value.encode()


def params_root(tensors):
    leaves = []
    for name in NAMES:
        shape = SHAPES[name]
        root = merkle([sha(b"\x00", chunk) for chunk in blocks(raw(tensors[name]), 1 << 20)])
        dimensions = struct.pack(">I", len(shape)) + b"".join(struct.pack(">Q", dimension) for dimension in shape)
        leaves.append(sha(b"\x00", text("atlas/tensor/v1"), text(name), text("F32"), dimensions, root))
    return merkle(leaves).hex()


# The vectors.


def vector(count, codec, with_momentum, eta_micros, mu_micros):
    case = f"{codec}/{count}"
    theta = model(f"{case}/theta", 0)
    velocity = model(f"{case}/velocity", -6) if with_momentum else {name: [0.0] * len(theta[name]) for name in NAMES}
    updates, deltas, samples = [], [], []
    for slot in range(count):
        # Later slots move further, so that clipping has something to do; the last of five does not move at all.
        step = model(f"{case}/step/{slot}", slot - 5)
        delta = {}
        for name in NAMES:
            trained = [f32(x - d) if slot != 4 else x for x, d in zip(theta[name], step[name])]
            delta[name] = [f32(x - y) for x, y in zip(theta[name], trained)]
        encoded = encode(delta, codec)
        samples.append(1000 + 37 * slot)
        updates.append({"slot": slot, "samples": samples[-1], "length": len(encoded), "sha256": sha(encoded).hex()})
        deltas.append(delta if codec == "f32" else dequantise(delta))
    new_theta, new_velocity = aggregate(theta, velocity, deltas, samples, eta_micros, mu_micros)
    return {
        "case": case,
        "codec": codec,
        "momentum": with_momentum,
        "learning_rate_micros": eta_micros,
        "momentum_micros": mu_micros,
        "base_root": params_root(theta),
        "updates": updates,
        "model_b": raw(new_theta["b"]).hex(),
        "momentum_b": raw(new_velocity["b"]).hex(),
        "model_root": params_root(new_theta),
        "momentum_root": params_root(new_velocity),
    }


def main():
    cases = [
        (count, codec, count != 1, 700_000, 900_000 if count == 3 else 500_000)
        for codec in ("f32", "i8b256")
        for count in range(1, 6)
    ]
    print(json.dumps({"shapes": SHAPES, "vectors": [vector(*case) for case in cases]}, indent=1))


if __name__ == "__main__":
    main()
