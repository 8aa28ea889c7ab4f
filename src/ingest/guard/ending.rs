//! Holds back the end of a recording's last segment until GStreamer has somewhere to put it.
//!
//! GStreamer 1.22's HLS client loads in one thread and gives out in another. When a whole recording is loaded before the other
//! thread has opened its first output, which takes one short segment and a busy machine, the client fails: "Can't push EOS on
//! non-exposed pad". So the last byte waits for the first output. Live streams have no last segment, and a longer recording
//! is given out long before.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

/// How long the last byte waits: sound without pictures may be told only by its end.
const LIMIT: Duration = Duration::from_secs(2);

/// Playlists of one session whose last segment is remembered.
const PLAYLISTS_MAX: usize = 64;

type Body = BoxBody<Bytes, hyper::Error>;

/// What is known of a session's first output and last segments.
pub(super) struct Endings {
    is_exposed: watch::Sender<bool>,
    /// Paths of the passage.
    last: Mutex<HashSet<String>>,
}

impl Endings {
    pub fn new() -> Self {
        Self { is_exposed: watch::Sender::new(false), last: Mutex::default() }
    }

    /// For whoever sees the first output.
    pub fn exposed(&self) -> watch::Sender<bool> {
        self.is_exposed.clone()
    }

    /// Takes note of the last segment of `playlist`, whose addresses lead through the passage, if it is a whole recording.
    pub fn learn(&self, playlist: &str) {
        if *self.is_exposed.borrow() {
            return;
        }
        let Some(path) = last_segment(playlist).and_then(|address| address.rsplit_once('/')) else { return };
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        if last.len() < PLAYLISTS_MAX {
            last.insert(format!("/{}", path.1));
        }
    }

    /// `body`, the answer to a request for `path`, with its end held back if that is called for.
    pub fn hold(&self, path: &str, body: Body) -> Body {
        let is_last = || self.last.lock().unwrap_or_else(|e| e.into_inner()).contains(path);
        if *self.is_exposed.borrow() || !is_last() {
            return body;
        }
        let exposed = self.is_exposed.subscribe();
        let (to, from) = mpsc::channel(1);
        // Ends with the connection, which reads; at the latest with the passage, whose runtime it is on.
        tokio::spawn(pass(body, exposed, to));
        StreamBody::new(ReceiverStream::new(from)).boxed()
    }
}

async fn pass(
    mut body: Body,
    mut exposed: watch::Receiver<bool>,
    to: mpsc::Sender<Result<Frame<Bytes>, hyper::Error>>,
) {
    let mut kept = Bytes::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if data.is_empty() => {}
            Ok(Ok(data)) => {
                let before = std::mem::replace(&mut kept, data);
                if !before.is_empty() && to.send(Ok(Frame::data(before))).await.is_err() {
                    return;
                }
            }
            // Trailers: the client reads none.
            Ok(Err(_)) => {}
            Err(error) => {
                // What came before it was sent, too. Whether somebody still reads changes nothing.
                if !kept.is_empty() {
                    let _ = to.send(Ok(Frame::data(kept))).await;
                }
                let _ = to.send(Err(error)).await;
                return;
            }
        }
    }
    if kept.is_empty() {
        return;
    }
    // The end is known by the length as well: it is the last byte that waits.
    let last = kept.split_off(kept.len() - 1);
    if !kept.is_empty() && to.send(Ok(Frame::data(kept))).await.is_err() {
        return;
    }
    tokio::select! {
        // Past the limit it goes on as it may; a sender that is gone says the same.
        _ = timeout(LIMIT, exposed.wait_for(|is_exposed| *is_exposed)) => {}
        () = to.closed() => return,
    }
    // As above.
    let _ = to.send(Ok(Frame::data(last))).await;
}

/// The last address of a playlist that says that it is whole.
fn last_segment(playlist: &str) -> Option<&str> {
    let is_whole = playlist.lines().any(|line| line.starts_with("#EXT-X-ENDLIST"));
    playlist.lines().rev().find(|line| is_whole && !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const WHOLE: &str = "#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:1/a\n#EXTINF:2,\nhttp://127.0.0.1:1/b\n#EXT-X-ENDLIST\n";

    fn body() -> Body {
        let parts = ["one ", "", "two"].map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
        StreamBody::new(tokio_stream::iter(parts)).boxed()
    }

    async fn next(body: &mut Body) -> Option<Bytes> {
        body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
    }

    /// What `path` gives before the first output, and how long all of it takes.
    async fn all(playlist: &str, path: &str) -> (Vec<u8>, Duration) {
        let began = Instant::now();
        let endings = Endings::new();
        endings.learn(playlist);
        let whole = endings.hold(path, body()).collect().await.unwrap();
        (whole.to_bytes().to_vec(), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_byte_waits_for_the_first_output() {
        let endings = Endings::new();
        endings.learn(WHOLE);
        let mut held = endings.hold("/b", body());
        assert_eq!((next(&mut held).await.unwrap(), next(&mut held).await.unwrap()), ("one ".into(), "tw".into()));
        assert!(timeout(LIMIT - Duration::from_millis(1), held.frame()).await.is_err());
        endings.exposed().send_replace(true);
        let began = Instant::now();
        assert_eq!((next(&mut held).await.unwrap(), next(&mut held).await), ("o".into(), None));
        assert!(began.elapsed().is_zero());
        // From now on nothing waits.
        assert_eq!(next(&mut endings.hold("/b", body())).await.unwrap(), "one ");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_else_waits_and_nothing_for_ever() {
        let whole = b"one two".to_vec();
        assert_eq!(all(WHOLE, "/b").await, (whole.clone(), LIMIT));
        assert_eq!(all(WHOLE, "/a").await, (whole.clone(), Duration::ZERO));
        assert_eq!(all(&WHOLE.replace("#EXT-X-ENDLIST", "#"), "/b").await, (whole, Duration::ZERO));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let endings = Endings::new();
        for n in 0..1000 {
            endings.learn(&format!("#EXTM3U\n#EXT-X-ENDLIST\nhttp://127.0.0.1:1/{n}\n"));
        }
        assert_eq!(endings.last.lock().unwrap().len(), PLAYLISTS_MAX);
    }
}
