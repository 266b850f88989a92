//! What holds for a topic: how much of it is kept, who is slow, how large its messages may be.
//!
//! Owns [`Rule`], with every value in effect, and which rule is a topic's ([`Rules::rule_for`]). Where rules come
//! from, and what they fall back to, is the configuration's concern.

use std::{sync::Arc, time::Duration};

use super::{limits::Window, name::TopicName, pattern::Pattern};

/// What happens to a subscriber whose own socket refuses bytes and whose lag passes its topic's bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlowConsumer {
    /// It is closed with 1013 (try again later).
    Disconnect,
    /// It goes on at the head: what lies before is skipped, and counted.
    Skip,
    /// Every subscriber, slow or not, is sent the newest message only, whenever it can be sent something.
    Latest,
}

/// How much of a topic is kept for those who come later. All three bounds hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Messages, at least one.
    pub messages: u64,
    /// Age of the oldest message.
    pub age: Duration,
    /// Bytes; no single message that the topic takes has more.
    pub bytes: u64,
}

/// What holds for the topics of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What happens to a slow consumer.
    pub slow_consumer: SlowConsumer,
    /// How far a subscription may lag.
    pub lag: Window,
    /// Bytes of one message's payload.
    pub max_message_bytes: usize,
    /// What is kept; `None`: nothing.
    pub history: Option<History>,
    /// A text message that each new subscription gets before all others.
    pub welcome: Option<Arc<str>>,
    /// Time between two deliveries to one subscription; `None`: no bound.
    pub min_interval: Option<Duration>,
}

/// The rules of all topics: a list of which the first match counts, and one rule for what matches none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    listed: Vec<(Pattern, Arc<Rule>)>,
    otherwise: Arc<Rule>,
    /// Every topic takes messages of so many bytes.
    taken_by_all: usize,
}

impl Rules {
    /// `listed` in the order in which they are tried, `otherwise` for all topics that match none.
    pub fn new(listed: impl IntoIterator<Item = (Pattern, Rule)>, otherwise: Rule) -> Rules {
        let listed = listed.into_iter().map(|(pattern, rule)| (pattern, Arc::new(rule)));
        let mut rules = Rules { listed: listed.collect(), otherwise: Arc::new(otherwise), taken_by_all: 0 };
        let bounds = rules.all().map(|rule| rule.max_message_bytes);
        rules.taken_by_all = bounds.min().expect("there is a rule for all other topics");
        rules
    }

    /// The rule of a topic. A topic that keeps a clone does not have to ask again.
    pub fn rule_for(&self, topic: &TopicName) -> &Arc<Rule> {
        let name = topic.as_str();
        let listed = self.listed.iter().find(|(pattern, _)| pattern.matches(name));
        listed.map_or(&self.otherwise, |(_, rule)| rule)
    }

    /// Whether a topic takes a message whose payload has so many bytes. Rules are looked through only for those that are
    /// longer than what every topic takes.
    pub fn takes(&self, topic: &TopicName, payload_bytes: usize) -> bool {
        payload_bytes <= self.taken_by_all || payload_bytes <= self.rule_for(topic).max_message_bytes
    }

    /// Every rule: those that are listed, in their order, and the one for all other topics.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.listed.iter().map(|(_, rule)| rule).chain([&self.otherwise])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_counts() {
        let rule = |max_message_bytes| Rule {
            slow_consumer: SlowConsumer::Skip,
            lag: Window { bytes: 1, messages: 1 },
            max_message_bytes,
            history: None,
            welcome: None,
            min_interval: None,
        };
        let pattern = |text| Pattern::parse(text).unwrap();
        let listed = [(pattern("a/b"), rule(1)), (pattern("a/*"), rule(2)), (pattern("*/b"), rule(3))];
        let rules = Rules::new(listed, rule(0));
        for (name, bytes) in [("a/b", 1), ("a/c", 2), ("c/b", 3), ("c", 0), ("a/b/c", 0)] {
            assert_eq!(rules.rule_for(&TopicName::parse(name).unwrap()).max_message_bytes, bytes, "{name}");
        }
        assert_eq!(rules.all().map(|rule| rule.max_message_bytes).collect::<Vec<_>>(), [1, 2, 3, 0]);
    }

    #[test]
    fn each_topic_takes_what_its_rule_says() {
        let rule = |max_message_bytes| Rule {
            slow_consumer: SlowConsumer::Skip,
            lag: Window { bytes: 1, messages: 1 },
            max_message_bytes,
            history: None,
            welcome: None,
            min_interval: None,
        };
        let listed = [("short/*", 10), ("long/*", 1000), ("shortest", 5)];
        let listed = listed.map(|(pattern, bytes)| (Pattern::parse(pattern).unwrap(), rule(bytes)));
        let rules = Rules::new(listed, rule(100));
        for (name, bytes) in [("short/a", 10), ("long/a", 1000), ("shortest", 5), ("other", 100)] {
            let name = TopicName::parse(name).unwrap();
            let longest = (0..2000).filter(|&len| rules.takes(&name, len)).max();
            assert_eq!(
                (longest, (0..=bytes).all(|len| rules.takes(&name, len))),
                (Some(bytes), true),
                "{name}"
            );
        }
    }
}
