//! Files: blocks, tensors, updates, bundles.

use atlas_node::{
    store::dag_pb::{Link, Node},
    tensor::{Dtype, Spec, Tensors},
    types::Digest,
};
use serde_json::json;

use super::{
    super::{vectors::Bytes, vectors::Page},
    Maker, sample,
};

/// The UnixFS data of a directory.
const DIRECTORY: [u8; 2] = [0x08, 0x01];

pub(super) fn pages() -> Vec<Page> {
    vec![content_page(), state_root_page(), update_page(), script_page()]
}

fn content_page() -> Page {
    let mut maker = Maker::new("content");
    nodes(&mut maker);
    unixfs(&mut maker);
    for bytes in [&b""[..], b"hello"] {
        maker.computed("file-cid", json!({ "bytes": hex::encode(bytes) }));
    }
    maker.computed("file-cid", json!({ "bytes": Bytes::zeros(b"end", (1 << 20) - 3) }));
    maker.computed("file-cid", json!({ "bytes": Bytes::zeros(b"two chunks", 1 << 20) }));
    maker.computed("file-cid", json!({ "bytes": Bytes::zeros(b"three chunks", 5 << 19) }));
    maker.computed("data-key", json!({ "key": hex::encode([3; 32]) }));
    for (end, zeros) in [(&b""[..], 0), (b"hello", 0), (b"", 65_536), (b"two segments", 65_536), (b"", 131_072)] {
        let input = json!({
            "key": hex::encode([3; 32]), "prefix": hex::encode([9; 19]), "bytes": Bytes::zeros(end, zeros),
        });
        maker.computed("sealed-file", input);
    }
    let files = json!({ "b.csv": hex::encode("1,2\n"), "a.csv": hex::encode("3,4\n"), "ü": "" });
    maker.computed("directory-cid", json!({ "files": files }));
    let lines: String = (0..23).map(|line| format!("{line},{}\n", line * line)).collect();
    let with_header = hex::encode(format!("x,y\n{lines}\n7,7"));
    let lines = json!({ "kind": "lines", "header": true });
    let cut = |bytes: &str, format, seed: u64, slots, held_out| json!({ "bytes": bytes, "format": format, "seed": seed, "slots": slots, "held_out": held_out, "file_name": "t.csv" });
    maker.computed("cut", cut(&with_header, &lines, 42, 3, 1_500));
    let fixed = json!({ "kind": "fixed", "bytes": 2 });
    maker.computed("cut", cut(&hex::encode([7; 40]), &fixed, u64::MAX, 4, 0));
    maker.done()
}

fn link(name: &str) -> Link {
    Link { cid: sample::cid(name), name: name.into(), total_size: 7 }
}

fn nodes(maker: &mut Maker) {
    let kind = "dag-pb";
    let node = Node { links: vec![link("a"), link("b")], data: DIRECTORY.to_vec() };
    let bytes = node.encode();
    let data = bytes.len() - 4;
    maker.valid(kind, "two links", &bytes);
    maker.valid(kind, "an empty directory", &Node { links: vec![], data: DIRECTORY.to_vec() }.encode());
    maker.valid(kind, "data before links", &[&bytes[data..], &bytes[..data]].concat());
    maker.invalid(kind, "cut", &bytes[..bytes.len() - 1], "protobuf", "the data is shorter than announced");
    maker.invalid(
        kind,
        "fixed-width field",
        &[0x0d, 0, 0, 0, 0][..],
        "protobuf",
        "neither schema has such a wire type",
    );
    maker.invalid(
        kind,
        "varint of 65 bits",
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..],
        "protobuf",
        "a length over 64 bits",
    );
    maker.invalid(kind, "unknown field", &[0x1a, 0x00][..], "field", "dag-pb has the fields 1 and 2");
    let around = [&bytes[..], &bytes[..data]].concat();
    maker.invalid(kind, "links around the data", &around[..], "field", "links stand on one side of the data");
    maker.invalid(kind, "link without a CID", &[0x12, 0x02, 0x12, 0x00][..], "link", "a link names a block");
    maker.invalid(
        kind,
        "link with a cut CID",
        &[0x12, 0x04, 0x0a, 0x02, 0x01, 0x55][..],
        "link",
        "the bytes are no CID",
    );
    let padded = [&[0x12, 0x27, 0x0a, 0x25][..], &sample::cid("a").0.to_bytes(), &[0]].concat();
    maker.invalid(kind, "link with a byte after the CID", &padded[..], "link", "a CID ends where its hash ends");
    let name = Node { links: vec![link("a")], data: vec![] }.encode();
    let at = name.iter().rposition(|byte| *byte == b'a').unwrap();
    let mut name = name;
    name[at] = 0xff;
    maker.invalid(kind, "name that is no text", &name[..], "name", "names are UTF-8");
}

