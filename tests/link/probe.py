"""What a line does, told by sockets of the system and nothing of ours. Each mode is one end, run in a namespace of `scripts/link`.

    probe.py read ADDRESS SETTLE SECONDS     bits a second of one TCP stream, over SECONDS after SETTLE
    probe.py write ADDRESS SECONDS
    probe.py echo ADDRESS
    probe.py ping ADDRESS COUNT              round trips in ms: least and middle
    probe.py count ADDRESS COUNT             the numbers of the datagrams that did not come
    probe.py number ADDRESS COUNT MBIT
"""

import json
import socket
import statistics
import struct
import sys
import time

PORT = 5201
# socket(7); Python has no name for it.
SO_RCVBUFFORCE = 33
# More than all datagrams of a test.
RECEIVE_BYTES = 64 << 20
# Until the other end is there.
PATIENCE = 20
# A line is quiet when nothing came for so many seconds: longer than any round trip that is tried.
QUIET = 2
# Bytes of a numbered datagram: with 28 of headers, a fifth of a packet.
DATAGRAM = 272
LAST = 0xFFFFFFFF


def connected(address):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection((address, PORT), timeout=PATIENCE)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise


def read(address, settle, seconds):
    with socket.create_server((address, PORT)) as server:
        stream, _ = server.accept()
    settled = time.monotonic() + float(settle)
    while time.monotonic() < settled:
        stream.recv(65536)
    began, total = time.monotonic(), 0
    while (now := time.monotonic()) < began + float(seconds):
        total += len(stream.recv(65536))
    print(json.dumps({"bits_a_second": 8 * total / (now - began)}))


def write(address, seconds):
    stream, piece = connected(address), bytes(65536)
    deadline = time.monotonic() + float(seconds)
    try:
        while time.monotonic() < deadline:
            stream.sendall(piece)
    except (ConnectionResetError, BrokenPipeError):
        pass


def bound(address):
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # A reader that is late on a busy machine loses nothing; the namespace's root may ask for more than others.
        endpoint.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
    except OSError:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    endpoint.bind((address, PORT))
    return endpoint


def echo(address):
    endpoint = bound(address)
    while True:
        data, sender = endpoint.recvfrom(2048)
        endpoint.sendto(data, sender)


def ping(address, count):
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.connect((address, PORT))
    endpoint.settimeout(QUIET)
    trips = []
    deadline = time.monotonic() + PATIENCE
    while len(trips) < int(count) and time.monotonic() < deadline:
        began = time.monotonic()
        try:
            endpoint.send(struct.pack("d", began))
            while struct.unpack("d", endpoint.recv(64))[0] != began:
                pass
        except (ConnectionRefusedError, TimeoutError):
            continue
        trips.append(1e3 * (time.monotonic() - began))
    print(json.dumps({"least_ms": min(trips), "middle_ms": statistics.median(trips)}))


def count(address, total):
    endpoint = bound(address)
    endpoint.settimeout(PATIENCE)
    missing = set(range(int(total)))
    try:
        while (number := struct.unpack_from("!I", endpoint.recv(2048))[0]) != LAST:
            missing.discard(number)
            endpoint.settimeout(QUIET)
    except TimeoutError:
        pass
    print(json.dumps({"missing": sorted(missing)}))


def number(address, total, mbit):
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    began = time.monotonic()
    for index in range(int(total)):
        due = began + index * (DATAGRAM + 28) * 8 / (float(mbit) * 1e6)
        # Bursts of a millisecond: a sleep for each datagram would take longer than the datagram.
        if due > time.monotonic() + 0.001:
            time.sleep(due - time.monotonic())
        endpoint.sendto(struct.pack("!I", index).ljust(DATAGRAM, b"."), (address, PORT))
    # The end is said often enough to arrive.
    for _ in range(20):
        endpoint.sendto(struct.pack("!I", LAST), (address, PORT))


mode, *words = sys.argv[1:]
{"read": read, "write": write, "echo": echo, "ping": ping, "count": count, "number": number}[mode](*words)
