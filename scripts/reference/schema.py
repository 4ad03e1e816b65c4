"""Reads CBOR by `protocols/schema.cddl`: as much of CDDL (RFC 8610) as stands there.

A type is a list whose first entry says what it is. Reading gives two things: what was read in the notation of the vectors
(protocols/encoding.md, "Vectors"), and what a writer would have written for it.
"""

import io
import re
import struct

import cbor2

import ids

MAX_DEPTH = 32
#: Maps to which nothing may be added (encoding.md, README.md "Versions").
CLOSED = {"resources", "outer-step", "parameters", "economy"}
#: Entries that a writer leaves out where they have this value.
LEFT_OUT = {
    "attempt": 0,
    "data_key": None,
    "economy": None,
    "max_objects": 0,
    "storage_offered": 0,
    "storage_used": 0,
    "storage_epoch": 0,
    "objects": [],
    "gone": [],
}
#: The most that fits, of integers without `.size`.
PRELUDE = {"uint": (0, 2**64 - 1), "int": (-(2**63), 2**63 - 1)}


class Refused(Exception):
    """Bytes that are not what they should be; the text is the word of the page."""


def load(data):
    """The one item that `data` is."""
    stream = io.BytesIO(data)
    try:
        item = cbor2.load(stream, max_depth=MAX_DEPTH, allow_duplicate_keys=False)
    except Exception as error:
        raise Refused("too_deep" if "nesting depth" in str(error) else "malformed") from error
    if stream.read(1):
        raise Refused("malformed")
    return item


def head(major, value):
    if value < 24:
        return bytes([major << 5 | value])
    for info, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * width:
            return bytes([major << 5 | info]) + value.to_bytes(width, "big")
    raise ValueError(value)


