//! Worlds differ: small bounds, so that they are met, and all kinds of weather.

use std::time::Duration;

use stentor::{
    broker::pattern::Pattern,
    config::{Config, SlowConsumer, TopicRule},
    engine::driver::sim::{Dice, Weather},
};

use crate::world::LARGE;

const POLICIES: [SlowConsumer; 3] = [SlowConsumer::Disconnect, SlowConsumer::Skip, SlowConsumer::Latest];

/// The name of a topic.
pub fn name(topic: usize) -> String {
    format!("t{topic}")
}

/// What a topic welcomes with, where its rule says that it does.
pub fn welcome(topic: usize) -> String {
    format!("welcome to {topic}")
}

/// A rule for one topic, so that topics of a world differ.
fn rule(dice: &mut Dice, topic: usize, flags: &Config) -> TopicRule {
    let mut rule = TopicRule::new(Pattern::parse(&name(topic)).expect("a name is a pattern"));
    if dice.happens(180) {
        rule.slow_consumer = Some(POLICIES[dice.below(3)]);
    }
    if dice.happens(128) {
        rule.max_message_bytes = Some(flags.max_message_bytes / [1, 2, 5][dice.below(3)]);
    }
    let message = rule.max_message_bytes.unwrap_or(flags.max_message_bytes);
    if dice.happens(128) {
        rule.lag_bytes_max = Some(message.max([1024, 8000, 200_000][dice.below(3)]).min(flags.log_bytes_max));
        rule.lag_messages_max = Some([2, 10, 50, 1000][dice.below(4)]);
    }
    if dice.happens(100) {
        rule.welcome = Some(welcome(topic).into());
    }
    if dice.happens(100) {
        rule.min_interval = Some(Duration::from_millis(10 + dice.below(400) as u64));
    }
    rule
}

/// Small bounds, so that they are met.
pub fn configuration(dice: &mut Dice, workers: usize) -> Config {
    let seconds = |dice: &mut Dice, most: usize| Duration::from_millis(1500 + dice.below(most * 1000) as u64);
    let max_message_bytes = [1024, 5000, 40_000, 100_000][dice.below(4)];
    let lag_bytes_max = max_message_bytes.max([1024, 8000, 200_000][dice.below(3)]);
    let mut config = Config {
        workers,
        max_message_bytes,
        lag_bytes_max,
        lag_messages_max: [2, 10, 50, 1000][dice.below(4)],
        slow_consumer: POLICIES[dice.below(3)],
        log_bytes_max: if dice.happens(80) { lag_bytes_max.max(64 << 10) } else { LARGE },
        assembly_bytes_max: if dice.happens(30) { max_message_bytes * 2 } else { LARGE },
        reply_bytes_max: [100, 2000, 100_000][dice.below(3)],
        mail_len_max: [1, 3, 256][dice.below(3)],
        max_topics: if dice.happens(30) { 3 } else { 1000 },
        accepts_per_tick: 1 + dice.below(5),
        max_connections_per_ip: None,
        handshake_timeout: seconds(dice, 2),
        // Small buffers make slow senders.
        message_timeout: Duration::from_secs(6) + seconds(dice, 2),
        ping_interval: dice.happens(200).then(|| seconds(dice, 3)),
        pong_timeout: seconds(dice, 2) + Duration::from_secs(1),
        write_timeout: seconds(dice, 4) + Duration::from_secs(1),
        close_timeout: seconds(dice, 2),
        drain_timeout: seconds(dice, 2),
        topic_idle_timeout: seconds(dice, 3),
        ..Config::default()
    };
    for topic in 0..4 {
        if dice.happens(100) {
            config.topics.push(rule(dice, topic, &config));
        }
    }
    config
}

pub fn weather(dice: &mut Dice) -> Weather {
    let chance = |dice: &mut Dice, most: usize| if dice.happens(128) { dice.below(most) as u8 } else { 0 };
    Weather {
        short_send: chance(dice, 128),
        pieces: chance(dice, 255),
        late_event: chance(dice, 200),
        false_event: chance(dice, 60),
        accept_fails: chance(dice, 60),
        add_fails: chance(dice, 30),
    }
}
