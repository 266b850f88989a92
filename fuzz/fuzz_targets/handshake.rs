//! See `bodies/handshake.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::handshake::handshake(data));
