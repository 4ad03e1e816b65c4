"""A multi-layer perceptron with hand-written backward passes, and Adam (Kingma and Ba, arXiv 1412.6980)."""

import math

import numpy as np

import atlas_script

PIXELS, CLASSES, SCALE = 64, 10, 16.0
LAYERS = ("hidden1", "hidden2", "output")


def sizes(hidden):
    """Inputs and outputs of each layer."""
    return dict(zip(LAYERS, ((PIXELS, hidden), (hidden, hidden), (hidden, CLASSES)), strict=True))


def shapes(hidden):
    """Name and shape of every parameter."""
    named = {}
    for layer, (inputs, outputs) in sizes(hidden).items():
        named[f"{layer}.weight"] = (inputs, outputs)
        named[f"{layer}.bias"] = (outputs,)
    return named


def load(path, expected=None):
    """Reads float32 arrays from a safetensors file; with `expected`, exactly those names and shapes."""
    tensors = atlas_script.read_tensors(path)
    if expected is not None and {name: shape for name, (_, shape, _) in tensors.items()} != expected:
        raise atlas_script.bad_config(f"{path} does not have the tensors of this model; is `config.hidden` right?")
    if any(dtype != "F32" for dtype, _, _ in tensors.values()):
        raise atlas_script.bad_data(f"{path}: all tensors must be F32")
    return {name: np.frombuffer(data, "<f4").reshape(shape).copy() for name, (_, shape, data) in tensors.items()}


def save(path, arrays):
    """Writes float32 arrays to a safetensors file."""
    raw = {name: ("F32", array.shape, array.astype("<f4").tobytes()) for name, array in arrays.items()}
    atlas_script.write_tensors(path, raw)


def forward(parameters, images):
    """Scores of each class, and what the backward pass needs."""
    first = np.maximum(images @ parameters["hidden1.weight"] + parameters["hidden1.bias"], 0)
    second = np.maximum(first @ parameters["hidden2.weight"] + parameters["hidden2.bias"], 0)
    return second @ parameters["output.weight"] + parameters["output.bias"], (images, first, second)


def probabilities(scores):
    """Softmax, row by row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def loss_and_gradients(parameters, images, labels):
    """Mean cross-entropy and its gradient."""
    scores, (images, first, second) = forward(parameters, images)
    chances = probabilities(scores)
    rows = np.arange(len(labels))
    loss = float(-np.log(np.maximum(chances[rows, labels], 1e-12)).mean())
    chances[rows, labels] -= 1
    at_output = chances / np.float32(len(labels))
    at_second = (at_output @ parameters["output.weight"].T) * (second > 0)
    at_first = (at_second @ parameters["hidden2.weight"].T) * (first > 0)
    gradients = {}
    flows = ((images, at_first), (first, at_second), (second, at_output))
    for layer, (incoming, error) in zip(LAYERS, flows, strict=True):
        gradients[f"{layer}.weight"] = incoming.T @ error
        gradients[f"{layer}.bias"] = error.sum(axis=0)
    return loss, gradients


class Adam:
    """Adam with decoupled weight decay. Its state is tensors alone: `step` counts over all rounds."""

    def __init__(self, parameters, rate, decay):
        self.rate, self.decay, self.step = rate, decay, 0
        self.mean = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.square = {name: np.zeros_like(array) for name, array in parameters.items()}

    def update(self, parameters, gradients):
        """One step, in place."""
        self.step += 1
        first, second = 0.9, 0.999
        rate = np.float32(self.rate * math.sqrt(1 - second**self.step) / (1 - first**self.step))
        keep = np.float32(1 - self.rate * self.decay)
        for name, gradient in gradients.items():
            mean, square = self.mean[name], self.square[name]
            mean += np.float32(1 - first) * (gradient - mean)
            square += np.float32(1 - second) * (gradient * gradient - square)
            parameters[name] *= keep
            parameters[name] -= rate * mean / (np.sqrt(square) + np.float32(1e-8))

    def tensors(self):
        """The state, as named arrays. float32 counts steps exactly up to 2^24."""
        state = {f"mean.{name}": array for name, array in self.mean.items()}
        state |= {f"square.{name}": array for name, array in self.square.items()}
        return state | {"step": np.array([self.step], np.float32)}

    def restore(self, tensors):
        """Takes back what `tensors` gave."""
        self.step = int(tensors["step"][0])
        for name in self.mean:
            self.mean[name], self.square[name] = tensors[f"mean.{name}"], tensors[f"square.{name}"]

    def expected(self):
        """Names and shapes of the state."""
        return {name: array.shape for name, array in self.tensors().items()}
