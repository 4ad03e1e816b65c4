"""Trains, measures and serves a classifier of handwritten digits.

Data: lines of 64 pixel values from 0 to 16 and a label from 0 to 9, separated by commas (scikit-learn's digits).
Parameters in job.json: `hidden`, `batch_size`, `learning_rate`, `weight_decay`.
"""

import hashlib
import json
import os

import numpy as np

import atlas_script
import model


def read_records(job, channel):
    """Images scaled to 0 to 1, and labels."""
    try:
        table = np.array([[int(field) for field in line.split(",")] for line in job.lines(channel)], np.int64)
    except ValueError as error:
        raise atlas_script.bad_data(f"a record is not 65 whole numbers: {error}") from None
    if table.ndim != 2 or table.shape[1] != model.PIXELS + 1:
        raise atlas_script.bad_data("every record must have 64 pixels and a label")
    images, labels = table[:, :-1], table[:, -1]
    if images.min() < 0 or images.max() > model.SCALE or labels.min() < 0 or labels.max() >= model.CLASSES:
        raise atlas_script.bad_data("a pixel is outside 0 to 16, or a label outside 0 to 9")
    return (images / model.SCALE).astype(np.float32), labels


def batch(seed, step, size, records):
    """Indices of a step's batch: SHAKE-256 of (seed, step), so that they depend on nothing else."""
    stream = hashlib.shake_256(b"digits/batch" + seed + step.to_bytes(8, "big")).digest(size * 8)
    return np.frombuffer(stream, ">u8") % np.uint64(records)


def train(job):
    images, labels = read_records(job, "train")
    hidden = job.whole("hidden", 128, 1, 4096)
    size = job.whole("batch_size", 32, 1, 65536)
    rate = job.number("learning_rate", 0.001, 1e-8, 1)
    decay = job.number("weight_decay", 0.0, 0, 1)
    start = job.resume_from or os.path.dirname(job.model_path)
    parameters = model.load(os.path.join(start, "model.safetensors"), model.shapes(hidden))
    adam = model.Adam(parameters, rate, decay)
    optim = os.path.join(start, "optim.safetensors")
    if os.path.exists(optim):
        adam.restore(model.load(optim, adam.expected()))

    def save(directory):
        model.save(os.path.join(directory, "model.safetensors"), parameters)
        model.save(os.path.join(directory, "optim.safetensors"), adam.tensors())

    for step in atlas_script.steps(job, save):
        chosen = batch(job.seed, step, size, len(labels))
        loss, gradients = model.loss_and_gradients(parameters, images[chosen], labels[chosen])
        adam.update(parameters, gradients)
        job.emit("progress", step=step + 1, of=job.stop, loss=loss, lr=rate)
    save(job.output)
    job.emit("done", steps=job.stop, samples=job.stop * size, outputs=["model.safetensors", "optim.safetensors"])


def evaluate(job):
    images, labels = read_records(job, "eval")
    scores, _ = model.forward(model.load(job.model_path), images)
    chances = model.probabilities(scores)[np.arange(len(labels)), labels]
    metrics = {
        "accuracy": float((scores.argmax(axis=1) == labels).mean()),
        "loss": float(-np.log(np.maximum(chances, 1e-12)).mean()),
        "records": len(labels),
    }
    with open(os.path.join(job.output, "metrics.json"), "w", encoding="utf-8") as file:
        json.dump(metrics, file)
    job.emit("done", steps=0, samples=len(labels), outputs=["metrics.json"])


def serve(job):
    parameters = model.load(job.model_path)
    # The first product of a shape loads kernels; nobody should wait for that.
    model.forward(parameters, np.zeros((1, model.PIXELS), np.float32))

    def answer(request):
        """`{"pixels": [64 numbers]}` or `{"pixels": [[64 numbers], …]}` to labels and their probabilities."""
        pixels = np.asarray(request["pixels"], np.float32)
        images = np.atleast_2d(pixels) / np.float32(model.SCALE)
        if images.ndim != 2 or images.shape[1] != model.PIXELS or not np.isfinite(images).all():
            raise atlas_script.bad_data("`pixels` must be 64 numbers, or a list of such")
        chances = model.probabilities(model.forward(parameters, images)[0])
        labels = [int(label) for label in chances.argmax(axis=1)]
        confidence = [float(row.max()) for row in chances]
        if pixels.ndim == 1:
            return {"label": labels[0], "confidence": confidence[0]}
        return {"labels": labels, "confidence": confidence}

    return answer


if __name__ == "__main__":
    atlas_script.main(train=train, verify=train, eval=evaluate, serve=serve)
