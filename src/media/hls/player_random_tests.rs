//! Random channels and recordings with random faults, against a model of the seconds that must be output.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::channel::{Account, Channel, Event, Flaw, LIFE, Life, SegmentBehaviour, Server, player, url};
use super::*;
use touchline_core::time::NANOS_PER_SECOND as S;

/// Intact segments at the start of each life, where clients begin.
const SAFE: usize = 8;

fn behaviour(rng: &mut SmallRng) -> SegmentBehaviour {
    let causes = [Cause::NotFound, Cause::ServerError, Cause::NoAnswer, Cause::Forbidden];
    let cause = causes[rng.random_range(0..causes.len())];
    match rng.random_range(0..40) {
        0..3 => SegmentBehaviour::Fails(1, cause),
        3 | 4 => SegmentBehaviour::Lost(cause),
        5 => SegmentBehaviour::Hangs,
        6 => SegmentBehaviour::Cut,
        7 => SegmentBehaviour::Page,
        8 | 9 => SegmentBehaviour::Gap,
        _ => SegmentBehaviour::Fine,
    }
}

fn flaw(rng: &mut SmallRng, before: Option<&Flaw>) -> Flaw {
    // Two consecutive flaws may last ten seconds, which is a stall.
    if before.is_some_and(|before| *before != Flaw::None) {
        return Flaw::None;
    }
    match rng.random_range(0..24) {
        0 => Flaw::Failed(Cause::ServerError),
        1 => Flaw::Failed(Cause::NotFound),
        2 => Flaw::Damaged,
        3 => Flaw::Hangs,
        4 => Flaw::Stale(rng.random_range(1..3)),
        _ => Flaw::None,
    }
}

/// A life of a packager whose media clock jumps at random, announced in the playlist or not. `is_even`: all segments are equally
/// long.
fn life(rng: &mut SmallRng, from_s: u64, target_s: u64, is_even: bool, count: usize, clocks: &mut Vec<u64>) -> Life {
    let mut clock = |rng: &mut SmallRng| clocks.swap_remove(rng.random_range(0..clocks.len())) * 1_000;
    let mut next_s = clock(rng);
    let mut slots = Vec::new();
    for n in 0..count {
        let is_break = n >= SAFE && rng.random_bool(0.06);
        if n >= SAFE && rng.random_bool(if is_break { 0.7 } else { 0.03 }) {
            next_s = clock(rng);
        }
        let seconds = if is_even { target_s } else { rng.random_range(1..=target_s) };
        let behaviour = if n < SAFE { SegmentBehaviour::Fine } else { behaviour(rng) };
        slots.push(super::channel::Slot { seconds, starts_s: next_s, is_break, behaviour });
        next_s += seconds;
    }
    Life { from_s, slots }
}

fn channel(rng: &mut SmallRng) -> Channel {
    let target_s = rng.random_range(2..=6);
    let mut clocks = (1..90).collect::<Vec<_>>();
    // No segment leaves a wide window before it is taken. Of a segment that left, only the target duration is known.
    let is_wide = rng.random_bool(0.6);
    let mut channel = Channel::new(Life { from_s: 0, slots: Vec::new() });
    (channel.target_s, channel.age_s) = (target_s, rng.random_range(3..6) * target_s);
    channel.window = if is_wide { 1_000 } else { rng.random_range(3..7) };
    let count = rng.random_range(SAFE + 4..50);
    channel.lives = vec![life(rng, 0, target_s, !is_wide, count, &mut clocks)];
    if rng.random_bool(0.3) {
        let from_s = channel.lives[0].slots.iter().map(|slot| slot.seconds).sum::<u64>() + rng.random_range(0..3);
        let count = rng.random_range(SAFE..30);
        channel.lives.push(life(rng, from_s, target_s, !is_wide, count, &mut clocks));
    }
    if rng.random_bool(0.2) {
        // All segments are available.
        (channel.lives, channel.age_s) = (channel.lives.drain(..1).collect(), 1_000_000);
        channel.window = 1_000;
    }
    // The first answer is intact.
    channel.flaws.push(Flaw::None);
    for _ in 0..200 {
        let next = flaw(rng, channel.flaws.last());
        channel.flaws.push(next);
    }
    channel
}

/// Identities, lengths and behaviour of the segments that a life must output, from the first taken piece to the last.
fn expected(channel: &Channel, life: usize, media: &[u32], is_last: bool) -> Vec<(u32, u64, SegmentBehaviour)> {
    let base = life as u32 * LIFE;
    let of_life = |id: &&u32| (base..base + LIFE).contains(*id);
    let (first, last) = (media.iter().find(of_life), media.iter().rfind(of_life));
    let (Some(first), Some(last)) = (first, last) else { panic!("life {life} has no output") };
    let slots = &channel.lives[life].slots;
    let end = if is_last { slots.len() as u32 } else { last + 1 - base };
    let all = slots.iter().enumerate().map(|(n, slot)| (base + n as u32, slot.seconds * S, slot.behaviour));
    all.skip((first - base) as usize).take((end - (first - base)) as usize).collect()
}

