//! Heartbeats that a protocol has above WebSocket's own: text that is answered with text.
//!
//! What is answered is a whole message, or a whole line of one: servers join messages with newlines. A text that
//! ends with a newline belongs to a protocol of lines (NATS), in which messages begin and end anywhere.

use crate::dialect::template::unescape;
use crate::wire::{Opcode, append_frame};

/// One `--answer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Without the end of its line.
    received: Vec<u8>,
    /// It had one.
    is_line: bool,
    sent: Vec<u8>,
}

impl Answer {
    /// Parses `RECEIVED=SENT`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (received, sent) = text.split_once('=').ok_or("write RECEIVED=SENT, for example 2=3")?;
        let received = unescape(received)?;
        let line = end_of_line(&received);
        let is_line = line.len() < received.len();
        if line.is_empty() {
            return Err("the text to answer is empty".into());
        }
        Ok(Self { received: line.to_vec(), is_line, sent: unescape(sent)? })
    }
}

/// Without a newline at its end, and a carriage return before that.
fn end_of_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Listens for heartbeats on one connection.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    /// The beginning of a line that was cut.
    line: Vec<u8>,
    /// The current line is none to answer: it is too long, or a payload lies in it.
    spoiled: bool,
}

impl Ear {
    /// Takes the next bytes of the stream, `end` if a message ends with them, and appends to `out` the frames that
    /// answer them; how many.
    pub(crate) fn hear(&mut self, answers: &[Answer], mut bytes: &[u8], end: bool, out: &mut Vec<u8>) -> u64 {
        if answers.is_empty() {
            return 0;
        }
        let mut heard = 0;
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(at + 1);
            bytes = rest;
            self.append(answers, line);
            heard += self.finish(answers, out);
        }
        self.append(answers, bytes);
        if end {
            heard += self.end(answers, out);
        }
        heard
    }

    /// A message is over.
    pub(crate) fn end(&mut self, answers: &[Answer], out: &mut Vec<u8>) -> u64 {
        let lines = answers.iter().any(|answer| answer.is_line);
        if lines { 0 } else { self.finish(answers, out) }
    }

    /// A payload lies in the current line.
    #[inline]
    pub(crate) fn spoil(&mut self) {
        self.spoiled = true;
    }

    fn append(&mut self, answers: &[Answer], bytes: &[u8]) {
        let longest = answers.iter().map(|answer| answer.received.len() + 2).max().unwrap_or(0);
        self.spoiled |= self.line.len() + bytes.len() > longest;
        if !self.spoiled {
            self.line.extend_from_slice(bytes);
        }
    }

    /// A line is over.
    fn finish(&mut self, answers: &[Answer], out: &mut Vec<u8>) -> u64 {
        let spoiled = std::mem::take(&mut self.spoiled);
        let line = end_of_line(&self.line);
        let answer = answers.iter().find(|answer| !spoiled && answer.received == line);
        if let Some(answer) = answer {
            append_frame(out, Opcode::Text, fastrand::u32(..).to_ne_bytes(), &[&answer.sent]);
        }
        self.line.clear();
        u64::from(answer.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(answers: &[&str], pieces: &[(&str, bool)]) -> u64 {
        let answers: Vec<Answer> = answers.iter().map(|text| Answer::parse(text).unwrap()).collect();
        let (mut ear, mut out) = (Ear::default(), Vec::new());
        let heard =
            pieces.iter().map(|(piece, end)| ear.hear(&answers, piece.as_bytes(), *end, &mut out)).sum();
        assert_eq!(out.is_empty(), heard == 0);
        heard
    }

    #[test]
    fn whole_messages_and_whole_lines() {
        assert_eq!(hear(&["2=3"], &[("2", true), ("42", true), ("22", true), ("2", true)]), 2);
        assert_eq!(hear(&["{}={}"], &[("{}\n{\"a\":{}}\n{}", true)]), 2);
        assert_eq!(hear(&["ping=pong"], &[("pi", false), ("ng", true), ("pi", true), ("ng", true)]), 1);
        assert_eq!(hear(&[], &[("2", true)]), 0);
    }

    #[test]
    fn lines_cut_between_messages() {
        let nats = r"PING\r\n=PONG\r\n";
        assert_eq!(hear(&[nats], &[("INFO {}\r\nPI", true), ("NG\r\nPING\r", true), ("\n", true)]), 2);
        assert_eq!(hear(&[nats], &[("PING", true)]), 0);
    }

    #[test]
    fn a_payload_in_the_line_spoils_it() {
        let answers = [Answer::parse("2=3").unwrap()];
        let (mut ear, mut out) = (Ear::default(), Vec::new());
        ear.spoil();
        assert_eq!(ear.hear(&answers, b"2", true, &mut out), 0);
        assert_eq!(ear.hear(&answers, b"2", true, &mut out), 1);
    }

    #[test]
    fn mistakes() {
        for text in ["2", "=3", r"\n=x", r"\xq=1"] {
            assert!(Answer::parse(text).is_err(), "{text}");
        }
    }
}
