//! Who may do what over HTTP, as the command line says it.

use std::path::PathBuf;

use clap::Args;
use touchline_serve::config::{AccessFile, TlsFile};
use touchline_serve::run::AccessSettings;

/// Who may do what over HTTP.
#[derive(Clone, Debug, Args)]
pub(super) struct AccessArgs {
    /// File with the bearer token of those who may read and change [env: TOUCHLINE_ADMIN_TOKEN is the token itself].
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// File with the bearer token of those who may only read [env: TOUCHLINE_READ_TOKEN is the token itself].
    #[arg(long, value_name = "FILE")]
    read_token_file: Option<PathBuf>,
    /// Let everyone who reaches the server read. Changes still need the admin token.
    #[arg(long)]
    allow_anonymous: bool,
    /// Serve over TLS with this certificate chain (PEM); read again on SIGHUP.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let everyone who reaches the server change the pack, where no admin token is set.
    #[arg(long)]
    allow_pack_updates: bool,
}

impl AccessArgs {
    /// The configuration file's values where the command line says nothing.
    pub(super) fn fill(&mut self, access: AccessFile, tls: Option<TlsFile>, allow_pack_updates: bool) {
        self.admin_token_file = self.admin_token_file.take().or(access.admin_token_file);
        self.read_token_file = self.read_token_file.take().or(access.read_token_file);
        self.allow_anonymous |= access.allow_anonymous;
        self.allow_pack_updates |= allow_pack_updates;
        if let (None, Some(tls)) = (&self.tls_cert, tls) {
            (self.tls_cert, self.tls_key) = (Some(tls.cert), Some(tls.key));
        }
    }

    pub(super) fn settings(&self) -> AccessSettings {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        AccessSettings {
            admin_token_file: self.admin_token_file.clone(),
            read_token_file: self.read_token_file.clone(),
            allow_anonymous: self.allow_anonymous,
            allow_pack_updates: self.allow_pack_updates,
            tls: tls.map(|(cert, key)| TlsFile { cert, key }),
        }
    }
}
