//! The smallest server: `/echo` sends back what it gets.
//!
//! ```sh
//! cargo run --example echo
//! ```
//!
//! Then, in a browser's console on `http://127.0.0.1:8080/`:
//! `s = new WebSocket("ws://127.0.0.1:8080/echo"); s.onmessage = m => console.log(m.data); s.onopen = () => s.send("hello")`

use stentor::{
    config::Config,
    server::{Server, StartError, signals},
    session::{Context, Failure, Message, Session},
};

/// One connection. It has nothing to remember.
struct Echo;

impl Session for Echo {
    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        context.send(message);
        Ok(())
    }
}

/// The server, listening as `config` says.
pub fn start(config: Config) -> Result<Server, StartError> {
    Server::builder()
        .config(config)
        .route("/echo", |_| Ok(Echo))
        .page("/", "text/plain; charset=utf-8", "Connect a WebSocket to /echo\n")
        .start()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = start(Config::default())?;
    signals::drain_on_signal(server.handle())?;
    println!("listening on http://{}/", server.addresses()[0]);
    server.join()?;
    Ok(())
}
