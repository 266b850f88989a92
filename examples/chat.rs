//! A chat: one room, names, the last hundred messages for newcomers, who comes and who goes. Its page uses `/client.js`,
//! so whoever loses the connection comes back and has missed nothing.
//!
//! ```sh
//! cargo run --example chat                     # http://127.0.0.1:8080/, in two tabs
//! cargo run --example chat -- 0.0.0.0:8080     # for the phones in your network as well
//! ```
//!
//! The page asks with `{"name":"Ada"}` and `{"text":"hello"}`. What everybody gets is made here, so nobody can write under
//! another's name: `{"name":"Ada","text":"hello"}`, and `{"joined":"Ada"}`, `{"renamed":"Ada","to":"Countess"}`,
//! `{"left":"Ada"}`, each with `"here"`, how many there are. The page words them in the reader's language.

use std::{
    collections::HashSet,
    env,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use stentor::{
    config::Config,
    server::{HandleError, Server, ServerHandle, StartError, signals},
    session::{
        Close, Context, Denied, Guard, Message, TopicName,
        dialect::{Content, ErrorCode},
        json::CLIENT_SCRIPT,
        text,
    },
};

/// The room keeps its last messages.
const ROOM: &str = "room";
const HISTORY: u64 = 100;
/// What the server says by itself is of no use later, so it is not kept.
const NOTICES: &str = "notices";

const NAME_CHARS_MAX: usize = 24;
const TEXT_CHARS_MAX: usize = 1000;

/// So many messages at once, and then one a second.
const BURST: f64 = 5.0;

/// A client that is silent for so long gets a ping, and is gone when it stays silent for as long again.
const HEARTBEAT: Duration = Duration::from_secs(10);

// Why the server does not do what a page asks for; the page has words for each. 111 is that it asks too often.
const NAMELESS: ErrorCode = ErrorCode::Own(1001);
const BAD_NAME: ErrorCode = ErrorCode::Own(1002);
const NAME_TAKEN: ErrorCode = ErrorCode::Own(1003);
const BAD_TEXT: ErrorCode = ErrorCode::Own(1004);

/// What all connections share.
struct Chat {
    /// In lower case, so that nobody passes for somebody else by a capital letter.
    names: Mutex<HashSet<String>>,
    server: ServerHandle,
}

impl Chat {
    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
struct Member {
    chat: Arc<Chat>,
    /// Who reads along has none yet.
    name: Option<String>,
    allowance: f64,
    counted_at: Instant,
}

/// What a page may ask for.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Asked {
    Name(String),
    Text(String),
}

impl Member {
    fn new(chat: &Arc<Chat>) -> Member {
        Member { chat: Arc::clone(chat), name: None, allowance: BURST, counted_at: Instant::now() }
    }

    /// Gives this member a name, or another one.
    fn call(&mut self, name: &str) -> Result<Value, Denied> {
        let words: Vec<&str> = name.split_whitespace().collect();
        let is_good = name == words.join(" ")
            && (1..=NAME_CHARS_MAX).contains(&name.chars().count())
            && !name.contains(|char: char| char.is_control() || is_invisible(char));
        if !is_good {
            return Err(Denied::new(
                BAD_NAME,
                "a name has 1 to 24 characters that can be seen, and single spaces",
            ));
        }
        let mut names = self.chat.names();
        let (key, before) = (name.to_lowercase(), self.name.as_ref().map(|name| name.to_lowercase()));
        if before.as_ref() != Some(&key) {
            if !names.insert(key) {
                return Err(Denied::new(NAME_TAKEN, "somebody here has this name"));
            }
            if let Some(before) = before {
                names.remove(&before);
            }
        }
        let here = names.len();
        Ok(match self.name.replace(name.to_owned()) {
            None => json!({ "joined": name, "here": here }),
            Some(before) => json!({ "renamed": before, "to": name, "here": here }),
        })
    }

    /// What everybody gets of a text.
    fn say(&self, text: &str) -> Result<Value, Denied> {
        let name = self.name.as_ref().ok_or(Denied::new(NAMELESS, "say who you are first"))?;
        match text.trim() {
            "" => Err(Denied::new(BAD_TEXT, "there is nothing to read in it")),
            text if text.chars().count() > TEXT_CHARS_MAX => {
                Err(Denied::new(BAD_TEXT, "a message has at most 1,000 characters"))
            }
            text => Ok(json!({ "name": name, "text": text })),
        }
    }

    /// Takes one message from the allowance, which grows by one each second.
    fn spend(&mut self) -> Result<(), Denied> {
        let now = Instant::now();
        let grown = self.allowance + (now - self.counted_at).as_secs_f64();
        (self.allowance, self.counted_at) = (grown.min(BURST), now);
        if self.allowance < 1.0 {
            return Err(Denied::new(ErrorCode::TooManyRequests, "not so fast: wait a second"));
        }
        self.allowance -= 1.0;
        Ok(())
    }
}

/// Characters without a shape of their own: with them two names could look the same. (Letters of different alphabets, and
/// accents that are written in two ways, still can.)
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

impl Guard for Member {
    fn subscribe(&mut self, _: &mut Context<'_>, topic: &TopicName) -> Result<(), Denied> {
        match topic.as_str() {
            ROOM | NOTICES => Ok(()),
            _ => Err(Denied::new(ErrorCode::UnknownTopic, "there is one room here")),
        }
    }

    fn publish(
        &mut self,
        _: &mut Context<'_>,
        topic: &TopicName,
        content: &Content<'_>,
    ) -> Result<Message<'static>, Denied> {
        if topic.as_str() != ROOM {
            return Err(Denied::new(ErrorCode::PermissionDenied, "only the room is written to"));
        }
        let asked = serde_json::from_slice(content.bytes())
            .map_err(|_| Denied::new(ErrorCode::BadRequest, "that is neither a name nor a text"))?;
        self.spend()?;
        let said = match asked {
            Asked::Name(name) => self.call(&name)?,
            Asked::Text(text) => self.say(&text)?,
        };
        Ok(text(&said.to_string()))
    }

    fn close(&mut self, _: &Close<'_>) {
        let Some(name) = &self.name else { return };
        let here = {
            let mut names = self.chat.names();
            names.remove(&name.to_lowercase());
            names.len()
        };
        let left = json!({ "left": name, "here": here });
        // The connection is gone, so the handle says it. Where thousands go at once some may do so without a word.
        if let Ok(room) = TopicName::parse(ROOM) {
            let _ = self.chat.server.publish(&room, text(&left.to_string()));
        }
    }
}

