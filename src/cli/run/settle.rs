//! The command line over the configuration file, at the start and whenever the file is read again.

use std::collections::HashSet;
use std::path::Path;

use super::RunArgs;
use touchline_core::error::{Error, Result};
use touchline_media::guard::SourcesFile;
use touchline_serve::config;
use touchline_serve::config::{ConfigFile, StreamFile, StreamSettings};
use touchline_serve::publish::hub::Origin;
use touchline_serve::run::{Fixed, Reading};

/// What a run is made from.
pub(super) struct Plan {
    /// With the file's values where the command line says nothing.
    pub(super) args: RunArgs,
    /// Of the file and of the command line, in this order.
    pub(super) streams: Vec<(StreamSettings, Origin)>,
    /// What sources given over the API may be.
    pub(super) sources: SourcesFile,
    pub(super) vote: touchline_core::vote::VoteConfig,
    pub(super) fixed: Fixed,
}

/// Settles what to run.
///
/// # Errors
/// [`Error::Usage`] naming what cannot be.
pub(super) fn settle(mut args: RunArgs) -> Result<Plan> {
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    args.shard = args.shard.or(file.shard);
    let Reading { streams, vote, fixed } = reading(&args, &file)?;
    args.pack = args.pack.or(file.pack);
    args.listen = args.listen.or(file.listen);
    args.jsonl = args.jsonl.or(file.jsonl);
    args.shadow = args.shadow.or(file.shadow);
    args.pack_root = args.pack_root.or(file.pack_root);
    args.state = args.state.or(file.state);
    args.max_streams = args.max_streams.or(file.max_streams);
    args.watch_pack |= file.watch_pack;
    args.adaptive |= file.adaptive;
    args.access.fill(file.access, file.tls, file.allow_pack_updates);
    let own: Vec<StreamFile> = args
        .uris
        .iter()
        .map(|given| {
            let (id, uri) = split_name(given);
            StreamFile { id: id.map(Into::into), uri: uri.to_owned(), ..StreamFile::default() }
        })
        .collect();
    let taken: HashSet<String> = streams.iter().map(|s| s.id.clone()).collect();
    let own = ours(&args, config::streams_beside(complete(&args, own), taken)?);
    let config = streams.into_iter().map(|s| (s, Origin::Config));
    let streams: Vec<_> = config.chain(own.into_iter().map(|s| (s, Origin::CommandLine))).collect();
    if streams.is_empty() && args.listen.as_deref() == Some("off") {
        let how = "give a URI or a path, as in `touchline run rtsp://camera.example/live`, or --config FILE";
        return Err(Error::Usage(format!("nothing to watch, and no address to be told over; {how}")));
    }
    Ok(Plan { args, streams, sources: file.sources, vote, fixed })
}

/// Reads the configuration file again; `args` are those of the start, with the file's values of then.
///
/// # Errors
/// [`Error::Usage`] naming what cannot be.
pub(super) fn read_again(args: &RunArgs) -> Result<Reading> {
    let path = args.config.as_deref().ok_or_else(|| Error::Usage("there is no configuration file".into()))?;
    reading(args, &ConfigFile::read(path)?)
}

fn reading(args: &RunArgs, file: &ConfigFile) -> Result<Reading> {
    let mut vote = file.vote;
    vote.window = args.vote_window.or(vote.window);
    vote.stride = args.vote_stride.or(vote.stride);
    let vote = vote.settings().map_err(Error::Usage)?;
    // Ids are found before others' streams are left out: they must be the same in every process that shares the file.
    let streams = ours(args, config::streams(complete(args, file.stream.clone()))?);
    for stream in &streams {
        stream.vote.over(vote).map_err(|e| Error::Usage(format!("stream {:?}: {e}", stream.id)))?;
    }
    Ok(Reading { streams, vote, fixed: fixed(file) })
}

