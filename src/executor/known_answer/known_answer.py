"""Twenty steps of training with fixed inputs, to learn which bits this host's arithmetic gives.

The model is one matrix `w` of 32 × 32 numbers (F32). Each step draws a batch of 64 inputs from a counter, computes
sigmoid(x · w) and moves w along the gradient of the squared error to a fixed target. With numpy the work goes through its
matrix product and its exponential, which are where machines differ; without numpy it is plain Python.
"""

import json
import math
import os
import struct

SIDE, BATCH, STEPS, RATE = 32, 64, 20, 0.5


def draw(step, count):
    """`count` numbers in [-1, 1) that depend on the step alone: Knuth's linear congruential generator (MMIX)."""
    state, numbers = step * 2654435761 + 1, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        numbers.append((state >> 40) / (1 << 23) - 1.0)
    return numbers


def with_numpy(numpy):
    """The trained matrix as SIDE × SIDE numbers, row by row."""
    w = numpy.array(draw(0, SIDE * SIDE), dtype=numpy.float32).reshape(SIDE, SIDE)
    for step in range(1, STEPS + 1):
        x = numpy.array(draw(step, BATCH * SIDE), dtype=numpy.float32).reshape(BATCH, SIDE)
        y = 1 / (1 + numpy.exp(-(x @ w)))
        target = (x + 1) / 2
        w -= numpy.float32(RATE) / BATCH * (x.T @ ((y - target) * y * (1 - y)))
    return w.ravel().tolist()


def without_numpy():
    """The same in plain Python: other bits, and another class of hosts."""
    w = draw(0, SIDE * SIDE)
    for step in range(1, STEPS + 1):
        numbers = draw(step, BATCH * SIDE)
        slope = [0.0] * (SIDE * SIDE)
        for row in range(BATCH):
            x = numbers[row * SIDE : (row + 1) * SIDE]
            for column in range(SIDE):
                y = 1 / (1 + math.exp(-sum(x[i] * w[i * SIDE + column] for i in range(SIDE))))
                error = (y - (x[column] + 1) / 2) * y * (1 - y)
                for i in range(SIDE):
                    slope[i * SIDE + column] += x[i] * error
        w = [weight - RATE / BATCH * part for weight, part in zip(w, slope)]
    return w


def main():
    try:
        import numpy
    except ImportError:
        w = without_numpy()
    else:
        w = with_numpy(numpy)
    size = SIDE * SIDE * 4
    header = json.dumps({"w": {"dtype": "F32", "shape": [SIDE, SIDE], "data_offsets": [0, size]}}).encode()
    with open(os.path.join(os.environ["ATLAS_OUTPUT_DIR"], "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + struct.pack(f"<{SIDE * SIDE}f", *w))
    with open(os.environ["ATLAS_EVENTS_FILE"], "a", encoding="utf-8") as events:
        events.write(json.dumps({"event": "done", "steps": STEPS, "samples": STEPS * BATCH}) + "\n")


main()
