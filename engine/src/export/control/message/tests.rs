//! Messages come back as they were, and nothing else than a message is taken for one.

use super::*;
use crate::format::control::{ControlHeader, HEADER_BYTES, MAGIC, VERSION};
use crate::runtime::Random;

fn snapshot(name: &str) -> SnapshotInfo {
    let (of, writable) = (Some("tree".to_string()), true);
    let lock = (!name.is_empty()).then_some(SnapshotLock { until_unix_ns: 9, held: true });
    let group = lock.map(|_| SnapshotGroup { id: [7; 16], members: 3 });
    let exclusive_bytes = lock.map(|_| 4096);
    let (sequence, time_unix_ns, broken) = (Seq(7), u64::MAX, true);
    SnapshotInfo {
        name: name.to_string(),
        of,
        writable,
        sequence,
        time_unix_ns,
        broken,
        lock,
        group,
        exclusive_bytes,
    }
}

fn volume() -> FurtherVolume {
    FurtherVolume { name: "db".to_string(), size_bytes: 1 << 40, time_unix_ns: 7 }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Status,
        Request::Flush,
        Request::Snapshots { with_space: false },
        Request::Snapshots { with_space: true },
        Request::Take { name: "monday".to_string(), of: None },
        Request::Take { name: "monday".to_string(), of: Some("tree".to_string()) },
        Request::Clone { of: "monday".to_string(), name: "tree".to_string() },
        Request::Delete("ü\0 ".to_string()),
        Request::Lock("one".to_string(), LockTime::Held),
        Request::Lock("two".to_string(), LockTime::Until(u64::MAX)),
        Request::Lock(String::new(), LockTime::For(7)),
        Request::Unlock("one".to_string()),
        Request::Difference(Moment::At(Seq(3)), Moment::Now),
        Request::Difference(Moment::Named(String::new()), Moment::Named("x".repeat(64))),
        Request::Rollback { to: Moment::At(Seq(u64::MAX)), keep: None },
        Request::Rollback { to: Moment::Now, keep: Some("tail".into()) },
        Request::Hold {
            group: SnapshotGroup { id: [9; 16], members: u32::MAX },
            members: vec![(None, "monday".to_string()), (Some("tree".to_string()), String::new())],
        },
        Request::NameHeld([8; 16]),
        Request::LetGo([7; 16]),
        Request::MakeVolume { name: "db".to_string(), size_bytes: 1 << 40 },
        Request::Volumes,
        Request::DeleteVolume("db".to_string()),
    ]
}

fn answers() -> Vec<Answer> {
    let apply = ApplyNumbers { applied: 1, accepted: Some(2), extents: 3, stalled: Some("full".to_string()) };
    let log = LogNumbers { sequence: 9, damaged_after: Some(4), apply: Some(apply), ..LogNumbers::default() };
    let status = Status {
        volume_id: [3; 16],
        io_kind: "io_uring".to_string(),
        io_path: "io_uring, 3 files".to_string(),
        direct_io: true,
        poisoned: false,
        volume_device: Some("/dev/x".to_string()),
        objects_device: Some("/dev/y".to_string()),
        log: Some(log),
    };
    let plain = Status { log: None, volume_device: None, poisoned: true, ..status.clone() };
    vec![
        Answer::Status(Box::new(status)),
        Answer::Status(Box::new(plain)),
        Answer::Flushed,
        Answer::Snapshots(vec![snapshot("one"), snapshot("")]),
        Answer::Taken(snapshot("one")),
        Answer::Deleted(snapshot("two")),
        Answer::Locked(snapshot("one")),
        Answer::Unlocked(snapshot("")),
        Answer::Difference { from: Seq(1), to: Seq(2), changed: vec![0..4096, 8192..u64::MAX] },
        Answer::WentBack { to: Seq(1), at: Seq(9) },
        Answer::Held,
        Answer::Named(vec![snapshot("one"), snapshot("")]),
        Answer::LetGo,
        Answer::VolumeMade(volume()),
        Answer::Volumes(vec![volume(), volume()]),
        Answer::VolumeDeleted(volume()),
    ]
}

/// The kind and the body of a message.
fn parts(message: &[u8]) -> (u32, &[u8]) {
    let header = message.first_chunk().unwrap();
    let (kind, length) = ControlHeader::decode(header, ANSWER_BYTES_MAX).unwrap();
    assert_eq!(message.len(), HEADER_BYTES + length);
    (kind, &message[HEADER_BYTES..])
}

fn error() -> Error {
    Error::new("take snapshot", Reason::NoSnapshots { backend: "linear" }).on("disk.img").at(4096)
}

#[test]
fn messages_come_back_as_they_were() {
    for request in requests() {
        let message = request.encode().unwrap();
        let (kind, body) = parts(&message);
        assert_eq!(Request::decode(kind, body).unwrap(), request);
    }
    for answer in answers() {
        let message = Answer::encode(&Ok(answer.clone())).unwrap();
        let (kind, body) = parts(&message);
        assert_eq!(Answer::decode(kind, body).unwrap(), answer);
    }
}

#[test]
fn golden_bytes() {
    let message = Request::Take { name: "ab".to_string(), of: None }.encode().unwrap();
    assert_eq!(message, b"ICTL\x01\0\0\0\x04\0\0\0\x12\0\0\0\x02\0\0\0\0\0\0\0ab\0\0\0\0\0\0\0\0");
    let message = Answer::encode(&Ok(Answer::WentBack { to: Seq(1), at: Seq(0x203) })).unwrap();
    assert_eq!(message, b"ICTL\x01\0\0\0\x07\x01\0\0\x10\0\0\0\x01\0\0\0\0\0\0\0\x03\x02\0\0\0\0\0\0");
}