fn unixfs(maker: &mut Maker) {
    let kind = "unixfs";
    let node = |links: Vec<Link>, data: &[u8]| Node { links, data: data.to_vec() }.encode();
    let nameless = |name| Link { name: String::new(), ..link(name) };
    maker.valid(kind, "directory", &node(vec![link("a"), link("b")], &DIRECTORY));
    let two_parts = [0x08, 0x02, 0x18, 0x0c, 0x20, 0x05, 0x20, 0x07];
    maker.valid(kind, "file of two parts", &node(vec![nameless("1"), nameless("2")], &two_parts));
    let packed = [0x08, 0x02, 0x18, 0x0c, 0x22, 0x02, 0x05, 0x07];
    maker.valid(kind, "file with packed sizes", &node(vec![nameless("1"), nameless("2")], &packed));
    maker.valid(kind, "leaf that is no raw block", &node(vec![], &[0x08, 0x02, 0x12, 0x02, b'h', b'i', 0x18, 0x02]));
    maker.invalid(kind, "no type", &node(vec![], &[])[..], "field", "the data says what it is");
    maker.invalid(
        kind,
        "unknown field",
        &node(vec![], &[0x08, 0x01, 0x48, 0x00])[..],
        "field",
        "UnixFS has the fields 1 to 8",
    );
    maker.invalid(kind, "symbolic link", &node(vec![], &[0x08, 0x04])[..], "type", "links could leave the directory");
    for name in ["", ".", "..", "a/b", "a\0b"] {
        let bytes = node(vec![link(name)], &DIRECTORY);
        maker.invalid(kind, &format!("entry {name:?}"), &bytes[..], "name", "it could leave the directory");
    }
    let unsorted = node(vec![link("b"), link("a")], &DIRECTORY);
    maker.invalid(kind, "entries out of order", &unsorted[..], "order", "every writer sorts");
    let twice = node(vec![link("a"), link("a")], &DIRECTORY);
    maker.invalid(kind, "entry twice", &twice[..], "order", "the second would hide behind the first");
    let sizes = node(vec![nameless("1"), nameless("2")], &[0x08, 0x02, 0x18, 0x0d, 0x20, 0x05, 0x20, 0x07]);
    maker.invalid(kind, "sizes that don't add up", &sizes[..], "sizes", "5 and 7 are not 13");
    let fewer = node(vec![nameless("1"), nameless("2")], &[0x08, 0x02, 0x18, 0x05, 0x20, 0x05]);
    maker.invalid(kind, "fewer sizes than links", &fewer[..], "sizes", "a size for each link");
    let empty = node(vec![nameless("1"), nameless("2")], &[0x08, 0x02, 0x18, 0x05, 0x20, 0x05, 0x20, 0x00]);
    maker.invalid(kind, "part without bytes", &empty[..], "sizes", "few blocks would describe endless work");
    let sharded = node(vec![link("00a")], &[0x08, 0x05, 0x28, 0x22, 0x30, 0x10]);
    maker.invalid(kind, "sharded with another fanout", &sharded[..], "sharded", "Kubo's has 256");
}

