//! A server of one's own on Stentor's engine: `/greet/{room}` greets everybody by the name they send, tells
//! the room, and says goodbye after half a minute.
//!
//! ```sh
//! cargo run --example greeter
//! ```
//!
//! Then, in a browser's console on `http://127.0.0.1:8080/`:
//! `s = new WebSocket("ws://127.0.0.1:8080/greet/hall"); s.onmessage = m => console.log(m.data); s.onopen = () => s.send("Ada")`

use std::{net::SocketAddr, sync::Arc, time::Duration};

use stentor::{
    config::Config,
    protocol::http::Response,
    server::{Server, signals},
    session::{
        Audience, Close, CloseCode, Context, Failure, Handshake, Message, Refusal, Request, Route, Router,
        Session, TopicName, text,
    },
};

/// One visitor: the fields are the connection's own data.
struct Visitor {
    room: TopicName,
    name: Option<String>,
}

impl Session for Visitor {
    fn open(&mut self, context: &mut Context<'_>, _handshake: &Handshake<'_>) -> Result<(), Refusal> {
        self.room = context.subscribe(&self.room);
        context.set_timer(Some(Duration::from_secs(30)));
        Ok(())
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        let name = message.text().ok_or("a name is text")?.to_owned();
        context.send(text(&format!("Hello, {name}!")));
        context.publish(&self.room, text(&format!("{name} has come in")), Audience::Others);
        self.name = Some(name);
        Ok(())
    }

    fn timer(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        context.close(CloseCode::NORMAL, "goodbye");
        Ok(())
    }

    fn close(&mut self, close: &Close<'_>) {
        let name = self.name.as_deref().unwrap_or("somebody");
        println!("{name} left {} with {} {}", self.room, close.code, close.reason);
    }
}

struct Routes;

impl Router for Routes {
    fn route(&self, request: &Request, _address: SocketAddr) -> Route {
        match request.path.strip_prefix("/greet/").map(TopicName::parse) {
            Some(Ok(room)) => Route::upgrade(request, Box::new(Visitor { room, name: None })),
            Some(Err(error)) => Route::Refuse(Refusal::bad_request("room", error.to_string())),
            None => {
                Route::Respond(Response::new(200, "text/plain; charset=utf-8", "Connect to /greet/ROOM\n"))
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start_with(&Config::default(), Arc::new(Routes))?;
    signals::on_signal(server.drainer())?;
    println!("listening on {:?}", server.addresses());
    server.join()?;
    Ok(())
}
