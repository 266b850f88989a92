//! A server to compare, as its `peer.toml` describes it: how to start it, and how to speak to it.
//!
//! Owns the file's keys, where peers are found, and whether one can run here. Does not start anything but the
//! command that prints a version.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use super::flags::Flags;
use super::load::Load;
use crate::failure::Failure;

/// Directory of the peers, below the working directory or any above it.
const PEERS: &str = "loadtest/peers";

/// How long the command that prints a version may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// What `peer.toml` may say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    about: String,
    #[serde(default)]
    install: String,
    #[serde(default)]
    requires: Vec<String>,
    #[serde(default)]
    version: Vec<String>,
    start: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    options: String,
    fanout: Option<Flags>,
    echo: Option<Flags>,
    idle: Option<Flags>,
    handshakes: Option<Flags>,
    topics: Option<Flags>,
}

/// A server to compare.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its directory's name.
    pub(super) name: String,
    /// One line for people.
    pub(super) about: String,
    /// What was set so that it is equal to the others, in words.
    pub(super) options: String,
    /// The command, and its arguments, placeholders unfilled.
    pub(super) start: Vec<String>,
    /// Further environment variables, placeholders unfilled.
    pub(super) environment: BTreeMap<String, String>,
    install: String,
    requires: Vec<String>,
    version: Vec<String>,
    flags: Vec<(Load, Flags)>,
    /// `{peer}`: where its file is.
    directory: PathBuf,
    /// `{peers}`: where all peers are.
    peers: PathBuf,
}

impl Peer {
    /// Reads a `peer.toml`, or whatever its name is.
    pub(super) fn read(file: &Path, peers: Option<&Path>) -> Result<Self, Failure> {
        let place = file.display().to_string();
        let text = fs::read_to_string(file).map_err(Failure::system(format!("cannot read {place}")))?;
        let file = file.canonicalize().map_err(Failure::system(format!("cannot find {place}")))?;
        let directory = file.parent().unwrap_or(Path::new("/"));
        let named = if file.ends_with("peer.toml") { directory.file_name() } else { file.file_stem() };
        let name = named.unwrap_or_default().to_string_lossy().into_owned();
        let peers = peers.or(directory.parent()).unwrap_or(directory);
        Self::parse(&text, name, directory, peers, &place)
    }

    fn parse(text: &str, name: String, directory: &Path, peers: &Path, place: &str) -> Result<Self, Failure> {
        let description: Description =
            toml::from_str(text).map_err(|error| Failure::Usage(format!("{place}: {error}")))?;
        let Description { fanout, echo, idle, handshakes, topics, .. } = description;
        let mut flags = Vec::new();
        for (load, section) in Load::ALL.into_iter().zip([fanout, echo, idle, handshakes, topics]) {
            let Some(section) = section else { continue };
            section.check(load, &format!("{place}: [{load}]"))?;
            if section.get("url").is_none() {
                return Err(Failure::Usage(format!("{place}: [{load}] needs a url")));
            }
            flags.push((load, section));
        }
        if description.start.is_empty() {
            return Err(Failure::Usage(format!("{place}: start is empty: name the command to run")));
        }
        Ok(Self {
            name,
            about: description.about,
            options: description.options,
            start: description.start,
            environment: description.environment,
            install: description.install,
            requires: description.requires,
            version: description.version,
            flags,
            directory: directory.into(),
            peers: peers.into(),
        })
    }

    /// A server that this program knows without a file; every load's URL is `url`.
    pub(super) fn known(name: &str, about: String, start: Vec<String>, url: &str, version: &str) -> Self {
        let mut flags = Flags::default();
        flags.set("url", super::flags::Value::Text(url.into()));
        Self {
            name: name.into(),
            about,
            options: String::new(),
            start,
            environment: BTreeMap::new(),
            install: String::new(),
            requires: Vec::new(),
            version: vec!["echo".into(), version.into()],
            flags: vec![(Load::Fanout, flags)],
            directory: "/".into(),
            peers: "/".into(),
        }
    }

    /// How to speak to it, placeholders unfilled; `None` if it cannot do that.
    pub(super) fn flags(&self, load: Load) -> Option<&Flags> {
        self.flags.iter().find(|(known, _)| *known == load).map(|(_, flags)| flags)
    }

    /// Commands that it has a section for.
    pub(super) fn loads(&self) -> impl Iterator<Item = Load> {
        self.flags.iter().map(|(load, _)| *load)
    }

    /// Fills `{peer}`, `{peers}` and `{bin}`, the directory of this program.
    pub(super) fn fill(&self, text: &str) -> String {
        let program = env::current_exe().unwrap_or_default();
        let bin = program.parent().unwrap_or(Path::new("")).to_string_lossy();
        text.replace("{peers}", &self.peers.to_string_lossy())
            .replace("{peer}", &self.directory.to_string_lossy())
            .replace("{bin}", &bin)
    }

    /// Why it cannot run here, and what to type; `None` if it can.
    pub(super) fn skipped(&self) -> Option<String> {
        let missing = self.requires.iter().map(|needed| self.fill(needed)).find(|needed| !exists(needed))?;
        let install = self.fill(&self.install);
        Some(if install.is_empty() {
            format!("{missing} is not there")
        } else {
            format!("{missing} is not there; install: {install}")
        })
    }

    /// The first line that its version command prints; empty if there is none.
    pub(super) fn version(&self) -> String {
        let words: Vec<String> = self.version.iter().map(|word| self.fill(word)).collect();
        let Some((program, arguments)) = words.split_first() else { return String::new() };
        output_within(Command::new(program).args(arguments), VERSION_TIMEOUT).map_or_else(
            |error| format!("unknown: {program}: {error}"),
            |texts| {
                let mut lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
                lines.find(|line| !line.is_empty()).unwrap_or_default().to_string()
            },
        )
    }
}

