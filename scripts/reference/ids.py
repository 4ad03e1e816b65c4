"""Names and their texts: protocols/encoding.md, "Identifiers"."""

import hashlib

BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hashed(domain, *parts):
    """SHA-256 of `domain ‖ 00 ‖ parts …`."""
    return sha(domain.encode(), b"\x00", *parts)


def u32(number):
    return number.to_bytes(4, "big")


def u64(number):
    return number.to_bytes(8, "big")


def base58(data):
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\x00"))) + text


def base32(data):
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    return "".join(BASE32[int(bits[at : at + 5], 2)] for at in range(0, len(bits), 5))


# CIDs.


def varint(data):
    """The number at the front, in its shortest form, and the rest."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if index and not byte or value >= 1 << 64:
                raise ValueError("not the shortest form")
            return value, data[index + 1 :]
    raise ValueError("cut")


def split_cid(data):
    """Version, codec, hash function, digest."""
    if data[:2] == b"\x12\x20":
        if len(data) != 34:
            raise ValueError("cut")
        return 0, 0x70, 0x12, data[2:]
    version, rest = varint(data)
    codec, rest = varint(rest)
    function, rest = varint(rest)
    length, rest = varint(rest)
    if version != 1 or length > 64 or length != len(rest):
        raise ValueError("no CID")
    return version, codec, function, rest


def is_cid(data):
    try:
        split_cid(data)
    except ValueError:
        return False
    return True


def cid_text(data):
    return base58(data) if split_cid(data)[0] == 0 else "b" + base32(data)


def cid_bytes(text):
    if not text.startswith("b"):
        number = 0
        for digit in text:
            number = number * 58 + BASE58.index(digit)
        return number.to_bytes(34, "big")
    bits = "".join(f"{BASE32.index(digit):05b}" for digit in text[1:])
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) // 8 * 8, 8))


def cid_of(codec, block):
    return bytes([1, codec, 0x12, 32]) + sha(block)


# Tasks, peers, accounts.


def task_text(data):
    return f"{data[:32].hex()}-{int.from_bytes(data[32:], 'big')}"


def task_bytes(text):
    job, slot = text.split("-")
    return bytes.fromhex(job) + u32(int(slot))


def peer_id(key):
    return base58(bytes.fromhex("002408011220") + key)


def polymod(values):
    total = 1
    for value in values:
        top = total >> 25
        total = (total & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            total ^= generator if top >> bit & 1 else 0
    return total


def address(key):
    """Bech32 (BIP 173), prefix `atlas`."""
    prefix = "atlas"
    bits = "".join(f"{byte:08b}" for byte in sha(key)[:20])
    words = [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]
    spread = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    total = polymod(spread + words + [0] * 6) ^ 1
    words += [total >> 5 * (5 - index) & 31 for index in range(6)]
    return prefix + "1" + "".join(BECH32[word] for word in words)
