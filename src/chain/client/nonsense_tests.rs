//! Against what answers nonsense, too much, or nothing: the reason is told, what was submitted stays, and another way is used.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    connection::{Failure, connect},
    tests::{Lab, committed, disconnected, lab, register, worker},
    *,
};
use crate::{chain::embedded::Embedded, codec};

/// Answers every connection with these bytes, the last of them again and again if it should never end.
async fn server(answer: Vec<u8>, endless: bool) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                let more = vec![b' '; 1 << 20];
                while endless && stream.write_all(&more).await.is_ok() {}
                let _ = stream.shutdown().await;
            });
        }
    });
    Endpoint::Http(url)
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The client is told why this endpoint is of no use, keeps what is submitted, and sends it where it can.
async fn is_told_and_another_way_is_used(endpoint: Endpoint, words: &[&str]) {
    let lab = lab();
    let name = endpoint.name();
    let (handle, mut events) = Client::start(lab.config(vec![endpoint]), &worker()).unwrap();
    handle.submit(1, register("worker"), true).unwrap();
    let reason = disconnected(&mut events).await;
    for word in words.iter().chain([&name.as_str()]) {
        assert!(reason.contains(word), "`{word}` is missing in: {reason}");
    }
    assert!(reason.len() < 1_000, "nonsense is not repeated at length: {reason}");
    handle.add_endpoint(lab.peer().0, Place::First).unwrap();
    assert_eq!(committed(&mut events, 1).await.0, 0, "nothing was lost");
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_ledger_is_said_so_and_another_way_is_used() {
    let deep = "[".repeat(200_000);
    let long = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{{\"code\":-32603,\"message\":\"{}\"}}}}",
        "no ".repeat(9_000)
    );
    for (answer, words) in [
        (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), &["error sending request"][..]),
        (Vec::new(), &["error sending request"]),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>".to_vec(), &["404", "RPC of a chain"]),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n{}".to_vec(), &["500"]),
        (ok("<html>hello</html>"), &["expected value"]),
        (ok(""), &["EOF"]),
        (ok("{}"), &["missing field"]),
        (ok("null"), &["invalid type"]),
        (ok(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), &["missing field"]),
        (ok(r#"{"jsonrpc":"1.0","id":1,"result":{"node_info":7}}"#), &["invalid type"]),
        (ok(&deep), &["invalid type"]),
        (ok(&long), &["no no no"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"jsonrpc\"".to_vec(), &["body"]),
    ] {
        is_told_and_another_way_is_used(server(answer, false).await, words).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_is_cut_off() {
    let endless = server(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(), true).await;
    is_told_and_another_way_is_used(endless, &["is over", "bytes"]).await;
}

/// A ledger of the right name whose answers to one method are replaced.
struct Liar {
    embedded: Arc<Embedded>,
    method: &'static str,
    answer: String,
    lies: Arc<AtomicBool>,
}

#[async_trait]
impl Transport for Liar {
    async fn call(&self, request: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let asked = String::from_utf8_lossy(&request).contains(&format!("\"{}\"", self.method));
        if asked && self.lies.load(Ordering::SeqCst) {
            return Ok(self.answer.clone().into_bytes());
        }
        Ok(self.embedded.rpc(&request).await)
    }

    fn describe(&self) -> String {
        "the liar".to_owned()
    }
}

fn liar(lab: &Lab, method: &'static str, answer: &str) -> (Endpoint, Arc<AtomicBool>) {
    let lies = Arc::new(AtomicBool::new(true));
    let (embedded, answer) = (lab.embedded.clone(), answer.to_owned());
    (Endpoint::Peer(Arc::new(Liar { embedded, method, answer, lies: lies.clone() })), lies)
}

fn answered(value: &[u8]) -> String {
    use tendermint_rpc::endpoint::broadcast::tx_sync;
    let value = serde_json::to_value(tx_sync::Request::new(value)).unwrap()["tx"].clone();
    let response = serde_json::json!({
        "code": 0, "log": "", "info": "", "index": "0", "key": null, "value": value, "proofOps": null,
        "height": "1", "codespace": ""
    });
    serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": { "response": response } }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_answers_questions_with_nonsense_is_left_until_it_makes_sense() {
    let garbage = r#"{"jsonrpc":"2.0","id":1,"result":"yes"}"#;
    let bomb = [vec![0x81; 1_000_000], vec![0]].concat();
    let claims = [0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff];
    let not_found = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Internal error","data":"oh"}}"#;
    for (method, answer) in [
        ("abci_query", garbage.to_owned()),
        ("abci_query", answered(b"").replace("\"value\":\"\"", "\"value\":\"====\"")),
        ("abci_query", answered(b"")),
        ("abci_query", answered(b"no CBOR")),
        ("abci_query", answered(&bomb)),
        ("abci_query", answered(&claims)),
        ("abci_query", answered(&codec::encode(&"a text"))),
        ("abci_query", not_found.to_owned()),
        ("broadcast_tx_sync", garbage.to_owned()),
        ("tx", garbage.to_owned()),
    ] {
        let lab = lab();
        let (endpoint, lies) = liar(&lab, method, &answer);
        let (handle, mut events) = Client::start(lab.config(vec![endpoint]), &worker()).unwrap();
        handle.submit(1, register("worker"), true).unwrap();
        let reason = disconnected(&mut events).await;
        assert!(reason.contains("the liar") && reason.len() < 1_000, "{method}: {reason}");
        lies.store(false, Ordering::SeqCst);
        assert_eq!(committed(&mut events, 1).await.0, 0, "{method}: what waited is sent, once");
        assert_eq!(lab.embedded.height(), 1);
        handle.stop().await;
    }
}

/// A peer that takes every question and never answers.
struct Silent;

#[async_trait]
impl Transport for Silent {
    async fn call(&self, _request: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        std::future::pending().await
    }

    fn describe(&self) -> String {
        "the silent".to_owned()
    }
}

/// Ten seconds, in which nothing is computed.
#[tokio::test]
async fn a_ledger_that_never_answers_or_trickles_is_given_up_in_time() {
    let lab = lab();
    let config = lab.config(vec![]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = Endpoint::Http(format!("http://{}", listener.local_addr().unwrap()));
    let half = server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{".to_vec(), false).await;
    let (silent, config) = (Endpoint::Peer(Arc::new(Silent)), &config);
    let ends = |endpoint: Endpoint| async move {
        let connecting = tokio::time::timeout(Duration::from_secs(15), connect(&endpoint, config, 0));
        let Err(failure) = connecting.await.expect("it ends by itself") else { panic!("nobody answered") };
        failure.to_string()
    };
    let (silent, mute) = tokio::join!(ends(silent), ends(mute));
    assert_eq!(silent, "no answer within 10 s");
    assert!(mute == silent || mute.contains("timed out"), "{mute}");
    let Err(failure) = connect(&half, config, 0).await else { panic!("half an answer is none") };
    assert!(matches!(failure, Failure::Rpc(_)), "{failure}");
}
