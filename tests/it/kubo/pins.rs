//! The pinner and a daemon that comes and goes.

use atlas_node::{
    ipfs::{Pinner, client::RemotePin},
    store::Files as _,
};

use super::{daemon::Kubo, done, empty_store};

/// What is pinned under a name: a new repository comes with an empty directory, which has none.
async fn named(pinner: &Pinner) -> Vec<RemotePin> {
    let pins = pinner.client().pins().await.unwrap();
    pins.into_iter().filter(|pin| !pin.name.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_on_kubo_is_whole_there_and_named_and_goes_when_it_is_taken_back() {
    let mut kubo = Kubo::new();
    let (place, files) = empty_store();
    let root = files.import_bytes(&vec![7; 3 << 20]).unwrap();
    let address = kubo.start().await;
    let pinner = Pinner::start(address.parse().unwrap(), files.store().clone(), &place.path().join("pins")).unwrap();
    pinner.pin(root, "a name, with ümlaut").unwrap();
    done(&pinner, 1).await;
    let verified = pinner.verify(&root).await.unwrap();
    assert_eq!((verified.blocks, verified.bytes), (2, files.store().used_bytes()));
    let expected = RemotePin { root, name: "a name, with ümlaut".into() };
    assert_eq!(named(&pinner).await, [expected]);
    pinner.unpin(root).unwrap();
    done(&pinner, 2).await;
    assert!(pinner.verify(&root).await.is_err());
    assert_eq!(named(&pinner).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_outlives_the_daemons_death_and_the_nodes() {
    let mut kubo = Kubo::new();
    let (place, files) = empty_store();
    let first = files.import_bytes(b"first").unwrap();
    let second = files.import_bytes(&vec![1; 2 << 20]).unwrap();
    let address = kubo.start().await;
    kubo.kill();
    let start = || Pinner::start(address.parse().unwrap(), files.store().clone(), &place.path().join("pins")).unwrap();
    let pinner = start();
    pinner.pin(first, "first").unwrap();
    pinner.pin(second, "second").unwrap();
    drop(pinner);

    // The daemon takes another port at each start; the operator's setting follows.
    let address = kubo.start().await;
    let pinner = Pinner::start(address.parse().unwrap(), files.store().clone(), &place.path().join("pins")).unwrap();
    done(&pinner, 2).await;
    let mut names: Vec<String> = named(&pinner).await.into_iter().map(|pin| pin.name).collect();
    names.sort();
    assert_eq!(names, ["first", "second"]);
}