#[test]
fn an_error_keeps_its_kind_its_text_and_its_place() {
    let there = error();
    let message = Answer::encode(&Err(error())).unwrap();
    let (kind, body) = parts(&message);
    let here = Answer::decode(kind, body).unwrap_err();
    assert_eq!((here.kind(), here.to_string()), (there.kind(), there.to_string()));
    assert_eq!((here.place(), here.operation()), (there.place(), there.operation()));
    assert_eq!(here.reason().name(), "NoSnapshots");
    for kind in Kind::ALL {
        let (name, text) = ("Name".to_string(), "text".to_string());
        let told = Error::new("ask", Reason::Told { kind, name, text });
        let message = Answer::encode(&Err(told)).unwrap();
        let here = Answer::decode(parts(&message).0, parts(&message).1).unwrap_err();
        assert_eq!((here.kind(), here.reason().name().as_str()), (kind, "Name"));
    }
}

#[test]
fn every_body_that_is_cut_or_goes_on_is_refused() {
    let refused = |answer: Result<()>| {
        assert!(matches!(answer.unwrap_err().reason(), Reason::BadMessage { .. }));
    };
    for request in requests() {
        let message = request.encode().unwrap();
        let (kind, body) = parts(&message);
        (0..body.len()).for_each(|end| refused(Request::decode(kind, &body[..end]).map(drop)));
        refused(Request::decode(kind, &[body, &[0]].concat()).map(drop));
    }
    for answer in answers() {
        let message = Answer::encode(&Ok(answer)).unwrap();
        let (kind, body) = parts(&message);
        (0..body.len()).for_each(|end| refused(Answer::decode(kind, &body[..end]).map(drop)));
        refused(Answer::decode(kind, &[body, &[0]].concat()).map(drop));
    }
    let failure = Answer::encode(&Err(error())).unwrap();
    let (kind, body) = parts(&failure);
    (0..body.len()).for_each(|end| refused(Answer::decode(kind, &body[..end]).map(drop)));
}

#[test]
fn no_bytes_make_it_panic_or_take_memory() {
    let mut random = Random::from_seed(5);
    let mut whole: Vec<Vec<u8>> = requests().iter().map(|request| request.encode().unwrap()).collect();
    whole.extend(answers().into_iter().map(|answer| Answer::encode(&Ok(answer)).unwrap()));
    whole.push(Answer::encode(&Err(error())).unwrap());
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..200_000 {
        let mut message = whole[random.below(whole.len() as u64) as usize].clone();
        for _ in 0..random.below(4) {
            let at = random.below(message.len() as u64) as usize;
            // Numbers at their ends are what goes wrong most easily.
            message[at] = [random.next_u64() as u8, 0, 0xff, 0x80][random.below(4) as usize];
        }
        let Ok((kind, _)) = ControlHeader::decode(message.first_chunk().unwrap(), REQUEST_BYTES_MAX) else {
            refused += 1;
            continue;
        };
        let body = &message[HEADER_BYTES..];
        match Request::decode(kind, body) {
            // What is taken is a message: it says the same when it is said again.
            Ok(request) => {
                assert_eq!(parts(&request.encode().unwrap()), (kind, body));
                taken += 1;
            }
            Err(_) => refused += 1,
        }
        if let Ok(answer) = Answer::decode(kind, body) {
            assert_eq!(parts(&Answer::encode(&Ok(answer)).unwrap()), (kind, body));
            taken += 1;
        }
    }
    assert!(taken > 1_000 && refused > 1_000, "{taken} {refused}");
}

#[test]
fn headers_of_another_kind_version_or_length_are_refused_by_name() {
    let header = |magic: [u8; 4], version: u32, kind: u32, body_bytes: u32| {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&magic);
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        bytes[8..12].copy_from_slice(&kind.to_le_bytes());
        bytes[12..].copy_from_slice(&body_bytes.to_le_bytes());
        ControlHeader::decode(&bytes, REQUEST_BYTES_MAX).map_err(|error| error.reason().clone())
    };
    let most = REQUEST_BYTES_MAX as u32;
    assert_eq!(header(MAGIC, VERSION, 1, most), Ok((1, REQUEST_BYTES_MAX)));
    assert!(matches!(header(*b"GET ", VERSION, 1, 0), Err(Reason::BadMessage { .. })));
    assert_eq!(header(MAGIC, 2, 1, 0), Err(Reason::ControlVersion { found: 2, known: VERSION }));
    assert_eq!(header(MAGIC, 2, KIND_FAILED, 0), Ok((KIND_FAILED, 0)));
    let limit = REQUEST_BYTES_MAX as u64;
    let too_long = |length| Err(Reason::TransferTooLong { length, limit });
    assert_eq!(header(MAGIC, VERSION, 1, most + 1), too_long(limit + 1));
    assert_eq!(header(MAGIC, VERSION, 1, u32::MAX), too_long(u32::MAX.into()));
    let long = Request::Take { name: "x".repeat(REQUEST_BYTES_MAX), of: None }.encode().unwrap_err();
    assert!(matches!(long.reason(), Reason::TransferTooLong { .. }));
}
