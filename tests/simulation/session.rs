//! A session with several topics, for what the raw dialect can't do: come and go, publish anywhere, timers.
//!
//! It understands `+TOPIC`, `-TOPIC` and `=TOPIC PAYLOAD`, and sends `*` ten times in a while.

use std::{net::SocketAddr, time::Duration};

use stentor::session::{
    Audience, Context, Failure, Handshake, Message, Refusal, Request, Route, Router, Session, TopicName,
    routes::Routes, text,
};

/// `/multi` is ours, all else is the server's.
pub struct SimRouter(pub Routes);

impl Router for SimRouter {
    fn route(&self, request: &Request, address: SocketAddr) -> Route {
        match request.path.as_str() {
            "/multi" => Route::upgrade(request, Box::new(Multi { ticks: 10 })),
            _ => self.0.route(request, address),
        }
    }
}

struct Multi {
    ticks: u32,
}

impl Session for Multi {
    fn open(&mut self, context: &mut Context<'_>, _handshake: &Handshake<'_>) -> Result<(), Refusal> {
        // The second may be new here: nothing may come before both stand.
        context.subscribe(&topic("t0"));
        context.subscribe(&topic("new"));
        context.set_timer(Some(Duration::from_millis(200)));
        Ok(())
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        let said =
            std::str::from_utf8(message.payload.bytes()).expect("the simulation sends text").to_owned();
        let (command, rest) = said.split_at(1);
        match command {
            "+" => drop(context.subscribe(&topic(rest))),
            "-" => context.unsubscribe(&topic(rest)),
            _ => {
                let (name, payload) = rest.split_once(' ').expect("a topic and a payload");
                context.publish(&topic(name), text(payload), Audience::All);
            }
        }
        Ok(())
    }

    fn timer(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        self.ticks -= 1;
        context.send(text("*"));
        context.set_timer((self.ticks > 0).then_some(Duration::from_millis(300)));
        Ok(())
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a valid name")
}