/// Streams with what the command line says of all of them.
fn complete(args: &RunArgs, mut streams: Vec<StreamFile>) -> Vec<StreamFile> {
    for stream in &mut streams {
        // The hub knows them for good; until then, and when that is never, they are masked for a while.
        drop(touchline_core::redact::remember(&stream.uri));
        stream.pipeline = args.pipeline.clone().or(stream.pipeline.take());
        stream.latency_ms = args.latency_ms.or(stream.latency_ms);
        stream.rtsp_transport = args.rtsp_transport.or(stream.rtsp_transport);
        stream.isolation = args.isolation.or(stream.isolation);
    }
    streams
}

/// Those that fall to this process.
fn ours(args: &RunArgs, mut streams: Vec<StreamSettings>) -> Vec<StreamSettings> {
    streams.retain(|stream| args.shard.is_none_or(|shard| shard.takes(&stream.id)));
    streams
}

/// The keys of the file that count only at the start.
fn fixed(file: &ConfigFile) -> Fixed {
    let shown = |value: &dyn std::fmt::Debug| format!("{value:?}");
    Fixed::from([
        ("pack", shown(&file.pack)),
        ("listen", shown(&file.listen)),
        ("jsonl", shown(&file.jsonl)),
        ("shadow", shown(&file.shadow)),
        ("pack_root", shown(&file.pack_root)),
        ("watch_pack", shown(&file.watch_pack)),
        ("adaptive", shown(&file.adaptive)),
        ("allow_pack_updates", shown(&file.allow_pack_updates)),
        ("access", shown(&file.access)),
        ("tls", shown(&file.tls)),
        ("sources", shown(&file.sources)),
        ("state", shown(&file.state)),
        ("max_streams", shown(&file.max_streams)),
        ("shard", shown(&file.shard)),
    ])
}

/// `NAME=URI` → both; a `=` behind a `/`, `:` or `?` belongs to the URI, and so does one in the name of a file.
fn split_name(given: &str) -> (Option<&str>, &str) {
    match given.split_once('=') {
        Some((name, uri)) if !name.contains(['/', ':', '?']) && !Path::new(given).exists() => (Some(name), uri),
        _ => (None, given),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: RunArgs,
    }

    fn plan(arguments: &[&str]) -> Result<Plan> {
        settle(Cli::try_parse_from(["run"].iter().chain(arguments)).unwrap().args)
    }

    #[test]
    fn names_are_told_from_uris() {
        for (given, name, uri) in [
            ("court=rtsp://cam/live?a=b", Some("court"), "rtsp://cam/live?a=b"),
            ("rtsp://cam/live?a=b", None, "rtsp://cam/live?a=b"),
            ("srt://:9000?mode=listener", None, "srt://:9000?mode=listener"),
            ("testsrc://?seconds=3", None, "testsrc://?seconds=3"),
            ("a=b.mp4", Some("a"), "b.mp4"),
            ("dir/a=b.mp4", None, "dir/a=b.mp4"),
        ] {
            assert_eq!(split_name(given), (name, uri), "{given}");
        }
    }

    #[test]
    fn without_streams_somebody_must_be_able_to_add_one() {
        assert!(plan(&[]).unwrap().streams.is_empty(), "the page and the API are there by default");
        assert!(plan(&["--listen", "off"]).err().unwrap().to_string().contains("nothing to watch"));
    }

    #[test]
    fn parts_of_a_file_are_the_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("touchline.toml");
        let text: String = (0..8).map(|n| format!("[[stream]]\nuri = \"rtsp://h/{n}\"\n")).collect();
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let ids = |shard: &str| -> Vec<String> {
            plan(&["--config", path, "--shard", shard]).unwrap().streams.into_iter().map(|(s, _)| s.id).collect()
        };
        let mut both = [ids("0/2"), ids("1/2")].concat();
        both.sort();
        let mut all = ids("0/1");
        all.sort();
        assert_eq!((both, all.len()), (all, 8));
    }
}