/// What a command prints, on standard output and on standard error; it and its children are killed after `limit`.
fn output_within(command: &mut Command, limit: Duration) -> io::Result<[String; 2]> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn()?;
    let group = Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(limit) else {
        let _ = kill_process_group(group, Signal::KILL);
        return Err(io::Error::other(format!("it did not end within {limit:?}")));
    };
    let output = output?;
    Ok([output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()))
}

/// A path if it has a slash, otherwise a command on `PATH`.
fn exists(needed: &str) -> bool {
    if needed.contains('/') {
        return Path::new(needed).exists();
    }
    let executable = |path: PathBuf| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| executable(dir.join(needed))))
}

/// Where peers are: `given`, or `$STENTOR_PEERS`, or `loadtest/peers` from the working directory upwards.
pub(super) fn directory(given: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    let named = given.map(Into::into).or_else(|| env::var_os("STENTOR_PEERS").map(PathBuf::from));
    if let Some(named) = named {
        let found =
            named.canonicalize().map_err(Failure::system(format!("no peers at {}", named.display())))?;
        return Ok(Some(found));
    }
    let here = env::current_dir().map_err(Failure::system("no working directory"))?;
    Ok(here.ancestors().map(|above| above.join(PEERS)).find(|peers| peers.is_dir()))
}

/// Reads the peers that are asked for by name, directory or file; all of the directory if none is.
pub(super) fn select(asked: &[String], peers: Option<&Path>) -> Result<Vec<Peer>, Failure> {
    if asked.is_empty() {
        return all(peers.ok_or_else(nowhere)?);
    }
    asked
        .iter()
        .map(|asked| {
            let path = Path::new(asked);
            if path.is_file() {
                return Peer::read(path, peers);
            }
            if asked.contains('/') {
                return Peer::read(&path.join("peer.toml"), peers);
            }
            let peers = peers.ok_or_else(nowhere)?;
            let file = peers.join(asked).join("peer.toml");
            if file.is_file() {
                return Peer::read(&file, Some(peers));
            }
            let names: Vec<String> = all(peers)?.into_iter().map(|peer| peer.name).collect();
            Err(Failure::Usage(format!(
                "no peer {asked:?} in {}; there are: {}",
                peers.display(),
                names.join(", ")
            )))
        })
        .collect()
}

fn nowhere() -> Failure {
    Failure::Usage(format!(
        "no peers: there is no {PEERS} here or above; name them by --peers-dir, or by --peer FILE.toml"
    ))
}

/// All peers of a directory by name, but `stentor` first: ratios are to the first one.
fn all(peers: &Path) -> Result<Vec<Peer>, Failure> {
    let entries = fs::read_dir(peers).map_err(Failure::system(format!("cannot read {}", peers.display())))?;
    let files = entries.flatten().map(|entry| entry.path().join("peer.toml")).filter(|file| file.is_file());
    let mut found: Vec<Peer> =
        files.map(|file| Peer::read(&file, Some(peers))).collect::<Result<_, Failure>>()?;
    found.sort_by_key(|peer| (peer.name != "stentor", peer.name.clone()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        about = "a"
        install = "make {peers}/x"
        requires = ["sh", "{peer}/missing"]
        version = ["echo", "v1"]
        start = ["{peer}/server", "{port}"]
        environment = { NAME = "value" }
        options = "none"
        [fanout]
        url = "ws://127.0.0.1:{port}/"
        [echo]
        url = "ws://127.0.0.1:{port}/echo"
    "#;

    fn parse(text: &str) -> Result<Peer, String> {
        Peer::parse(text, "one".into(), Path::new("/p/one"), Path::new("/p"), "/p/one/peer.toml")
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_file() {
        let peer = parse(WHOLE).unwrap();
        assert_eq!(peer.skipped().unwrap(), "/p/one/missing is not there; install: make /p/x");
        assert_eq!((peer.version().as_str(), peer.environment["NAME"].as_str()), ("v1", "value"));
        assert_eq!(peer.fill(&peer.start[0]), "/p/one/server");
        assert_eq!(peer.loads().collect::<Vec<_>>(), [Load::Fanout, Load::Echo]);
        assert!(peer.flags(Load::Echo).is_some() && peer.flags(Load::Idle).is_none());
    }

    #[test]
    fn mistakes_are_named_with_the_file() {
        for (text, what) in [
            (WHOLE.replace("install", "instal"), "unknown field `instal`"),
            (WHOLE.replace("about", "# "), "missing field `about`"),
            (
                WHOLE.replace("[echo]", "[echo]\nsubscribers = 1"),
                "[echo]: `stentor-load echo` has no flag --subscribers",
            ),
            (format!("{WHOLE}\n[idle]\n"), "[idle] needs a url"),
            ("about = \"\"\nstart = []".into(), "start is empty"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with("/p/one/peer.toml: ") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_version_command_that_does_not_end_is_killed() {
        let began = std::time::Instant::now();
        let error = output_within(Command::new("sleep").arg("60"), Duration::from_millis(50))
            .unwrap_err()
            .to_string();
        assert!(error.contains("did not end within 50ms") && began.elapsed() < Duration::from_secs(30));
        let texts = output_within(Command::new("echo").arg("v1"), VERSION_TIMEOUT).unwrap();
        assert_eq!(texts, ["v1\n", ""]);
    }

    #[test]
    fn commands_are_sought_on_the_path() {
        assert!(exists("sh") && exists("/") && !exists("no-such-command-here") && !exists("/no/such/file"));
    }
}
