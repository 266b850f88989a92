//! A publisher beside the server: a thread makes a price for each symbol every 100 ms, and `/prices/{symbol}`
//! subscribes to one of them. Who does not keep up gets the newest price only (`latest`), and costs nothing.
//!
//! ```sh
//! cargo run --example ticker
//! ```
//!
//! Then open `http://127.0.0.1:8080/`.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use stentor::{
    config::{Config, SlowConsumer},
    server::{HandleError, Server, ServerHandle, StartError, signals},
    session::{
        CloseCode, Context, Failure, Handshake, Message, NameError, Refusal, Session, TopicName, text,
    },
};

/// What is traded.
const SYMBOLS: [&str; 3] = ["AMBER", "SALT", "SILK"];

/// From one price to the next.
const INTERVAL: Duration = Duration::from_millis(100);

/// Somebody who watches one price.
struct Watcher {
    prices: TopicName,
}

impl Session for Watcher {
    fn open(&mut self, context: &mut Context<'_>, _: &Handshake<'_>) -> Result<(), Refusal> {
        self.prices = context.subscribe(&self.prices);
        Ok(())
    }

    fn message(&mut self, context: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> {
        context.close(CloseCode::POLICY, "prices are made here");
        Ok(())
    }
}

fn topic(symbol: &str) -> Result<TopicName, NameError> {
    TopicName::parse(&format!("prices/{symbol}"))
}

/// Makes prices until the server stops.
fn trade(server: &ServerHandle) -> Result<(), Box<dyn std::error::Error>> {
    let mut market = SYMBOLS.map(|symbol| (symbol, 10_000));
    let mut next = Instant::now();
    loop {
        for (symbol, cents) in &mut market {
            // The clock's last digits move the price by −9 to 9 cents.
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            *cents = (*cents + (now.subsec_nanos() / 100 % 19).cast_signed() - 9).max(1);
            let price = format!(
                r#"{{"symbol":"{symbol}","price":{}.{:02},"time":{}}}"#,
                *cents / 100,
                *cents % 100,
                now.as_millis()
            );
            match server.publish(&topic(symbol)?, text(&price)) {
                // The next price comes soon enough.
                Ok(()) | Err(HandleError::Full) => {}
                Err(HandleError::NotRunning) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        // At fixed times, whatever the publishing takes; without catching up after a pause.
        next = (next + INTERVAL).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>Ticker</title>
<style>td { font: 2rem monospace; padding: 0 1rem }</style>
<table></table>
<script>
  for (const symbol of ["AMBER", "SALT", "SILK"]) {
    const row = document.querySelector("table").insertRow();
    row.insertCell().textContent = symbol;
    const cell = row.insertCell();
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/prices/" + symbol);
    socket.onmessage = message => cell.textContent = JSON.parse(message.data).price.toFixed(2);
    socket.onclose = () => cell.textContent = "closed";
  }
</script>
"#;

/// The server, listening as `config` says, and its publisher, which ends with it.
pub fn start(config: Config) -> Result<Server, StartError> {
    let server = Server::builder()
        .config(config)
        .slow_consumer(SlowConsumer::Latest)
        .route("/prices/{symbol}", |opening| match opening.parameter("symbol") {
            symbol if SYMBOLS.contains(&symbol) => Ok(Watcher { prices: topic(symbol)? }),
            _ => Err(Refusal::not_found("symbol", "nobody trades that here")),
        })
        .page("/", "text/html; charset=utf-8", PAGE)
        .start()?;
    let handle = server.handle();
    thread::spawn(move || {
        if let Err(error) = trade(&handle) {
            eprintln!("no more prices: {error}");
        }
    });
    Ok(server)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = start(Config::default())?;
    signals::drain_on_signal(server.handle())?;
    println!("listening on http://{}/", server.addresses()[0]);
    server.join()?;
    Ok(())
}