/// Says how many are here, time and again, until the server stops.
fn host(chat: &Chat, every: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let notices = TopicName::parse(NOTICES)?;
    loop {
        thread::sleep(every);
        let notice = json!({ "here": chat.names().len() });
        match chat.server.publish(&notices, text(&notice.to_string())) {
            Ok(()) | Err(HandleError::Full) => {}
            Err(HandleError::NotRunning) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the chat asks of its server.
pub fn config() -> Config {
    Config {
        ping_interval: Some(HEARTBEAT),
        pong_timeout: HEARTBEAT,
        max_message_bytes: 16 * 1024,
        ..Config::default()
    }
}

/// The server, and its own messages `every` so often.
pub fn start(config: Config, every: Duration) -> Result<Server, StartError> {
    let builder = Server::builder().config(config);
    let chat = Arc::new(Chat { names: Mutex::default(), server: builder.handle() });
    let server = builder
        .topic(ROOM, |rule| rule.history = Some(HISTORY))
        .json_route("/ws", {
            let chat = Arc::clone(&chat);
            move |_| Ok(Member::new(&chat))
        })
        .page("/", "text/html; charset=utf-8", include_str!("chat/index.html"))
        .page("/chat.js", "text/javascript; charset=utf-8", include_str!("chat/chat.js"))
        .page("/chat.css", "text/css; charset=utf-8", include_str!("chat/chat.css"))
        .page("/client.js", "text/javascript; charset=utf-8", CLIENT_SCRIPT)
        .start()?;
    thread::spawn(move || {
        if let Err(error) = host(&chat, every) {
            eprintln!("no more notices: {error}");
        }
    });
    Ok(server)
}

/// `chat [ADDRESS [SECONDS]]`: where to listen, and how often the server says something.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let address: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:8080").parse()?;
    let seconds = arguments.next().as_deref().unwrap_or("60").parse()?;
    let is_loopback = address.ip().is_loopback();
    let config = Config { listen: vec![address], open_loopback: is_loopback, ..config() };
    let server = start(config, Duration::from_secs(seconds))?;
    signals::drain_on_signal(server.handle())?;
    println!("listening on http://{}/", server.addresses()[0]);
    server.join()?;
    Ok(())
}