/// Breaks between the pieces that were output.
fn breaks(channel: &Channel, account: &Account) -> usize {
    let slot = |id: u32| channel.lives[(id / LIFE) as usize].slots[(id % LIFE) as usize];
    let is_between = |pair: &[u32]| {
        let (before, after) = (slot(pair[0]), slot(pair[1]));
        let passed_s = (pair[0]..pair[1]).map(|id| slot(id).seconds).sum::<u64>();
        let is_announced = (pair[0] + 1..=pair[1]).any(|id| slot(id).is_break);
        is_announced || before.starts_s + passed_s != after.starts_s
    };
    account.media.windows(2).filter(|pair| pair[0] / LIFE != pair[1] / LIFE || is_between(pair)).count()
}

/// Plays to the end. Each of `cuts` closes a connection after that many milliseconds, and the next connection continues. The end
/// is [`None`] if the channel ended between two connections.
async fn connections(server: &Arc<Server>, cuts: &[u64]) -> (Option<PlayerEnd>, Vec<Vec<Event>>) {
    let (memory, mut all) = (PlaylistMemory::default(), Vec::new());
    let mut cuts = cuts.iter().map(|ms| Duration::from_millis(*ms));
    loop {
        let cut = cuts.next().unwrap_or(Duration::MAX);
        let (mut player, recorder) = player(server);
        let media = loop {
            match player.load(None, RESPONSE_TIMEOUT).await {
                Ok(media) => break media,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        if media.is_over && !all.is_empty() {
            // A channel that has ended is not a recording.
            return (None, all);
        }
        player.cursor = memory.resume(&url(), &media);
        player.memory = Some(memory.clone());
        let end = tokio::time::timeout(cut, player.run(Some(media))).await;
        // A new connection fails sooner and is retried.
        let is_again = !all.is_empty() && !player.has_media();
        match end {
            Ok(PlayerEnd::Failed(_)) if is_again => player.settle(),
            Ok(end) => {
                all.push(recorder.events());
                return (Some(end), all);
            }
            Err(_) => {}
        }
        all.push(recorder.events());
    }
}

fn check(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let channel = channel(&mut rng);
    let is_recording = channel.age_s == 1_000_000;
    let cuts = if is_recording { 0 } else { rng.random_range(0..3) };
    let cuts = (0..cuts).map(|_| rng.random_range(500..60_000)).collect::<Vec<_>>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (end, events, server) = runtime.block_on(async {
        let server = Server::of(channel.clone());
        let (end, events) = connections(&server, &cuts).await;
        (end, events, server)
    });
    assert!(matches!(end, None | Some(PlayerEnd::Over)), "{end:?}");
    let accounts = events.iter().map(|events| channel.account(events)).collect::<Vec<_>>();
    let media = accounts.iter().flat_map(|account| account.media.iter().copied()).collect::<Vec<_>>();
    assert!(media.windows(2).all(|pair| pair[0] < pair[1]), "each once, in order: {media:?}");
    let lives = channel.lives.len();
    let wanted = (0..lives)
        .flat_map(|life| expected(&channel, life, &media, end.is_some() && life + 1 == lives))
        .collect::<Vec<_>>();
    let is_wide = channel.window == 1_000;
    for (id, _, behaviour) in &wanted {
        let is_output = media.contains(id);
        match behaviour {
            SegmentBehaviour::Fine => assert!(is_output || !is_wide, "{id} is available, but was not output"),
            SegmentBehaviour::Fails(..) => assert!(is_output || !is_wide, "{id} was not retried"),
            _ => assert!(!is_output, "{id} is unavailable, but was output"),
        }
    }
    // The last segment before a restart of the packager may be lost as well, and is then reported as missing.
    let least_ns = wanted.iter().map(|(_, length_ns, _)| length_ns).sum::<u64>();
    let after = |life: usize| {
        let last = media.iter().rfind(|id| **id / LIFE == life as u32).map_or(0, |id| id % LIFE);
        channel.lives[life].slots[last as usize + 1..].iter().map(|slot| slot.seconds * S).sum::<u64>()
    };
    let trailing = (0..if end.is_some() { lives - 1 } else { lives }).map(after).sum::<u64>();
    let elapsed_ns = accounts.iter().map(|account| account.elapsed_ns).sum::<u64>();
    assert!((least_ns..=least_ns + trailing).contains(&elapsed_ns), "{elapsed_ns} of {least_ns} + {trailing} ns");
    for account in accounts.iter().filter(|_| is_wide) {
        assert_eq!(account.breaks.len(), breaks(&channel, account), "{:?}", account.breaks);
    }
    for (id, ..) in wanted.iter().filter(|(_, _, behaviour)| *behaviour == SegmentBehaviour::Fine) {
        assert!(
            server.request_count(&super::channel::name(*id)) <= 1 + cuts.len(),
            "{id} was requested again after it arrived"
        );
    }
}

#[test]
fn every_second_is_media_or_missing_under_random_faults() {
    for seed in 0..500 {
        let outcome = std::panic::catch_unwind(|| check(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
