//! Many topics with few subscriptions each, over sessions that hold many topics: market data, rooms of a
//! chat.

use std::{net::SocketAddr, sync::Arc};

use stentor::{
    config::Config,
    engine::driver::sim::Personality,
    session::{
        Audience, Context, Failure, Handshake, Message, Refusal, Request, Route, Router, Session, TopicName,
    },
};

use crate::{
    common::{
        client::{BINARY, frame},
        in_memory::World,
    },
    meter::Meter,
};

/// Topics that a session holds.
const HELD: usize = 100;

/// Deliveries of a round: one message to each topic, published in one go. In the round before, which is not counted,
/// each topic has got its first segment.
pub fn deliver(meter: &mut Meter, topics: usize, subscriptions: usize) {
    let sessions = topics * subscriptions / HELD;
    let router = Arc::new(Topics::new(topics));
    let config = Config { max_topics: topics, ..Config::default() };
    let mut world = World::routed(1, Personality::Readiness, &config, router);
    let publisher = world.connect(0, "/publisher");
    for session in 0..sessions {
        world.connect_discarding(0, &format!("/{session}"));
    }
    let mut burst = Vec::new();
    for topic in 0..topics {
        let mut payload = [7; 64];
        payload[..4].copy_from_slice(&u32::try_from(topic).expect("so many topics").to_be_bytes());
        burst.extend(frame(BINARY, &payload));
    }
    assert_eq!(world.net.write(publisher, &burst), burst.len());
    world.settle();
    let (deliveries, sends) = (world.stats(0).deliveries.get(), world.stats(0).sends.get());
    assert_eq!(deliveries, (topics * subscriptions) as u64);
    assert_eq!(world.net.write(publisher, &burst), burst.len());
    meter.count(deliveries, || world.settle());
    assert_eq!(world.stats(0).messages_published.get(), 2 * topics as u64);
    assert_eq!(world.stats(0).deliveries.get(), 2 * deliveries);
    let sends = world.stats(0).sends.get() - sends;
    meter.also("sends per connection", sends as f64 / sessions as f64);
}

/// `/publisher` publishes to any topic, `/N` is the N-th session that holds some.
struct Topics(Arc<[TopicName]>);

impl Topics {
    fn new(topics: usize) -> Topics {
        let name = |topic| TopicName::parse(&format!("topic/{topic}")).expect("a name");
        Topics((0..topics).map(name).collect())
    }
}

impl Router for Topics {
    fn route(&self, request: &Request, _address: SocketAddr) -> Route {
        let topics = Arc::clone(&self.0);
        match request.path[1..].parse() {
            Ok(session) => Route::upgrade(request, Box::new(Holder { topics, session })),
            Err(_) => Route::upgrade(request, Box::new(Publisher { topics })),
        }
    }
}

struct Holder {
    topics: Arc<[TopicName]>,
    session: usize,
}

impl Session for Holder {
    /// Sessions deal the topics out, round by round. Each round begins elsewhere, so that no two sessions hold the same
    /// topics, and a session's own lie far from each other.
    fn open(&mut self, context: &mut Context<'_>, _handshake: &Handshake<'_>) -> Result<(), Refusal> {
        // Prime to any number of topics here: each gets one subscription per round.
        const STEP: usize = 7_919;
        let topics = self.topics.len();
        for nth in self.session * HELD..(self.session + 1) * HELD {
            let round = nth / topics;
            context.subscribe(&self.topics[(nth * STEP + round * 17) % topics]);
        }
        Ok(())
    }

    fn message(&mut self, _context: &mut Context<'_>, _message: Message<'_>) -> Result<(), Failure> {
        Err("it only listens".into())
    }
}

struct Publisher {
    topics: Arc<[TopicName]>,
}

impl Session for Publisher {
    /// The payload begins with the topic's number.
    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        let number = message.payload.bytes().first_chunk().ok_or("no number")?;
        let topic = self.topics.get(u32::from_be_bytes(*number) as usize).ok_or("no such topic")?;
        context.publish(topic, message, Audience::All);
        Ok(())
    }
}
