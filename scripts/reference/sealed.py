"""Sealed data sets and their keys: content.md, "Sealed data sets", and task.md, "The key of sealed data"."""

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ids import hashed, u32
from schema import Refused

MAGIC = b"atlas/sealed/v1\x00"
SEGMENT = 65_536
TAG = 16
PREFIX = 19
HEADER = len(MAGIC) + 32 + PREFIX


def commitment(key):
    """Names a key of 32 bytes; 32 bytes."""
    return hashed("atlas/data-key/v1", key)


# XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03).


def quarter_round(state, a, b, c, d):
    for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[x] = (state[x] + state[y]) & 0xFFFFFFFF
        mixed = state[z] ^ state[x]
        state[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF


def hchacha20(key, nonce):
    """A key of 32 bytes for the first 16 bytes of a nonce."""
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))
    for _ in range(10):
        for column in range(4):
            quarter_round(state, column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter_round(state, diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def cipher(key, nonce):
    """The cipher and the nonce that stand for XChaCha20-Poly1305 with a nonce of 24 bytes."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


# Files.


def seal(key, prefix, content):
    """The sealed form of a file."""
    header = MAGIC + commitment(key) + prefix
    starts = range(0, max(len(content), 1), SEGMENT)
    sealed = [header]
    for number, start in enumerate(starts):
        last = number == len(starts) - 1
        aead, nonce = cipher(key, prefix + u32(number) + bytes([last]))
        sealed.append(aead.encrypt(nonce, content[start : start + SEGMENT], header))
    return b"".join(sealed)


def unseal(key, sealed):
    """The file in a sealed form; refuses what was not sealed with the key."""
    header, rest = sealed[:HEADER], sealed[HEADER:]
    if len(header) < HEADER or not header.startswith(MAGIC):
        raise Refused("no sealed file")
    if header[len(MAGIC) : -PREFIX] != commitment(key):
        raise Refused("another key")
    starts = range(0, max(len(rest), 1), SEGMENT + TAG)
    content = []
    for number, start in enumerate(starts):
        last = number == len(starts) - 1
        aead, nonce = cipher(key, header[-PREFIX:] + u32(number) + bytes([last]))
        try:
            content.append(aead.decrypt(nonce, rest[start : start + SEGMENT + TAG], header))
        except InvalidTag:
            raise Refused(f"segment {number}") from None
        if number > 0 and not content[-1]:
            raise Refused(f"segment {number}")
    return b"".join(content)


# HPKE (RFC 9180): base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.

KEM = b"KEM" + (0x20).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x20, 0x01, 0x03))
P = 2**255 - 19


def extract(suite, salt, label, secret):
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(suite, secret, label, info, length):
    info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    block, out, number = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(secret, block + info + bytes([number]), "sha256")
        out, number = out + block, number + 1
    return out[:length]


def schedule(shared, info):
    """The key and the first nonce of a context."""
    context = b"\x00" + extract(SUITE, b"", b"psk_id_hash", b"") + extract(SUITE, b"", b"info_hash", info)
    secret = extract(SUITE, shared, b"secret", b"")
    return expand(SUITE, secret, b"key", context, 32), expand(SUITE, secret, b"base_nonce", context, 12)


def shared_secret(point, encapsulated, recipient):
    secret = extract(KEM, b"", b"eae_prk", point)
    return expand(KEM, secret, b"shared_secret", encapsulated + recipient, 32)


def montgomery(ed25519):
    """The point of Curve25519 (32 bytes) of an Ed25519 public key: u = (1 + y) / (1 - y)."""
    y = int.from_bytes(ed25519, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, P - 2, P) % P).to_bytes(32, "little")


def purpose(task, generation):
    """What a key is sealed for; `task` are the 36 bytes of a task id."""
    return b"atlas/data-key/v1\x00" + task + u32(generation)


def seal_key(ed25519, info, key, ephemeral):
    """A data key for the node with this public key. `ephemeral`, 32 bytes, is drawn by chance."""
    private, recipient = X25519PrivateKey.from_private_bytes(ephemeral), montgomery(ed25519)
    encapsulated = private.public_key().public_bytes_raw()
    shared = shared_secret(private.exchange(X25519PublicKey.from_public_bytes(recipient)), encapsulated, recipient)
    aead_key, nonce = schedule(shared, info)
    return encapsulated + ChaCha20Poly1305(aead_key).encrypt(nonce, key, b"")


def open_key(secret, info, sealed):
    """The data key that was sealed for the node with this Ed25519 secret (32 bytes)."""
    private = X25519PrivateKey.from_private_bytes(hashlib.sha512(secret).digest()[:32])
    recipient, encapsulated = private.public_key().public_bytes_raw(), sealed[:32]
    shared = shared_secret(private.exchange(X25519PublicKey.from_public_bytes(encapsulated)), encapsulated, recipient)
    aead_key, nonce = schedule(shared, info)
    try:
        return ChaCha20Poly1305(aead_key).decrypt(nonce, sealed[32:], b"")
    except InvalidTag:
        raise Refused("the key is not for this node and lease") from None
