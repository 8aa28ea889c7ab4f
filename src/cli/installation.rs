//! `touchline completions` and `touchline manual`: the files that a package installs beside the program. Also the text of `--version`.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use touchline_core::error::{Error, Result};
use touchline_media::plugins;

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  touchline completions bash > /etc/bash_completion.d/touchline
  touchline completions zsh > \"${fpath[1]}/_touchline\"
  touchline completions fish > ~/.config/fish/completions/touchline.fish")]
pub struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManualArgs {
    /// Directory for the pages: touchline.1, touchline-run.1, and so on. It must exist.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes the completions to standard output.
pub fn completions(args: &CompletionArgs) {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "touchline", &mut text);
    // Errors are ignored, because the reader may close the pipe early.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), &text);
}

pub fn manual(args: &ManualArgs) -> Result<()> {
    clap_mangen::generate_to(Cli::command(), &args.out).map_err(|e| {
        Error::output(
            args.out.display().to_string(),
            format!("cannot write: {e}"),
            "give an existing directory with --out",
        )
    })
}

/// What `--version` prints after the name. A commit is known where `TOUCHLINE_COMMIT` was set for the compiler.
pub(super) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let features =
            [("train", cfg!(feature = "train")), ("cuda", cfg!(feature = "cuda")), ("kafka", cfg!(feature = "kafka"))];
        let on: Vec<&str> = features.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect();
        let features = if on.is_empty() { "none".to_owned() } else { on.join(", ") };
        let (version, commit) = (env!("CARGO_PKG_VERSION"), option_env!("TOUCHLINE_COMMIT").unwrap_or("unknown"));
        format!("{version}\ncommit: {commit}\nfeatures: {features}\n{}", plugins::linked_version())
    });
    &VERSION
}
