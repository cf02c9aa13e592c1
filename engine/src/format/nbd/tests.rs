//! Bytes as the protocol's document gives them, field by field, and a fuzz of everything that reads what came from the wire.

use crate::runtime::Random;

use super::*;

/// Magic numbers and layouts as in doc/proto.md, written out by hand.
#[test]
fn golden_bytes() {
    let greeting = Greeting::new(FIXED_NEWSTYLE | NO_ZEROES);
    assert_eq!(greeting.as_bytes(), b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(OptionHeader::new(OPT_LIST, 0).as_bytes(), b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    assert_eq!(
        OptionReply::new(OPT_GO, REP_ERR_UNKNOWN, 2).as_bytes(),
        [&[0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9][..], &[0, 0, 0, 7, 0x80, 0, 0, 6, 0, 0, 0, 2]]
            .concat()
    );
    assert_eq!(
        encode_go("disk", &[INFO_EXPORT, INFO_BLOCK_SIZE]).unwrap(),
        b"\0\0\0\x04disk\0\x02\0\0\0\x03",
        "name, number of questions, questions"
    );
    assert_eq!(encode_server("disk"), b"\0\0\0\x04disk");
    let export =
        ExportInfo { information: INFO_EXPORT.into(), size_bytes: (1 << 30).into(), flags: 0x16d.into() };
    assert_eq!(export.as_bytes(), [0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x01, 0x6d]);
    let blocks = BlockSizeInfo {
        information: INFO_BLOCK_SIZE.into(),
        minimum_bytes: 1.into(),
        preferred_bytes: 4096.into(),
        maximum_bytes: (32 << 20).into(),
    };
    assert_eq!(blocks.as_bytes(), [0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]);
    assert_eq!(
        Request::new(CMD_WRITE, CMD_FLAG_FUA, 0x0102_0304_0506_0708, 1 << 40, 4096).as_bytes(),
        [
            &[0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8][..],
            &[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]
        ]
        .concat()
    );
    assert_eq!(
        SimpleReply::new(EIO, 9).as_bytes(),
        [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9]
    );
    assert_eq!(
        Chunk::new(CHUNK_DONE, CHUNK_OFFSET_DATA, 9, 4104).as_bytes(),
        [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0x10, 8]
    );
    let hole = Hole { offset_bytes: 512.into(), length_bytes: 4096.into() };
    assert_eq!(hole.as_bytes(), [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0x10, 0]);
    assert_eq!(CHUNK_ERROR, 0x8001);
    assert_eq!(CHUNK_ERROR_OFFSET, 0x8002);
}

#[test]
fn what_was_encoded_is_decoded() {
    let greeting = Greeting::new(FIXED_NEWSTYLE).as_bytes().try_into().unwrap();
    assert_eq!(Greeting::decode(greeting).unwrap(), FIXED_NEWSTYLE);
    let option = OptionHeader::new(OPT_INFO, 77).as_bytes().try_into().unwrap();
    assert_eq!(OptionHeader::decode(option).unwrap(), (OPT_INFO, 77));
    let reply: [u8; 20] = OptionReply::new(OPT_INFO, REP_INFO, 12).as_bytes().try_into().unwrap();
    assert_eq!(OptionReply::decode(reply, OPT_INFO).unwrap(), (REP_INFO, 12));
    assert!(OptionReply::decode(reply, OPT_GO).is_err(), "of another option");
    let data = encode_go("a b", &[INFO_EXPORT, INFO_NAME]).unwrap();
    assert_eq!(decode_go(&data).unwrap(), ("a b", vec![INFO_EXPORT, INFO_NAME]));
    assert!(encode_go(&"n".repeat(TEXT_BYTES_MAX + 1), &[]).is_err());
    let mut data = encode_server("a");
    data.extend_from_slice(b"a text");
    assert_eq!(decode_server(&data).unwrap(), ("a", "a text"));
    let request = Request::new(CMD_READ, 0, 3, 4096, 512);
    assert_eq!(Request::decode(request.as_bytes().try_into().unwrap()).unwrap(), request);
    let chunk = Chunk::new(0, CHUNK_NONE, 1, 0);
    assert_eq!(Reply::decode(chunk.as_bytes()).unwrap(), Reply::Chunk(chunk));
    assert!(!chunk.is_last() && !chunk.is_failure() && Chunk::new(1, CHUNK_ERROR, 1, 6).is_failure());
    let simple = SimpleReply::new(0, 1);
    assert_eq!(Reply::decode(simple.as_bytes()).unwrap(), Reply::Simple(simple));
    assert_eq!(Reply::header_bytes([0x67, 0x44, 0x66, 0x98]).unwrap(), 16);
    let failure = [0, 0, 0, 28, 0, 4, b'f', b'u', b'l', b'l', 0, 0, 0, 0, 0, 0, 2, 0];
    assert_eq!(decode_failure(CHUNK_ERROR_OFFSET, &failure).unwrap(), (ENOSPC, "full", Some(512)));
    assert_eq!(decode_failure(CHUNK_ERROR, &failure[..10]).unwrap(), (ENOSPC, "full", None));
}

#[test]
fn what_a_server_may_not_say_is_refused() {
    let oldstyle = [&MAGIC.to_be_bytes()[..], &OLDSTYLE_MAGIC.to_be_bytes(), &[0, 1]].concat();
    let told = Greeting::decode(oldstyle.try_into().unwrap()).unwrap_err().to_string();
    assert!(told.contains("oldstyle"), "{told}");
    assert!(Greeting::decode(Greeting::new(0).as_bytes().try_into().unwrap()).is_err());
    assert!(Greeting::decode(*b"SSH-2.0-OpenSSH_9.").is_err());
    let long = OptionReply::new(OPT_GO, REP_INFO, u32::MAX).as_bytes().try_into().unwrap();
    assert!(matches!(
        OptionReply::decode(long, OPT_GO).unwrap_err().reason(),
        Reason::TransferTooLong { .. }
    ));
    let blocks = |minimum: u32, preferred: u32, maximum: u32| {
        let data = [&[0, 3][..], &minimum.to_be_bytes(), &preferred.to_be_bytes(), &maximum.to_be_bytes()];
        Information::decode(&data.concat())
    };
    assert!(blocks(512, 4096, u32::MAX).is_ok());
    for (minimum, preferred, maximum) in
        [(0, 4096, 8192), (3, 4096, 8192), (4096, 512, 8192), (512, 512, 1), (1 << 17, 1 << 17, u32::MAX)]
    {
        assert!(blocks(minimum, preferred, maximum).is_err(), "{minimum} {preferred} {maximum}");
    }
    assert_eq!(Information::decode(&[0, 9, 1, 2, 3]).unwrap(), Information::Other(9));
    assert!(decode_failure(CHUNK_ERROR, &[0, 0, 0, 0, 0, 0]).is_err(), "error number 0");
    assert!(decode_failure(CHUNK_ERROR, &[0, 0, 0, 5, 0, 9, b'x']).is_err(), "text beyond the payload");
}

/// Neither panics nor takes more memory than it was given: what is decoded is no longer than its bytes.
#[test]
fn damaged_and_random_bytes_are_decoded_or_refused() {
    let whole = [
        Greeting::new(3).as_bytes().to_vec(),
        OptionHeader::new(OPT_GO, 20).as_bytes().to_vec(),
        OptionReply::new(OPT_GO, REP_INFO, 12).as_bytes().to_vec(),
        encode_go("export", &[0, 1, 2, 3]).unwrap(),
        [encode_server("export"), b"about it".to_vec()].concat(),
        Request::new(CMD_WRITE, 1, 7, 4096, 4096).as_bytes().to_vec(),
        SimpleReply::new(5, 7).as_bytes().to_vec(),
        Chunk::new(1, CHUNK_ERROR, 7, 10).as_bytes().to_vec(),
        [0, 0, 0, 28, 0, 4, b'f', b'u', b'l', b'l', 0, 0, 0, 0, 0, 0, 2, 0].to_vec(),
        [0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0].to_vec(),
    ];
    let mut random = Random::from_seed(11);
    let (mut taken, mut refused) = (0_u64, 0_u64);
    for _ in 0..200_000 {
        let mut bytes = whole[random.below(whole.len() as u64) as usize].clone();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random.next_u64() as u8][random.below(6) as usize];
        }
        match random.below(8) {
            0 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
            1 => bytes.extend((0..random.below(40)).map(|number| number as u8)),
            _ => {}
        }
        for is_taken in decode_all(&bytes) {
            *if is_taken { &mut taken } else { &mut refused } += 1;
        }
    }
    assert!(taken > 100_000 && refused > 100_000, "{taken} {refused}");
}

