//! Pings and timeouts.

use super::*;

#[test]
fn who_connects_in_one_moment_is_not_pinged_in_one_moment() {
    for after_start in [Duration::ZERO, Duration::from_secs(60)] {
        let ping_interval = Some(Duration::from_secs(25));
        let mut test = Test::new(Personality::Readiness, &Config { ping_interval, ..Config::default() });
        test.pass(after_start);
        (0..1000).for_each(|_| _ = test.connect("/ws/t"));
        let mut pings = Vec::new();
        for _ in 0..26 {
            let before = test.count("pings_sent");
            test.pass(Duration::from_secs(1));
            pings.push(test.count("pings_sent") - before);
        }
        assert_eq!(pings.iter().sum::<u64>(), 1000);
        // Spread evenly over half the interval, 80 would come in each second.
        assert!(pings.iter().all(|&pings| pings < 200), "{after_start:?}: {pings:?}");
    }
}

#[test]
fn while_the_socket_is_full_only_the_newest_ping_is_answered() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let client = test.connect("/ws/t");
        let ping = |payload: u8| [0x89, 0x81, 0, 0, 0, 0, payload];
        test.read(client, 4);
        for payload in 0..200 {
            test.write(client, &ping(payload));
            test.ticks(2);
        }
        let first = test.read(client, LARGE);
        test.ticks(2);
        let got = frames(&[first, test.read(client, LARGE)].concat());
        // One fits, the second has begun: it is finished, and was the last to be queued before.
        assert_eq!(got, [(PONG, vec![0]), (PONG, vec![1]), (PONG, vec![199])], "{personality:?}");
        assert_eq!(test.count("pings_superseded"), 197);
        test.write(client, &[ping(7), ping(8)].concat());
        test.ticks(2);
        assert_eq!(frames(&test.read(client, LARGE)).len(), 2, "with room each is answered");
    }
}

#[test]
fn pings_of_one_second_leave_together_and_none_is_late() {
    for pong_timeout in [Duration::from_secs(10), Duration::from_secs(60)] {
        let ping_interval = Some(Duration::from_secs(25));
        let config = Config { ping_interval, pong_timeout, ..Config::default() };
        let mut test = Test::new(Personality::Readiness, &config);
        let clients: Vec<SocketId> = (0..100).map(|_| test.connect("/ws/t")).collect();
        let mut pinged = vec![Vec::new(); clients.len()];
        for tick in 0..1000 {
            test.pass(Duration::from_millis(100));
            for (client, pinged) in clients.iter().zip(&mut pinged) {
                if !test.read(*client, LARGE).is_empty() {
                    pinged.push(tick);
                    test.write(*client, &[0x8a, 0x80, 0, 0, 0, 0]);
                }
            }
        }
        let tenths: Vec<u32> = pinged.iter().flatten().map(|tick| tick % 10).collect();
        assert!(tenths.iter().all(|&at| at == tenths[0]), "{pinged:?}");
        for pinged in pinged {
            assert!((3..=4).contains(&pinged.len()) && pinged[0] <= 251, "{pinged:?}");
            assert!(pinged.windows(2).all(|two| two[1] - two[0] == 250), "{pinged:?}");
        }
    }
}

#[test]
fn a_late_pong_does_not_make_the_next_ping_late() {
    let (ping_interval, pong_timeout) = (Some(Duration::from_secs(2)), Duration::from_secs(30));
    let mut test =
        Test::new(Personality::Readiness, &Config { ping_interval, pong_timeout, ..Config::default() });
    let client = test.connect("/ws/t");
    let mut pinged = Vec::new();
    let mut answer_at = None;
    for tick in 0..200 {
        test.pass(Duration::from_millis(100));
        if !test.read(client, LARGE).is_empty() {
            pinged.push(tick);
            // Behind the look that the next ping was due at, had the pong come at once.
            answer_at = Some(tick + 21);
        }
        if answer_at == Some(tick) {
            test.write(client, &[0x8a, 0x80, 0, 0, 0, 0]);
        }
    }
    // 21 ticks until the answer, and the interval from there; both begin within a tick.
    assert!(pinged.len() >= 4 && pinged.windows(2).all(|two| two[1] - two[0] <= 21 + 20 + 2), "{pinged:?}");
}

