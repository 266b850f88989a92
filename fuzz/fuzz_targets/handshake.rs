//! No request head, however broken, does more than be refused; and what is accepted can be answered.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::protocol::{
    http::{HeadLimits, Response, Version, decode_segments, parse_request},
    ws::{check_upgrade, switching_protocols},
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4096, headers_max: 32 };

fuzz_target!(|data: &[u8]| {
    match parse_request(data, &LIMITS) {
        Ok(None) => assert!(data.len() < LIMITS.head_bytes_max),
        Ok(Some((request, consumed))) => {
            assert!(consumed <= data.len());
            let _ = decode_segments(&request.path);
            let _ = request.query_pairs().count();
            if let Ok(upgrade) = check_upgrade(&request) {
                let response = switching_protocols(&upgrade, None);
                assert!(response.ends_with(b"\r\n\r\n"));
            }
        }
        Err(refusal) => {
            let response = Response::from(refusal).encode(Version::Http11, true, false);
            assert!(response.starts_with(b"HTTP/1.1 4"));
        }
    }
});
