//! See `bodies/frames.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::frames::frames(data));
