"""The script's side of the contract `atlas-script/1`, in the standard library alone.

A bundle is self-contained, so each carries its own copy of this file; a test keeps the copies equal.

    import atlas_script

    def train(job): ...
    def serve(job): return answer          # a function from one request to one result
    atlas_script.main(train=train, serve=serve)

`main` runs the function of `ATLAS_MODE`, turns exceptions into exit codes, and in a session waits for the next round.
Importing it imports no numpy: tensors are bytes with a shape (`read_tensors`, `write_tensors`).
"""

import json
import math
import os
import signal
import socket
import struct
import sys
import traceback

BAD_CONFIG, BAD_DATA, MISSING_RESOURCE, INTERNAL, PREEMPTED = 64, 65, 69, 70, 75

MAX_REQUEST = 1 << 20  # bytes of one request to a server
MAX_MESSAGE = 1 << 20  # bytes of the message that begins a session's next round
ITEM_SIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class Failure(Exception):
    """Ends the script with an exit code of the contract, and says why in words."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Preempted(Exception):
    """SIGTERM came and the checkpoint is written."""


def bad_config(message):
    return Failure(BAD_CONFIG, message)


def bad_data(message):
    return Failure(BAD_DATA, message)


class Job:
    """One run, read from the environment."""

    def __init__(self, environment=os.environ):
        self.environment = dict(environment)
        self.mode = self.text("ATLAS_MODE", "train")
        self.model_path = os.path.join(self.text("ATLAS_MODEL_DIR", "in"), "model.safetensors")
        self.optim_path = os.path.join(self.text("ATLAS_MODEL_DIR", "in"), "optim.safetensors")
        self.output = self.text("ATLAS_OUTPUT_DIR", "out")
        self.checkpoints = self.text("ATLAS_CHECKPOINT_DIR", "ckpt")
        self.events = self.text("ATLAS_EVENTS_FILE", "events.jsonl")
        self.seed = bytes.fromhex(self.text("ATLAS_SEED", ""))
        self.start = self.integer("ATLAS_START_STEP", 0)
        self.stop = self.integer("ATLAS_STOP_STEP", 0)
        self.checkpoint_every = self.integer("ATLAS_CHECKPOINT_EVERY", 0)
        self.resume_from = self.environment.get("ATLAS_RESUME_FROM")
        self.session = self.text("ATLAS_SESSION", "0") == "1"
        self.socket = self.environment.get("ATLAS_SOCKET")
        self.config = self._config()

    def text(self, name, default):
        return self.environment.get(name, default)

    def integer(self, name, default):
        try:
            value = int(self.text(name, default))
        except ValueError:
            raise bad_config(f"{name} is not a whole number") from None
        if value < 0:
            raise bad_config(f"{name} is negative")
        return value

    def channel(self, name):
        """The directory of a data channel."""
        path = self.environment.get(f"ATLAS_CHANNEL_{name.upper()}")
        if path is None or not os.path.isdir(path):
            raise bad_data(f"there is no data channel `{name}`")
        return path

    def lines(self, name):
        """All lines of the files of a data channel, file by file in the order of their names."""
        directory = self.channel(name)
        for file in sorted(os.listdir(directory)):
            with open(os.path.join(directory, file), encoding="utf-8") as lines:
                for line in lines:
                    if line.strip():
                        yield line.strip()

    def number(self, name, default, low, high):
        """A number of the job's configuration, within bounds."""
        value = self.config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise bad_config(f"`config.{name}` is not a number")
        if not low <= value <= high:
            raise bad_config(f"`config.{name}` is {value}, outside {low} to {high}")
        return value

    def whole(self, name, default, low, high):
        """A whole number of the job's configuration, within bounds."""
        value = self.number(name, default, low, high)
        if value != int(value):
            raise bad_config(f"`config.{name}` is not a whole number")
        return int(value)

    def _config(self):
        try:
            with open(self.text("ATLAS_JOB_FILE", "job.json"), encoding="utf-8") as file:
                config = json.load(file)
        except (OSError, ValueError) as error:
            raise bad_config(f"job.json can't be read: {error}") from None
        if not isinstance(config, dict):
            raise bad_config("job.json is not an object")
        return config

    def emit(self, event, **fields):
        """Appends one event. A number that JSON can't hold becomes null."""
        line = {"event": event} | {key: _plain(value) for key, value in fields.items()}
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        with open(self.events, "ab", buffering=0) as file:
            file.write(data)

    def fail(self, code, message, trace=""):
        """Says why the run failed, in `out/failure.json` and as an event."""
        failure = {"code": code, "msg": message, "trace": trace[-16384:]}
        try:
            with open(os.path.join(self.output, "failure.json"), "w", encoding="utf-8") as file:
                json.dump(failure, file)
            self.emit("error", code=code, msg=message[:2000], retryable=code not in ("64", "65"))
        except OSError as error:
            print(f"the failure could not be written: {error}", file=sys.stderr)


