"""Ridge regression by gradient descent, in the standard library alone.

Data: lines of four features and a target, separated by commas. The model: `weight` (4) and `bias` (1), both F32, as joint
training needs it.
Parameters in job.json: `learning_rate`, `ridge`. A step uses the whole shard, so no batch is drawn and the seed is not
needed; there is no optimizer state.
"""

import json
import math
import os
import struct

import atlas_script

FEATURES = 4


def read_records(job, channel):
    """Rows of features, each with its target last."""
    rows = []
    for number, line in enumerate(job.lines(channel), 1):
        try:
            row = [float(field) for field in line.split(",")]
        except ValueError:
            row = []
        if len(row) != FEATURES + 1 or not all(map(math.isfinite, row)):
            raise atlas_script.bad_data(f"record {number} is not {FEATURES + 1} numbers")
        rows.append(row)
    if not rows:
        raise atlas_script.bad_data("there are no records")
    return rows


def load(path):
    """The weights, with the bias last."""
    tensors = atlas_script.read_tensors(path)
    described = {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}
    if described != {"weight": ("F32", (FEATURES,)), "bias": ("F32", (1,))}:
        raise atlas_script.bad_config(f"{path} is not a model of {FEATURES} weights and a bias in F32")
    return list(struct.unpack(f"<{FEATURES}f", tensors["weight"][2]) + struct.unpack("<f", tensors["bias"][2]))


def as_float32(values):
    """Rounds to what a file can hold, so that a run that continues from a checkpoint sees the same numbers."""
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


def save(path, weights):
    tensors = {
        "weight": ("F32", (FEATURES,), struct.pack(f"<{FEATURES}f", *weights[:-1])),
        "bias": ("F32", (1,), struct.pack("<f", weights[-1])),
    }
    atlas_script.write_tensors(path, tensors)


def predict(weights, features):
    return sum(w * x for w, x in zip(weights[:-1], features, strict=True)) + weights[-1]


def train(job):
    rows = read_records(job, "train")
    rate = job.number("learning_rate", 0.1, 1e-8, 10)
    ridge = job.number("ridge", 0.001, 0, 1000)
    weights = load(os.path.join(job.resume_from, "model.safetensors") if job.resume_from else job.model_path)
    for step in atlas_script.steps(job, lambda path: save(os.path.join(path, "model.safetensors"), weights)):
        # fsum is exact, so the order of the records does not change a bit.
        errors = [predict(weights, row[:-1]) - row[-1] for row in rows]
        loss = math.fsum(error * error for error in errors) / len(rows)
        slopes = [2 * math.fsum(e * row[i] for e, row in zip(errors, rows, strict=True)) / len(rows) for i in range(FEATURES)]
        slopes = [slope + 2 * ridge * weight for slope, weight in zip(slopes, weights, strict=False)]
        slopes.append(2 * math.fsum(errors) / len(rows))
        weights[:] = as_float32([weight - rate * slope for weight, slope in zip(weights, slopes, strict=True)])
        job.emit("progress", step=step + 1, of=job.stop, loss=loss, lr=rate)
    save(os.path.join(job.output, "model.safetensors"), weights)
    job.emit("done", steps=job.stop, samples=job.stop * len(rows), outputs=["model.safetensors"])


def evaluate(job):
    rows, weights = read_records(job, "eval"), load(job.model_path)
    loss = math.fsum((predict(weights, row[:-1]) - row[-1]) ** 2 for row in rows) / len(rows)
    with open(os.path.join(job.output, "metrics.json"), "w", encoding="utf-8") as file:
        json.dump({"loss": loss, "records": len(rows)}, file)
    job.emit("done", steps=0, samples=len(rows), outputs=["metrics.json"])


def serve(job):
    weights = load(job.model_path)

    def answer(request):
        """`{"features": [4 numbers]}` to `{"prediction": number}`."""
        features = [float(value) for value in request["features"]]
        if len(features) != FEATURES or not all(map(math.isfinite, features)):
            raise atlas_script.bad_data(f"`features` must be {FEATURES} numbers")
        return {"prediction": predict(weights, features)}

    return answer


if __name__ == "__main__":
    atlas_script.main(train=train, verify=train, eval=evaluate, serve=serve)
