"""Strict verification: protocols/encoding.md, "Signed objects"."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# Edwards25519 (RFC 8032, 5.1): -x² + y² = 1 + d·x²·y² over the integers modulo P; a group of ORDER times eight.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def point(data):
    """The point that 32 bytes name, or None."""
    y = int.from_bytes(data, "little") & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (P - x if x & 1 != data[31] >> 7 else x) % P, y % P


def add(a, b):
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, P - 2, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, P - 2, P)
    return x % P, y % P


def is_small(a):
    """Whether eight times the point is the neutral element."""
    for _ in range(3):
        a = add(a, a)
    return a == (0, 1)


def is_key(signer):
    return point(signer) is not None


def verifies(domain, body, signer, signature):
    key, r = point(signer), point(signature[:32])
    if r is None or is_small(key) or is_small(r) or int.from_bytes(signature[32:], "little") >= ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, domain.encode() + b"\x00" + body)
    except InvalidSignature:
        return False
    return True