fn decode_all(bytes: &[u8]) -> Vec<bool> {
    fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
        let mut all = [0; N];
        let length = bytes.len().min(N);
        all[..length].copy_from_slice(&bytes[..length]);
        all
    }
    let reply = Reply::header_bytes(fixed(bytes));
    let option = OptionHeader::decode(fixed(bytes));
    let answer = OptionReply::decode(fixed(bytes), OPT_GO);
    for length in [option.as_ref().map_or(0, |option| option.1), answer.as_ref().map_or(0, |answer| answer.1)]
    {
        assert!(length <= OPTION_BYTES_MAX);
    }
    let go = decode_go(bytes);
    if let Ok((name, questions)) = &go {
        assert_eq!(name.len() + 2 * questions.len() + 6, bytes.len());
    }
    let server = decode_server(bytes);
    if let Ok((name, about)) = &server {
        assert_eq!(name.len() + about.len() + 4, bytes.len());
    }
    let failure = decode_failure(CHUNK_ERROR_OFFSET, bytes);
    if let Ok((error, text, _)) = &failure {
        assert!(*error != 0 && text.len() + 14 == bytes.len());
    }
    vec![
        Greeting::decode(fixed(bytes)).is_ok(),
        option.is_ok(),
        answer.is_ok(),
        Request::decode(fixed(bytes)).is_ok(),
        reply.is_ok(),
        Reply::decode(bytes).is_ok(),
        Information::decode(bytes).is_ok(),
        go.is_ok(),
        server.is_ok(),
        failure.is_ok(),
        decode_failure(CHUNK_ERROR, bytes).is_ok(),
    ]
}