fn tensors(entries: &[(&str, Dtype, &[usize], &[u8])]) -> Tensors {
    let mut tensors = Tensors::default();
    for (name, dtype, shape, data) in entries {
        let spec = Spec { dtype: *dtype, shape: shape.to_vec() };
        tensors.insert((*name).into(), spec, data.to_vec().into()).unwrap();
    }
    tensors
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn state_root_page() -> Page {
    let mut maker = Maker::new("state-root");
    let kind = "safetensors";
    let model = tensors(&[
        ("w\"eight", Dtype::F32, &[2, 3], &floats(&[1.0, -2.0, 0.5, 3.0, -0.0, 1e-40])),
        ("bias", Dtype::F32, &[], &floats(&[7.0])),
        ("none", Dtype::F32, &[0, 4], &[]),
        ("bytes", Dtype::U8, &[3], &[1, 2, 3]),
    ]);
    maker.valid(kind, "canonical", &model.to_safetensors());
    maker.valid(kind, "without tensors", &file("{}      ", &[]));
    let loose = r#"{ "__metadata__":{"format":"pt"},"b":{"dtype":"U8","data_offsets":[0,1],"shape":[1]}, "a":{"shape":[2],"dtype":"U8","data_offsets":[1,3]}}"#;
    maker.valid(kind, "another layout of its file", &file(loose, &[9, 8, 7]));
    safetensors_refused(&mut maker);
    for tensors in [
        model,
        tensors(&[]),
        tensors(&[("one", Dtype::F32, &[1], &floats(&[1.0]))]),
        tensors(&[("a", Dtype::U8, &[1], &[1]), ("b", Dtype::U8, &[1], &[2]), ("c", Dtype::U8, &[1], &[3])]),
    ] {
        maker.computed("params-root", json!({ "file": hex::encode(tensors.to_safetensors()) }));
    }
    let size = (1 << 20) * 2 + 5;
    let header = format!("{:96}", format!(r#"{{"big":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#));
    let big = Bytes::zeros(&file(&header, &[]), size);
    maker.computed("params-root", json!({ "file": big }));
    for (step, extra) in [(0, ""), (40, "7b7d")] {
        let roots = (sample::digest("params"), if step == 0 { Digest([0; 32]) } else { sample::digest("optimizer") });
        let input = json!({ "params_root": roots.0, "opt_root": roots.1, "step": step, "extra": extra });
        maker.computed("state-root", input);
    }
    maker.done()
}

fn safetensors_refused(maker: &mut Maker) {
    let kind = "safetensors";
    let one =
        |offsets: &str, shape: &str| format!(r#"{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":{offsets}}}}}"#);
    maker.invalid(kind, "seven bytes", &[0; 7][..], "header", "a header length has eight");
    let huge = (1_048_577_u64).to_le_bytes();
    maker.invalid(kind, "header bomb", Bytes::zeros(&huge, 1_048_577), "header", "over 1 MiB");
    maker.invalid(
        kind,
        "header longer than the file",
        &[9, 0, 0, 0, 0, 0, 0, 0, b'{'][..],
        "header",
        "nine bytes are announced",
    );
    maker.invalid(kind, "no JSON", &file("{]", &[])[..], "header", "not JSON");
    maker.invalid(
        kind,
        "unknown type",
        &file(r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}}"#, &[0])[..],
        "header",
        "no such type",
    );
    maker.invalid(kind, "cut", &file(&one("[0,3]", "[3]"), &[1, 2])[..], "gap", "the tensor ends after the file");
    maker.invalid(
        kind,
        "byte after the end",
        &file(&one("[0,1]", "[1]"), &[1, 2])[..],
        "gap",
        "the file ends after the tensor",
    );
    maker.invalid(
        kind,
        "hole at the start",
        &file(&one("[1,2]", "[1]"), &[1, 2])[..],
        "header",
        "the first tensor begins at 0",
    );
    maker.invalid(
        kind,
        "offsets that don't fit the shape",
        &file(&one("[0,2]", "[3]"), &[1, 2])[..],
        "header",
        "three elements need three bytes",
    );
    let overflow = one("[0,0]", "[4294967296,4294967296,0]");
    maker.invalid(
        kind,
        "shape that overflows",
        &file(&overflow, &[])[..],
        "header",
        "a zero does not hide an overflow",
    );
    maker.invalid(
        kind,
        "nine dimensions",
        &file(&one("[0,1]", "[1,1,1,1,1,1,1,1,1]"), &[1])[..],
        "header",
        "at most eight",
    );
    let overlap =
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    maker.invalid(kind, "overlap", &file(overlap, &[1, 2, 3])[..], "header", "b begins inside a");
    let name = "n".repeat(513);
    let long = format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
    maker.invalid(kind, "name of 513 bytes", &file(&long, &[1])[..], "header", "at most 512");
}

fn update_page() -> Page {
    let mut maker = Maker::new("update");
    let base: Vec<f32> = (0..300_u16).map(|index| f32::from(index % 50) / 8.0 - 2.0).collect();
    let trained: Vec<f32> = base.iter().map(|value| value * 0.75 + 0.125).collect();
    let model = |values: &[f32]| {
        let big = floats(values);
        hex::encode(
            tensors(&[
                ("big", Dtype::F32, &[3, 100], &big),
                ("scalar", Dtype::F32, &[], &big[8..12]),
                ("same", Dtype::F32, &[2], &floats(&[1.5, 1.5])),
            ])
            .to_safetensors(),
        )
    };
    for codec in ["f32", "i8b256"] {
        let input = json!({ "base": model(&base), "trained": model(&trained), "codec": codec });
        maker.computed("update", input.clone());
        let update = hex::decode(super::compute::run("update", &input).as_str().unwrap()).unwrap();
        maker.valid("update", codec, &update);
    }
    let mut infinite = base.clone();
    infinite[7] = f32::INFINITY;
    maker.computed("update", json!({ "base": model(&base), "trained": model(&infinite), "codec": "f32" }));
    updates_refused(&mut maker);
    maker.done()
}

/// An update of one tensor `w`: its head, then `payload`.
fn small(codec: u8, elements: u8, payload: &[u8]) -> Vec<u8> {
    let head =
        [b"ATLASUPD", &[1, 0, codec, 0, 1, 0, 0, 0][..], &[1, 0, b'w', 1, elements, 0, 0, 0, 0, 0, 0, 0]].concat();
    let padded = head.len().next_multiple_of(8);
    [&head[..], &vec![0; padded - head.len()], payload].concat()
}

fn updates_refused(maker: &mut Maker) {
    let kind = "update";
    let one = floats(&[1.0]);
    let good = small(0, 1, &one);
    maker.valid(kind, "one value", &good);
    maker.valid(kind, "without tensors", b"ATLASUPD\x01\0\0\0\0\0\0\0");
    // 0x3f80 is 1.0 as bf16.
    maker.valid(kind, "one block", &small(1, 2, &[0x80, 0x3f, 127, 0x81]));
    maker.valid(kind, "block of zeros", &small(1, 2, &[0, 0, 0, 0]));
    let edit = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    maker.invalid(kind, "cut", &good[..good.len() - 1], "malformed", "the last byte is missing");
    maker.invalid(kind, "byte after the end", &[&good[..], &[0]].concat()[..], "malformed", "a byte too many");
    maker.invalid(kind, "another magic", &edit(0, b'B')[..], "malformed", "no update");
    maker.invalid(kind, "version 2", &edit(8, 2)[..], "malformed", "a later version");
    maker.invalid(kind, "unknown codec", &edit(10, 2)[..], "malformed", "codecs are 0 and 1");
    maker.invalid(kind, "reserved byte", &edit(11, 1)[..], "malformed", "it is 0");
    maker.invalid(kind, "more tensors than there are", &edit(12, 2)[..], "malformed", "the second has no name");
    maker.invalid(kind, "name that is no text", &edit(18, 0xff)[..], "malformed", "names are UTF-8");
    maker.invalid(kind, "nine dimensions", &edit(19, 9)[..], "malformed", "at most eight");
    maker.invalid(kind, "padding that is not zero", &edit(28, 1)[..], "malformed", "a writer writes zeros");
    maker.invalid(kind, "dimension of 2^63", &edit(27, 0x80)[..], "malformed", "its length overflows");
    let two = [b"ATLASUPD\x01\0\0\0\x02\0\0\0", &b"\x01\0b\0"[..], b"\x01\0a\0", &[0; 8]].concat();
    maker.invalid(kind, "names out of order", &two[..], "malformed", "a comes before b");
    let twice = [b"ATLASUPD\x01\0\0\0\x02\0\0\0", &b"\x01\0a\0"[..], b"\x01\0a\0", &[0; 8]].concat();
    maker.invalid(kind, "name twice", &twice[..], "malformed", "names are distinct");
    maker.invalid(kind, "NaN", &small(0, 1, &floats(&[f32::NAN]))[..], "not_finite", "no number");
    maker.invalid(kind, "infinite scale", &small(1, 1, &[0x80, 0x7f, 1])[..], "not_finite", "the scale is infinite");
    maker.invalid(kind, "negative scale", &small(1, 1, &[0x80, 0xbf, 127])[..], "malformed", "a scale is not negative");
    maker.invalid(kind, "-128", &small(1, 2, &[0x80, 0x3f, 127, 0x80])[..], "malformed", "the smallest is -127");
    maker.invalid(
        kind,
        "superfluous scale",
        &small(1, 1, &[0x80, 0x3f, 100])[..],
        "malformed",
        "a smaller scale covers it",
    );
    maker.invalid(kind, "scale of a block of zeros", &small(1, 1, &[0x80, 0x3f, 0])[..], "malformed", "it is 0");
    maker.invalid(kind, "values without a scale", &small(1, 1, &[0, 0, 1])[..], "malformed", "0 covers zeros alone");
}

fn script_page() -> Page {
    let mut maker = Maker::new("script");
    let kind = "bundle";
    let least = "contract = \"atlas-script/1\"\nname = \"ridge\"\nversion = \"1.0.0\"\nentry = [\"ridge.py\"]\n";
    maker.valid(kind, "the least", least.as_bytes());
    let whole = format!(
        "{least}modes = [\"train\", \"serve\"]\ndeterministic = true\npeak_memory_mib = 64\n[python]\nrequires = \">=3.10\"\n\
         packages = [\"numpy==2.4.6\"]\nsite_packages = \"vendor\"\n[inputs]\nchannels = [\"train\"]\n[outputs]\nfiles = [\"model.safetensors\"]\n"
    );
    maker.valid(kind, "all there is", whole.as_bytes());
    let mut refused = |name: &str, text: String, why: &str| {
        maker.invalid(kind, name, text.as_bytes(), "invalid", why);
    };
    refused("no TOML", least.replace('=', ":"), "not TOML");
    refused("another contract", least.replace("script/1", "script/2"), "a later contract");
    refused("missing entry", least.replace("entry", "entries"), "unknown keys are refused, and `entry` is needed");
    refused("unknown key", format!("{least}later = 1\n"), "unknown keys are refused");
    refused("unknown mode", format!("{least}modes = [\"later\"]\n"), "modes are listed");
    refused("entry outside", least.replace("ridge.py", "../ridge.py"), "the script is inside the bundle");
    refused("absolute entry", least.replace("ridge.py", "/bin/sh"), "the script is inside the bundle");
    refused("packages outside", format!("{least}[python]\nsite_packages = \"/usr\"\n"), "paths are inside the bundle");
    refused("no script", least.replace("[\"ridge.py\"]", "[]"), "`entry` names a script");
    maker.done()
}
