//! The command line: what was asked for, and the exit code that says what became of it. One file a subcommand.
//! Starting the gateway itself is the caller's business; this only hands over the configuration.

mod check;
mod dead;
mod device;
mod dictionary;
mod http;
mod listing;
mod message;
mod moment;
mod selection;
mod spool;
mod status;
mod table;

use crate::config::{self, Config, Mistakes};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Well,
    /// It failed.
    Failure,
    /// The command line was wrong.
    Usage,
    /// The configuration is wrong (EX_CONFIG of sysexits.h; systemd does not restart then).
    Configuration,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Takes messages from field devices over MQTT and CoAP, keeps them safe, and forwards them over AMQP.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, disable_help_subcommand = true)]
struct Cli {
    /// The configuration; without it the gateway listens on this host only and writes to a file
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C
    #[command(after_help = "SIGHUP reads the configuration again.")]
    Run(RunArgs),
    /// Say everything that is wrong with the configuration, or what it means
    Check,
    /// Make credentials for devices
    #[command(subcommand)]
    Device(device::Device),
    /// Say how the running gateway is: uplinks, rates, what waits
    Status(status::Args),
    /// Look at what waits on the disk for its upstream
    Spool(spool::Args),
    /// Look at the messages that no upstream would take, send them again, or give them up
    Dead(dead::Args),
    /// Train a dictionary for compressed batches on messages
    Dictionary(dictionary::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// What to log: a level (error, warn, info, debug, trace) or module=level, ... [default: info,dimpl=error]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// All that is needed to run the gateway.
#[derive(Clone, Debug)]
pub struct Start {
    /// The configuration. Its warnings have not been shown yet: they belong into the log.
    pub config: Config,
    /// Where it came from, to read it again at SIGHUP; `None` for the defaults.
    pub file: Option<PathBuf>,
    /// `--log`.
    pub log: Option<String>,
}

/// Carries out a command line (with the program's name first). `serve` runs the gateway.
pub fn run(args: impl IntoIterator<Item = OsString>, serve: impl FnOnce(Start) -> Exit) -> Exit {
    run_with(args, &mut io::stdout().lock(), &mut io::stderr(), serve)
}

/// [`run`], writing to the given places. A reader that has gone away is no failure of ours.
pub fn run_with(
    args: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
    serve: impl FnOnce(Start) -> Exit,
) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let _ = write!(err, "{}", error.render());
            return Exit::Usage;
        }
        Err(help) => {
            let _ = write!(out, "{}", help.render());
            return Exit::Well;
        }
    };
    let file = cli.config.as_deref();
    let done = match cli.command {
        Command::Run(args) => match config::load(file) {
            Ok(config) => return serve(Start { config, file: cli.config, log: args.log }),
            Err(mistakes) => refuse(&mistakes, err),
        },
        Command::Check => match config::load(file) {
            Ok(config) => check::show(&config, file, out, err),
            Err(mistakes) => refuse(&mistakes, err),
        },
        Command::Device(device) => device::run(&device, out, err),
        Command::Status(args) => status::show(&args, file, out, err),
        Command::Spool(args) => spool::run(&args, file, out, err),
        Command::Dead(args) => dead::run(&args, file, out, err),
        Command::Dictionary(args) => dictionary::run(&args, out, err),
    };
    match done {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Well,
        Err(error) => {
            let _ = writeln!(err, "error: the answer cannot be written: {error}");
            Exit::Failure
        }
    }
}

fn refuse(mistakes: &Mistakes, err: &mut dyn Write) -> io::Result<Exit> {
    let errors = mistakes.0.iter().filter(|mistake| mistake.severity == config::Severity::Error).count();
    writeln!(err, "{mistakes}\n")?;
    match errors {
        1 => writeln!(err, "The configuration has a mistake.")?,
        _ => writeln!(err, "The configuration has {errors} mistakes.")?,
    }
    Ok(Exit::Configuration)
}
