//! See `bodies/broker_operations.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::broker_operations::broker_operations(data));