def dump(item):
    """The encoding that a writer writes; entries of maps stand in the order in which they are."""
    if item is None or item is True or item is False:
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[item]
    if isinstance(item, int):
        return head(0, item) if item >= 0 else head(1, -1 - item)
    if isinstance(item, float):
        for code, form in ((0xF9, ">e"), (0xFA, ">f")):
            try:
                if struct.unpack(form, struct.pack(form, item))[0] == item:
                    return bytes([code]) + struct.pack(form, item)
            except OverflowError:
                pass
        return b"\xfb" + struct.pack(">d", item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        return head(3, len(item.encode())) + item.encode()
    if isinstance(item, list):
        return head(4, len(item)) + b"".join(map(dump, item))
    return head(5, len(item)) + b"".join(dump(key) + dump(value) for key, value in item.items())


TOKEN = re.compile(
    r"""\s*(?:;[^\n]*)?(?:(?P<text>"[^"]*")|(?P<number>\d+)|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)"""
    r"""|(?P<mark>=>|\.\.|\.[a-z]+|[={}\[\]()<>,:?*/]))""",
)


def tokens(source):
    source = re.sub(r";[^\n]*", "", source)
    position, found = 0, []
    while source[position:].strip():
        match = TOKEN.match(source, position)
        if not match:
            raise ValueError(f"not CDDL: {source[position:position + 40]!r}")
        found.append(match[0].strip())
        position = match.end()
    return found


class Schema:
    """The rules of a file."""

    def __init__(self, source):
        self.tokens = tokens(source)
        self.place = 0
        #: Name to (parameter or None, type).
        self.rules = {}
        while self.place < len(self.tokens):
            name = self.take()
            parameter = None
            if self.peek() == "<":
                self.take("<")
                parameter = self.take()
                self.take(">")
            self.take("=")
            self.rules[name] = (parameter, self.type())

    # Parsing.

    def peek(self, ahead=0):
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def take(self, wanted=None):
        token = self.peek()
        if wanted is not None and token != wanted:
            raise ValueError(f"`{wanted}` expected, not `{token}`")
        self.place += 1
        return token

    def type(self):
        choices = [self.controlled()]
        while self.peek() == "/":
            self.take()
            choices.append(self.controlled())
        return choices[0] if len(choices) == 1 else ["choice", choices]

    def controlled(self):
        base = self.primary()
        if self.peek() == "..":
            self.take()
            return ["range", base[1], self.primary()[1]]
        if self.peek() == ".size":
            self.take()
            if self.peek() == "(":
                self.take("(")
                sizes = self.controlled()
                self.take(")")
                return ["size", base, sizes[1], sizes[2]]
            size = int(self.take())
            return ["size", base, size, size]
        if self.peek() == ".cbor":
            self.take()
            return ["cbor", self.primary()]
        return base

    def primary(self):
        token = self.take()
        if token == "{":
            return ["map", self.entries("}")]
        if token == "[":
            return ["array", self.items("]")]
        if token.startswith('"'):
            return ["text", token[1:-1]]
        if token.isdigit():
            return ["number", int(token)]
        if self.peek() == "<":
            self.take("<")
            argument = self.type()
            self.take(">")
            return ["generic", token, argument]
        return ["name", token]

    def entries(self, end):
        found = []
        while self.peek() != end:
            occurrence = self.take() if self.peek() in ("?", "*") else "1"
            if occurrence == "*":
                key = self.type()
                self.take("=>")
            else:
                key = self.take()
                self.take(":")
            found.append((occurrence, key, self.type()))
            if self.peek() == ",":
                self.take()
        self.take(end)
        return found

    def items(self, end):
        found = []
        while self.peek() != end:
            least, most = 1, 1
            if self.peek() == "*":
                self.take()
                least, most = 0, None
            elif self.peek(1) == "*":
                least = int(self.take())
                self.take("*")
                most = int(self.take())
            found.append((least, most, self.type()))
            if self.peek() == ",":
                self.take()
        self.take(end)
        return found

    # Reading.

    def read(self, name, data):
        """The notation of the item in `data`, and what a writer writes for it."""
        notation, item = self.item(["name", name], load(data))
        return notation, dump(item)

    def object_of(self, name):
        """The rule of the object in the rule of a signed one."""
        _, rule = self.rules[name]
        return rule[2][1] if rule[0] == "generic" and rule[1] == "signed" else None

    def item(self, form, item):
        return getattr(self, "read_" + form[0])(form, item)

    def read_name(self, form, item):
        name = form[1]
        if name in PRELUDE:
            return integer(item, *PRELUDE[name])
        if name == "bstr":
            return check(isinstance(item, bytes), lambda: item.hex()), item
        if name == "tstr":
            return check(isinstance(item, str), lambda: item), item
        if name == "bool":
            return check(isinstance(item, bool), lambda: item), item
        if name == "null":
            return check(item is None, lambda: None), None
        if name == "float":
            return check(isinstance(item, float), lambda: item), item
        _, rule = self.rules[name]
        if name in CLOSED:
            return self.read_map(rule, item, closed=True)
        notation, item = self.item(rule, item)
        if name == "cid":
            notation = check(ids.is_cid(item), lambda: ids.cid_text(item))
        if name == "task-id":
            notation = ids.task_text(item)
        return notation, item

    def read_generic(self, form, item):
        """A signed object inside another: its three fields, the body unopened."""
        if form[1] != "signed":
            raise ValueError(form[1])
        _, rule = self.rules["signed"]
        return self.read_map(rule, item)

    def read_cbor(self, _, item):
        return check(isinstance(item, bytes), lambda: item.hex()), item

    def read_size(self, form, item):
        _, base, least, most = form
        if base == ["name", "uint"]:
            return integer(item, 0, 256**most - 1)
        if not isinstance(item, bytes) or not least <= len(item) <= most:
            raise Refused("malformed")
        return item.hex(), item

    def read_range(self, form, item):
        return integer(item, form[1], form[2])

    def read_text(self, form, item):
        return check(item == form[1], lambda: item), item

    def read_choice(self, form, item):
        for choice in form[1]:
            try:
                return self.item(choice, item)
            except Refused:
                continue
        raise Refused("malformed")

    def read_array(self, form, item):
        if not isinstance(item, list):
            raise Refused("malformed")
        (least, most, repeated) = form[1][0]
        if len(form[1]) > 1:
            forms = [each for _, _, each in form[1]]
            if len(item) != len(forms):
                raise Refused("malformed")
        else:
            if len(item) < least or (most is not None and len(item) > most):
                raise Refused("malformed")
            forms = [repeated] * len(item)
        read = [self.item(each, value) for each, value in zip(forms, item)]
        return [notation for notation, _ in read], [value for _, value in read]

    def read_map(self, form, item, closed=False):
        if not isinstance(item, dict):
            raise Refused("malformed")
        entries = form[1]
        if len(entries) == 1 and entries[0][0] == "*":
            return self.read_table(entries[0], item)
        known = {key for _, key, _ in entries}
        # A choice is a map of one entry: another one means another choice, not one that is not known.
        if closed and set(item) - known:
            raise Refused("malformed")
        notation, written = {}, {}
        for occurrence, key, each in entries:
            read, value = self.item(each, item[key]) if key in item else (self.missing(occurrence, key, each),) * 2
            if key in LEFT_OUT and value == LEFT_OUT[key]:
                continue
            notation[key], written[key] = read, value
        return notation, written

    def missing(self, occurrence, key, form):
        """What an entry that is not there means. (No vector leaves out a parameter of a genesis, whose defaults differ.)"""
        if occurrence == "?":
            return LEFT_OUT.get(key, 0)
        if form[0] == "choice" and ["name", "null"] in form[1]:
            return None
        raise Refused("malformed")

    def read_table(self, entry, item):
        _, key_form, form = entry
        pairs = [(self.item(key_form, key), self.item(form, value)) for key, value in item.items()]
        pairs.sort(key=lambda pair: pair[0][1] if isinstance(pair[0][1], bytes) else pair[0][1].encode())
        return {key[0]: value[0] for key, value in pairs}, {key[1]: value[1] for key, value in pairs}


def check(holds, notation):
    if not holds:
        raise Refused("malformed")
    return notation()


def integer(item, least, most):
    if isinstance(item, bool) or not isinstance(item, int) or not least <= item <= most:
        raise Refused("malformed")
    return item, item
