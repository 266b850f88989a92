//! No request head, however broken, does more than be refused; what is accepted can be answered, and was not complete
//! any earlier.

use stentor::protocol::{
    http::{HeadLimits, Response, Version, decode_segments, parse_request},
    ws::{check_upgrade, is_upgrade, switching_protocols},
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4096, headers_max: 32 };

/// See the head of this file.
pub fn handshake(data: &[u8]) {
    match parse_request(data, &LIMITS) {
        Ok(None) => assert!(data.len() < LIMITS.head_bytes_max),
        Ok(Some((request, consumed))) => {
            assert!(consumed <= data.len().min(LIMITS.head_bytes_max));
            assert_eq!(parse_request(&data[..consumed], &LIMITS), Ok(Some((request.clone(), consumed))));
            for cut in [consumed - 1, consumed / 2] {
                assert_eq!(parse_request(&data[..cut], &LIMITS), Ok(None), "the first {cut} bytes");
            }
            let _ = decode_segments(&request.path);
            let _ = request.query_pairs().count();
            if let Ok(upgrade) = check_upgrade(&request) {
                assert!(is_upgrade(&request));
                let response = switching_protocols(&upgrade, None);
                assert!(response.starts_with(b"HTTP/1.1 101 ") && response.ends_with(b"\r\n\r\n"));
            }
        }
        Err(refusal) => {
            let response = Response::from(refusal).encode(Version::Http11, true, false);
            assert!(response.starts_with(b"HTTP/1.1 4"));
        }
    }
}