def _plain(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Signals:
    """SIGUSR1 and SIGTERM ask; the training loop answers between two steps."""

    def __init__(self):
        self.checkpoint = False
        self.stop = False
        signal.signal(signal.SIGUSR1, self._on_checkpoint)
        signal.signal(signal.SIGTERM, self._on_stop)

    def _on_checkpoint(self, *_):
        self.checkpoint = True

    def _on_stop(self, *_):
        self.stop = True
        # Between two rounds there is nothing to save and nobody to notice the flag.
        if self.idle:
            os._exit(PREEMPTED)

    idle = False


SIGNALS = None


def steps(job, save):
    """The steps that are still to be done; between them it writes the checkpoints that are due or asked for.

    `save(path)` writes `model.safetensors` and, if there is one, `optim.safetensors` into the directory `path`.
    """
    for step in range(job.start, job.stop):
        yield step
        done = step + 1
        due = job.checkpoint_every and done % job.checkpoint_every == 0 and done < job.stop
        if due or SIGNALS.checkpoint or SIGNALS.stop:
            SIGNALS.checkpoint = False
            write_checkpoint(job, done, save)
        if SIGNALS.stop:
            raise Preempted


def write_checkpoint(job, step, save):
    """Writes a checkpoint aside, syncs it, renames it, and only then says so."""
    temporary = os.path.join(job.checkpoints, f".tmp-{step}")
    final = os.path.join(job.checkpoints, f"step-{step:08d}")
    os.makedirs(temporary, exist_ok=True)
    save(temporary)
    with open(os.path.join(temporary, "state.json"), "w", encoding="utf-8") as file:
        json.dump({"step": step}, file)
    for name in os.listdir(temporary):
        _sync(os.path.join(temporary, name))
    _sync(temporary)
    os.rename(temporary, final)
    _sync(job.checkpoints)
    job.emit("checkpoint", step=step, dir=final)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- tensors -------------------------------------------------------------------------------------------------------


def read_tensors(path):
    """Reads a safetensors file: {name: (dtype, shape, bytes)}. Every length is checked before it is used."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = struct.unpack("<Q", _exactly(file, 8, path))[0]
        if length > min(size - 8, 1 << 20):
            raise bad_data(f"{path}: the header is longer than the file or than 1 MiB")
        try:
            header = json.loads(_exactly(file, length, path))
        except ValueError:
            raise bad_data(f"{path}: the header is not JSON") from None
        body = file.read()
    if not isinstance(header, dict):
        raise bad_data(f"{path}: the header is not an object")
    return {name: _tensor(path, name, entry, body) for name, entry in header.items() if name != "__metadata__"}


def _exactly(file, length, path):
    data = file.read(length)
    if len(data) != length:
        raise bad_data(f"{path}: the file ends too early")
    return data


def _tensor(path, name, entry, body):
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        expected = math.prod(shape) * ITEM_SIZE[dtype]
        sound = 0 <= begin <= end <= len(body) and end - begin == expected
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise bad_data(f"{path}: the tensor `{name}` is not described soundly")
    return dtype, shape, body[begin:end]


def write_tensors(path, tensors):
    """Writes {name: (dtype, shape, bytes)} with names sorted and the header padded to 8: equal tensors, equal bytes."""
    header, offset = {}, 0
    for name in sorted(tensors):
        dtype, shape, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in sorted(tensors):
            file.write(tensors[name][2])


# --- running -------------------------------------------------------------------------------------------------------


def main(**functions):
    """Runs the function of the mode, again and again in a session, and never returns."""
    global SIGNALS
    SIGNALS = Signals()
    while True:
        code, job = _run_once(functions)
        if code != 0 or job is None or not job.session:
            sys.exit(code)
        _wait_for_next_round(job)


def _run_once(functions):
    job = None
    try:
        job = Job()
        job.emit("started", pid=os.getpid(), framework=job.text("ATLAS_FRAMEWORK", "python"), threads=1)
        function = functions.get(job.mode)
        if function is None:
            raise bad_config(f"this bundle has no mode `{job.mode}`")
        if job.mode == "serve":
            _serve(job, function(job))
        else:
            function(job)
        return 0, job
    except Preempted:
        return PREEMPTED, job
    except Failure as failure:
        return _failed(job, failure.code, str(failure.code), str(failure))
    except MemoryError:
        return _failed(job, INTERNAL, "out_of_memory", "out of memory")
    except Exception as error:  # whatever it was, the node is told
        return _failed(job, INTERNAL, str(INTERNAL), f"{type(error).__name__}: {error}")


def _failed(job, exit_code, code, message):
    trace = traceback.format_exc()
    print(trace, file=sys.stderr)
    if job is not None:
        job.fail(code, message, trace)
    return exit_code, job


def _wait_for_next_round(job):
    """Listens on the session's socket, takes the environment of the next round, and begins anew."""
    SIGNALS.idle = True
    if SIGNALS.stop:
        sys.exit(PREEMPTED)
    with socket.socket(socket.AF_UNIX) as listener:
        if os.path.exists(job.socket):
            os.unlink(job.socket)
        listener.bind(job.socket)
        listener.listen(1)
        connection, _ = listener.accept()
    os.unlink(job.socket)
    with connection, connection.makefile("rb") as stream:
        message = json.loads(stream.readline(MAX_MESSAGE))
        for name in [name for name in os.environ if name.startswith(("ATLAS_", "SM_"))]:
            del os.environ[name]
        os.environ.update(message["env"])
        os.chdir(message["work_dir"])
        SIGNALS.idle = False
        connection.sendall(b'{"ok": true}\n')


# --- serving -------------------------------------------------------------------------------------------------------


def _serve(job, answer):
    """Serves the Open Inference Protocol's two paths on the Unix socket until the process is told to stop."""
    # Here and not above: their import takes as long as the rest of a script's start, and only a server needs them.
    from http.server import BaseHTTPRequestHandler
    from socketserver import ThreadingMixIn, UnixStreamServer

    class Server(ThreadingMixIn, UnixStreamServer):
        daemon_threads = True
        request_queue_size = 64

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave in one write

        def do_GET(self):
            if self.path == "/v2/health/ready":
                return self.reply(200, {"ready": True})
            return self.reply(404, {"error": f"there is no {self.path}"})

        def do_POST(self):
            length = int(self.headers.get("Content-Length", 0))
            if length > MAX_REQUEST:
                self.close_connection = True
                return self.reply(413, {"error": f"a request is at most {MAX_REQUEST} bytes"})
            body = self.rfile.read(length)
            if not (self.path.startswith("/v2/models/") and self.path.endswith("/infer")):
                return self.reply(404, {"error": f"there is no {self.path}"})
            try:
                return self.reply(200, answer(json.loads(body)))
            except Failure as failure:
                return self.reply(400, {"error": str(failure)})
            except (ValueError, KeyError, TypeError) as error:
                return self.reply(400, {"error": f"{type(error).__name__}: {error}"})

        def reply(self, status, value):
            data = json.dumps(value).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

        def log_message(self, *_):
            pass

        def address_string(self):
            return "node"

    if os.path.exists(job.socket):
        os.unlink(job.socket)
    SIGNALS.idle = True
    with Server(job.socket, Handler) as server:
        server.serve_forever()