#[test]
fn nobody_is_timed_out_for_the_servers_own_pause() {
    let config = Config {
        ping_interval: Some(Duration::from_secs(2)),
        pong_timeout: Duration::from_secs(2),
        message_timeout: Duration::from_secs(2),
        ..Config::default()
    };
    let mut test = Test::new(Personality::Readiness, &config);
    let (idle, sender) = (test.connect("/ws/t"), test.connect("/ws/t?mode=pub"));
    test.pass(Duration::from_millis(2500));
    let asked =
        |test: &mut Test, client| frames(&test.read(client, LARGE)).iter().any(|(first, _)| *first == 0x89);
    assert!(asked(&mut test, idle), "a ping is out");
    test.write(sender, &frame(b"half a message")[..9]);
    test.ticks(2);
    // The worker does not run. What its clients send meanwhile has not arrived when it runs again.
    test.net.advance(Duration::from_secs(30));
    test.ticks(2);
    assert!(!test.net.is_gone(idle) && !test.net.is_gone(sender));
    test.write(idle, &[0x8a, 0x80, 0, 0, 0, 0]);
    test.write(sender, &frame(b"half a message")[9..]);
    test.ticks(2);
    test.pass(Duration::from_millis(1500));
    assert!(!test.net.is_gone(idle) && test.read(idle, LARGE).starts_with(&served(b"half a message")));
    test.pass(Duration::from_secs(5));
    assert!(test.net.is_gone(idle), "but who stays silent goes");
}

/// Pings that fall due together, on a worker that is slow to send them: a client's time begins when its ping leaves.
#[test]
fn nobody_is_timed_out_for_a_ping_that_waits_to_be_sent() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let config = Config {
            ping_interval: Some(Duration::from_secs(10)),
            pong_timeout: Duration::from_secs(1),
            ..Config::default()
        };
        let mut test = Test::new(personality, &config);
        let clients: Vec<_> = (0..500).map(|_| test.connect("/ws/t?mode=sub")).collect();
        let silent = test.connect("/ws/t?mode=sub");
        // The worker does not run, and all are due when it does.
        test.net.advance(Duration::from_secs(15));
        let mut pinged = 0;
        for _ in 0..30 {
            test.net.advance(Duration::from_millis(400));
            test.ticks(1);
            for &client in &clients {
                if frames(&test.read(client, LARGE)).iter().any(|(first, _)| *first == 0x89) {
                    pinged += 1;
                    test.write(client, &[0x8a, 0x80, 0, 0, 0, 0]);
                }
            }
        }
        assert!(pinged >= clients.len(), "{pinged}");
        assert!(!clients.iter().any(|client| test.net.is_gone(*client)), "{personality:?}");
        assert!(test.net.is_gone(silent), "{personality:?}: but who stays silent goes");
    }
}

#[test]
fn a_slow_reader_whose_ping_waits_behind_its_bytes_is_alive() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let config = Config {
            ping_interval: Some(Duration::from_secs(2)),
            pong_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(3),
            ..Config::default()
        };
        let mut test = Test::new(personality, &config);
        let (reader, publisher) = (test.connect("/ws/t?mode=sub"), test.connect("/ws/t?mode=pub"));
        test.read(reader, 1000);
        test.write(publisher, &frame(&[5; 30_000]));
        test.ticks(2);
        // 1,000 bytes a second: the ping is behind 29,000.
        let mut got = 0;
        for _ in 0..29 {
            got += test.read(reader, 1000).len();
            test.pass(Duration::from_secs(1));
            assert!(!test.net.is_gone(reader), "{personality:?} after {got} bytes");
        }
        // Once nothing is taken any more, it is found out.
        test.pass(Duration::from_secs(6));
        assert!(test.net.is_gone(reader), "{personality:?}");
    }
}

#[test]
fn a_stall_that_is_over_counts_for_no_write_timeout() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let config = Config {
            write_timeout: Duration::from_secs(5),
            ping_interval: None,
            lag_bytes_max: 4096,
            max_message_bytes: 4096,
            ..Config::default()
        };
        let mut test = Test::new(personality, &config);
        let (reader, publisher) = (test.connect("/ws/t?mode=sub"), test.connect("/ws/t?mode=pub"));
        test.read(reader, 10);
        test.write(publisher, &frame(&[1; 100]));
        test.ticks(2);
        for _ in 0..12 {
            test.read(reader, LARGE);
            test.write(publisher, &frame(&[2; 100]));
            test.pass(Duration::from_secs(1));
        }
        test.read(reader, 10);
        test.write(publisher, &frame(&[3; 100]));
        test.ticks(2);
        test.pass(Duration::from_secs(4));
        assert!(!test.net.is_gone(reader), "{personality:?}: it has had 4 s of 5");
        test.pass(Duration::from_secs(3));
        assert!(test.net.is_gone(reader), "{personality:?}");
    }
}
