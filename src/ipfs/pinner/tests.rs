//! Against answers recorded from Kubo 0.42, given byte for byte by a small server, trailers included.

use std::collections::VecDeque;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    shard::{Files, car},
    store::{Files as _, Quota},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An answer as Kubo gives it: chunked, and with a trailer where it fails after the first byte.
fn recorded(status: &str, body: &str, stream_error: Option<&str>) -> String {
    let trailer = stream_error.map_or(String::new(), |message| format!("X-Stream-Error: {message}\r\n"));
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nServer: kubo/0.42.0\r\nTrailer: X-Stream-Error\r\n\
         X-Chunked-Output: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{body}\r\n0\r\n{trailer}\r\n",
        body.len()
    )
}

fn ok(body: &str) -> String {
    recorded("200 OK", body, None)
}

fn refusal(message: &str) -> String {
    let body = format!("{{\"Message\":\"{message}\",\"Code\":0,\"Type\":\"error\"}}\n");
    recorded("500 Internal Server Error", &body, None)
}

fn imported(root: &ContentId) -> String {
    ok(&format!("{{\"Root\":{{\"Cid\":{{\"/\":\"{root}\"}},\"PinErrorMsg\":\"\"}}}}\n"))
}

fn pinned(root: &ContentId) -> String {
    ok(&format!("{{\"Pins\":[\"{root}\"]}}\n"))
}

/// What was asked, what was sent along, and what is answered to each command in turn.
#[derive(Default)]
struct Kubo {
    answers: Mutex<BTreeMap<String, VecDeque<String>>>,
    asked: Mutex<Vec<String>>,
    uploaded: Mutex<Vec<u8>>,
}

impl Kubo {
    async fn start() -> (Arc<Self>, Endpoint) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let kubo = Arc::new(Self::default());
        tokio::spawn(kubo.clone().serve(listener));
        (kubo, endpoint)
    }

    fn says(&self, command: &str, answer: String) {
        self.answers.lock().unwrap().entry(command.to_owned()).or_default().push_back(answer);
    }

    fn asked(&self, command: &str) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.contains(command)).cloned().collect()
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().answer(stream));
        }
    }

    async fn answer(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let target = line.strip_prefix("POST /api/v0/").unwrap().split(' ').next().unwrap().to_owned();
        let chunked = read_head(&mut stream).await?;
        if chunked {
            *self.uploaded.lock().unwrap() = read_chunks(&mut stream).await?;
        }
        let command = target.split('?').next().unwrap().to_owned();
        self.asked.lock().unwrap().push(target);
        let answer = self.next_answer(&command);
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }

    fn next_answer(&self, command: &str) -> String {
        let version =
            || ok(r#"{"Version":"0.42.0","Commit":"","Repo":"18","System":"amd64/linux","Golang":"go1.26.8"}"#);
        let next = self.answers.lock().unwrap().get_mut(command).and_then(VecDeque::pop_front);
        next.unwrap_or_else(|| if command == "version" { version() } else { refusal("nothing was recorded") })
    }
}

/// Passes over the headers; whether a chunked body follows.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let mut chunked = false;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        chunked |= line.eq_ignore_ascii_case("transfer-encoding: chunked\r\n");
        if line.trim().is_empty() {
            return Ok(chunked);
        }
    }
}

async fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..]).await?;
        stream.read_exact(&mut [0; 2]).await?;
        if length == 0 {
            return Ok(body);
        }
    }
}

