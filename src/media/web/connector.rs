//! The connector of the HTTP client: makes connections according to the source policy.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection as HyperConnection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::guard::connect::{Connection, connect};
use crate::guard::{Refusal, SourcePolicy, Target};

/// Makes every connection of the client, including those of redirects.
#[derive(Clone)]
pub(super) struct Connector(pub Arc<SourcePolicy>);

impl Service<Uri> for Connector {
    type Response = WebConnection;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<WebConnection, Refusal>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let policy = self.0.clone();
        Box::pin(async move {
            let target = Target::parse(&uri.to_string())?;
            Ok(WebConnection(TokioIo::new(connect(&policy, &target).await?)))
        })
    }
}

/// The refusal behind an error of the client, if it is one of the connector's.
pub(super) fn refusal(error: &hyper_util::client::legacy::Error) -> Option<Refusal> {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = source {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal.clone());
        }
        source = error.source();
    }
    None
}

/// A connection of the HTTP client.
pub(super) struct WebConnection(TokioIo<Box<dyn Connection>>);

impl HyperConnection for WebConnection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for WebConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<Result<(), std::io::Error>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for WebConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize, std::io::Error>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
