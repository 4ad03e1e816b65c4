"""Fits a plane through points by stochastic gradient descent with momentum, in the standard library alone.

Data: lines of numbers, the last of which is the value. Parameters in job.json: `learning_rate`, `momentum`, `batch_size`,
and `pace_ms`, how long a step lasts at least, so that a test finds time to break something inside a round.
"""

import array
import hashlib
import os
import time

import atlas_script


def floats(path, name):
    dtype, _, data = atlas_script.read_tensors(path)[name]
    if dtype != "F32":
        raise atlas_script.bad_data(f"`{name}` is {dtype}, not F32")
    return array.array("f", data)


def save(directory, weights, velocity):
    for file, values in (("model.safetensors", weights), ("optim.safetensors", velocity)):
        tensors = {"plane": ("F32", (len(values),), values.tobytes())}
        atlas_script.write_tensors(os.path.join(directory, file), tensors)


def predict(weights, point):
    """The last weight is the plane's height at the origin. What follows the coordinates is not looked at."""
    return sum(weight * x for weight, x in zip(weights[:-1], point)) + weights[-1]


def batch(seed, step, size, count):
    """Places of a step's points: SHAKE-256 of (seed, step), so that they depend on nothing else."""
    stream = hashlib.shake_256(b"plane/batch" + seed + step.to_bytes(8, "big")).digest(size * 8)
    return [int.from_bytes(stream[i : i + 8], "big") % count for i in range(0, size * 8, 8)]


def train(job):
    points = [[float(cell) for cell in line.split(",")] for line in job.lines("train")]
    rate = job.number("learning_rate", 0.05, 0, 1)
    momentum = job.number("momentum", 0.5, 0, 1)
    size = job.whole("batch_size", 8, 1, 1024)
    pace = job.number("pace_ms", 0, 0, 60_000) / 1000
    start = job.resume_from or os.path.dirname(job.model_path)
    weights = floats(os.path.join(start, "model.safetensors"), "plane")
    optim = os.path.join(start, "optim.safetensors")
    velocity = floats(optim, "plane") if os.path.exists(optim) else array.array("f", bytes(4 * len(weights)))
    for step in atlas_script.steps(job, lambda directory: save(directory, weights, velocity)):
        chosen = [points[place] for place in batch(job.seed, step, size, len(points))]
        errors = [predict(weights, point) - point[-1] for point in chosen]
        for index in range(len(weights)):
            slope = [point[index] for point in chosen] if index + 1 < len(weights) else [1.0] * size
            gradient = sum(error * x for error, x in zip(errors, slope)) / size
            velocity[index] = momentum * velocity[index] + gradient
            weights[index] -= rate * velocity[index]
        job.emit("progress", step=step + 1, of=job.stop, loss=sum(error * error for error in errors) / size, lr=rate)
        time.sleep(pace)
    save(job.output, weights, velocity)
    job.emit("done", steps=job.stop, samples=job.stop * size, outputs=["model.safetensors", "optim.safetensors"])


def serve(job):
    weights = floats(job.model_path, "plane")

    def answer(request):
        point = [float(x) for x in request["point"]]
        if len(point) + 1 != len(weights):
            raise atlas_script.bad_data(f"`point` must have {len(weights) - 1} numbers")
        return {"value": predict(weights, point)}

    return answer


if __name__ == "__main__":
    atlas_script.main(train=train, verify=train, serve=serve)