struct Fixture {
    directory: tempfile::TempDir,
    store: Arc<BlockStore>,
    root: ContentId,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks"), Quota { bytes: 64 << 20 }).unwrap();
        let bytes: Vec<u8> = (0_u64..).flat_map(u64::to_be_bytes).take(2 << 20).collect();
        let root = Files::new(store.clone()).import_bytes(&bytes).unwrap();
        Self { directory, store, root }
    }

    fn start(&self, endpoint: &Endpoint) -> Pinner {
        Pinner::start(endpoint.clone(), self.store.clone(), &self.directory.path().join("queue")).unwrap()
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

#[tokio::test]
async fn a_dag_is_sent_whole_then_pinned_by_name() {
    let fixture = Fixture::new();
    let (kubo, endpoint) = Kubo::start().await;
    kubo.says("dag/import", imported(&fixture.root));
    kubo.says("pin/add", pinned(&fixture.root));
    let pinner = fixture.start(&endpoint);
    pinner.pin(fixture.root, "job 7: model").unwrap();
    until("the pin", || pinner.status().done == 1).await;
    let status = pinner.status();
    assert_eq!((status.queued, &status.last_refusal), (0, &None));
    assert_eq!(status.daemon, Daemon::Answers { version: "0.42.0".into() });
    assert!(fixture.store.pins().is_empty(), "nothing is kept for the daemon any more");
    assert!(kubo.asked("pin/add")[0].contains("name=job+7%3A+model"), "{:?}", kubo.asked("pin/add"));
    assert!(kubo.asked("dag/import")[0].contains("pin-roots=true"));

    let uploaded = kubo.uploaded.lock().unwrap().clone();
    let start = uploaded.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut reader = car::Reader::new(&uploaded[start..]).unwrap();
    assert_eq!(reader.roots(), [fixture.root]);
    for _ in 0..3 {
        let (cid, block) = reader.next_block().unwrap().unwrap();
        assert_eq!(fixture.store.get(&cid).unwrap().unwrap(), block);
    }
}

#[tokio::test]
async fn wishes_wait_for_the_daemon_across_a_restart() {
    let fixture = Fixture::new();
    let nowhere = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let pinner = fixture.start(&nowhere);
    pinner.pin(fixture.root, "model").unwrap();
    until("the word that nobody is there", || matches!(pinner.status().daemon, Daemon::Away { .. })).await;
    assert_eq!(pinner.status().queued, 1);
    drop(pinner);

    let (kubo, endpoint) = Kubo::start().await;
    kubo.says("dag/import", imported(&fixture.root));
    kubo.says("pin/add", pinned(&fixture.root));
    let pinner = fixture.start(&endpoint);
    until("the pin", || pinner.status().done == 1).await;
    assert_eq!(kubo.asked("dag/import").len(), 1);
    assert_eq!(std::fs::read_dir(fixture.directory.path().join("queue")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_refusal_is_told_and_tried_again() {
    let fixture = Fixture::new();
    let (kubo, endpoint) = Kubo::start().await;
    kubo.says("dag/import", refusal("import failed: unexpected EOF"));
    kubo.says("dag/import", imported(&fixture.root));
    kubo.says("pin/add", pinned(&fixture.root));
    let pinner = fixture.start(&endpoint);
    pinner.pin(fixture.root, "model").unwrap();
    until("the second try", || pinner.status().done == 1).await;
    let (root, message) = pinner.status().last_refusal.unwrap();
    assert_eq!(root, fixture.root);
    assert!(message.contains("unexpected EOF"), "{message}");
}

#[tokio::test]
async fn a_status_of_200_alone_is_no_success() {
    let fixture = Fixture::new();
    let (kubo, endpoint) = Kubo::start().await;
    let client = Client::new(endpoint).unwrap();
    let pin = || client.pin(fixture.store.clone(), fixture.root, "model");
    kubo.says("dag/import", recorded("200 OK", "{}\n", Some("import failed: disk full")));
    assert!(matches!(pin().await, Err(client::Error::Stream { message, .. }) if message.contains("disk full")));
    kubo.says("dag/import", ok(""));
    assert!(matches!(pin().await, Err(client::Error::NotPinned { .. })));
    let root = fixture.root;
    let body = format!("{{\"Root\":{{\"Cid\":{{\"/\":\"{root}\"}},\"PinErrorMsg\":\"block not found\"}}}}\n");
    kubo.says("dag/import", ok(&body));
    assert!(matches!(pin().await, Err(client::Error::Refused { message, .. }) if message == "block not found"));
}

#[tokio::test]
async fn pins_are_listed_verified_and_taken_back() {
    let fixture = Fixture::new();
    let (kubo, endpoint) = Kubo::start().await;
    let client = Client::new(endpoint).unwrap();
    let root = fixture.root;
    kubo.says("pin/ls", ok(&format!("{{\"Cid\":\"{root}\",\"Name\":\"model 1\",\"Type\":\"recursive\"}}\n{{\"Cid\":\"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\",\"Type\":\"recursive\"}}\n")));
    let pins = client.pins().await.unwrap();
    assert_eq!(pins.len(), 2);
    assert_eq!(pins[0], client::RemotePin { root, name: "model 1".into() });

    kubo.says("pin/ls", ok(&format!("{{\"Keys\":{{\"{root}\":{{\"Type\":\"recursive\"}}}}}}\n")));
    kubo.says("dag/stat", ok(&format!("{{\"UniqueBlocks\":3,\"TotalSize\":2097262,\"Ratio\":1,\"DagStats\":[{{\"Cid\":\"{root}\",\"Size\":2097262,\"NumBlocks\":3}}]}}\n")));
    assert_eq!(client.verify(&root).await.unwrap(), Verified { blocks: 3, bytes: 2_097_262 });
    kubo.says("pin/ls", refusal(&format!("path '{root}' is not pinned")));
    assert!(client.verify(&root).await.unwrap_err().to_string().contains("is not pinned"));

    kubo.says("pin/rm", pinned(&root));
    client.unpin(&root).await.unwrap();
    kubo.says("pin/rm", refusal("not pinned or pinned indirectly"));
    client.unpin(&root).await.unwrap();
}

#[tokio::test]
async fn what_is_no_daemon_is_named_with_the_flag() {
    let fixture = Fixture::new();
    let (kubo, endpoint) = Kubo::start().await;
    kubo.says("version", recorded("404 Not Found", "<html>", None));
    let error = Client::new(endpoint).unwrap().version().await.unwrap_err();
    assert!(error.is_away() && error.to_string().contains("--ipfs-api"), "{error}");
    let nowhere = Client::new("http://127.0.0.1:1".parse().unwrap()).unwrap();
    let error = nowhere.pin(fixture.store.clone(), fixture.root, "model").await.unwrap_err();
    assert!(error.is_away() && error.to_string().contains("--ipfs-api"), "{error}");
}

/// Against a real daemon: `ATLAS_TEST_KUBO=/ip4/127.0.0.1/tcp/5001 cargo test real_daemon`.
#[tokio::test]
async fn a_real_daemon_does_as_the_recorded_one() {
    let Ok(endpoint) = std::env::var("ATLAS_TEST_KUBO") else {
        eprintln!("skipped: ATLAS_TEST_KUBO names no Kubo daemon");
        return;
    };
    let fixture = Fixture::new();
    let pinner = fixture.start(&endpoint.parse().unwrap());
    pinner.pin(fixture.root, "a name, with ümlaut").unwrap();
    until("the pin", || pinner.status().done == 1).await;
    let verified = pinner.verify(&fixture.root).await.unwrap();
    assert_eq!((verified.blocks, verified.bytes), (3, fixture.store.used_bytes()));
    let pins = pinner.client().pins().await.unwrap();
    let expected = client::RemotePin { root: fixture.root, name: "a name, with ümlaut".into() };
    assert!(pins.contains(&expected), "{pins:?}");
    pinner.unpin(fixture.root).unwrap();
    until("the unpin", || pinner.status().done == 2).await;
    assert!(pinner.verify(&fixture.root).await.is_err());
}
