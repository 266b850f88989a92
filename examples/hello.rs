//! A session with data of its own: who sends a name is greeted by it, and after five seconds it is over.
//!
//! ```sh
//! cargo run --example hello
//! ```
//!
//! Then open `http://127.0.0.1:8080/`. Another address can be given: `-- 127.0.0.1:9000`.

use std::{env, time::Duration};

use stentor::{
    config::Config,
    server::{Server, StartError, signals},
    session::{Close, CloseCode, Context, Failure, Handshake, Message, Refusal, Session, text},
};

/// How long a visit takes.
const VISIT: Duration = Duration::from_secs(5);

/// One visitor: the fields are the connection's own data.
#[derive(Default)]
struct Visitor {
    name: Option<String>,
}

impl Session for Visitor {
    fn open(&mut self, context: &mut Context<'_>, _: &Handshake<'_>) -> Result<(), Refusal> {
        context.set_timer(Some(VISIT));
        Ok(())
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        match message.text() {
            Some(name) => {
                context.send(text(&format!("Hello, {name}!")));
                self.name = Some(name.to_owned());
            }
            None => context.close(CloseCode::UNSUPPORTED, "a name is text"),
        }
        Ok(())
    }

    fn timer(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        context.close(CloseCode::NORMAL, "the visit is over");
        Ok(())
    }

    fn close(&mut self, close: &Close<'_>) {
        let name = self.name.as_deref().unwrap_or("somebody");
        println!("{name} has left: {} {}", close.code, close.reason);
    }
}

/// Says what happens, line by line.
const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>Hello</title>
<link rel="icon" href="data:,">
<form><input placeholder="your name" autofocus> <button>Send</button></form>
<pre></pre>
<script>
  const say = line => document.querySelector("pre").append(line + "\n");
  const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/hello");
  socket.onopen = () => say("open");
  socket.onmessage = message => say("message: " + message.data);
  socket.onerror = () => say("error");
  socket.onclose = close => say(`close: ${close.code} ${close.reason}, wasClean ${close.wasClean}`);
  document.forms[0].onsubmit = submit => {
    submit.preventDefault();
    socket.send(document.querySelector("input").value);
  };
</script>
"#;

/// The server, listening as `config` says.
pub fn start(config: Config) -> Result<Server, StartError> {
    Server::builder()
        .config(config)
        .route("/hello", |_| Ok(Visitor::default()))
        .page("/", "text/html; charset=utf-8", PAGE)
        .start()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:8080".into()).parse()?;
    let server = start(Config { listen: vec![address], ..Config::default() })?;
    signals::drain_on_signal(server.handle())?;
    println!("listening on http://{}/", server.addresses()[0]);
    server.join()?;
    Ok(())
}
