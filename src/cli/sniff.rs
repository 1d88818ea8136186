//! `upcase sniff`: its options, and the capture that they describe.
//!
//! The transcript is written to standard output, or to standard error if the packets are written to
//! standard output (`--write -`). On a terminal it is as wide as the terminal, and coloured.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, Args, ValueEnum};
use jiff::tz::TimeZone;

use crate::address::PORT_DEFAULT;
use crate::cli::numbers::{integer, positive_duration};
use crate::cli::output::{Named, Outcome};
use crate::cli::values::port;
use crate::echo::Expect;
use crate::reactor::signals::{stop_flag, stop_pipe};
use crate::sniff::analyzer::Analyzer;
use crate::sniff::file::input::Input;
use crate::sniff::print::calendar::Calendar;
use crate::sniff::print::document::{Document, Format as DocumentFormat};
use crate::sniff::print::transcript::Style;
use crate::sniff::{self, PacketOutput, STANDARD_INPUT, Stop};
use crate::sys::{files, terminal};

/// The file name that denotes standard input or standard output.
const STANDARD: &str = "-";

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("source").required(true).args(["interface", "read"]),
    after_help = "With -v, text and Markdown show time stamps (TSval, TSecr), SACK blocks and the \
                  unscaled window of the header as well; JSON always has them."
)]
pub(super) struct SniffArgs {
    /// Capture on this interface, or on `any`; needs CAP_NET_RAW
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// Read this capture file, pcap or pcapng, also compressed by gzip; `-` is standard input
    #[arg(long, value_name = "FILE", value_parser = path())]
    read: Option<PathBuf>,
    /// TCP port of the server [default: 12000 with --interface, all with --read]
    #[arg(long, value_name = "PORT", value_parser = port)]
    port: Option<u16>,
    /// Write the packets of the connections to this file: pcapng for a live capture, the format of
    /// the input with --read; `-` is standard output, with the transcript on standard error
    #[arg(long, value_name = "FILE", value_parser = path())]
    write: Option<PathBuf>,
    /// Stop after this number of packets
    #[arg(long, value_name = "N", value_parser = integer::<u64>(1, u64::MAX))]
    count: Option<u64>,
    /// Stop capturing after this time
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    duration: Option<Duration>,
    /// Stop when this number of connections have ended
    #[arg(long, value_name = "N", value_parser = integer::<u64>(1, u64::MAX))]
    flows: Option<u64>,
    /// Count sequence numbers from the first one of each side, as Wireshark does by default
    #[arg(long)]
    relative: bool,
    /// Show connections and the verdict only, not every segment
    #[arg(long)]
    brief: bool,
    /// Show times in UTC [default: the local time zone: TZ, else /etc/localtime]
    #[arg(long)]
    utc: bool,
    /// Maximum number of payload bytes shown per segment
    #[arg(long, value_name = "BYTES", default_value_t = 60,
          value_parser = integer::<u16>(0, u16::MAX.into()))]
    width: u16,
    /// Expected replies
    #[arg(long, value_enum, default_value_t)]
    expect: Expect,
    /// Exit with 0 for this outcome as well
    #[arg(long, value_enum, value_name = "OUTCOME")]
    allow: Option<Allow>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text for a terminal
    Text,
    /// One JSON object a line
    Json,
    /// A Markdown document
    Markdown,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Allow {
    /// The capture is incomplete, but nothing in it is wrong
    Incomplete,
}

/// Returns a parser of file names. An empty name is accepted here, and refused later with a clearer
/// message.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl SniffArgs {
    /// Checks what depends on several options.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.interface.as_deref() == Some("") {
            return Err("--interface: the name is empty: give an interface, or `any`".to_string());
        }
        for (option, path) in [("--read", &self.read), ("--write", &self.write)] {
            if path
                .as_ref()
                .is_some_and(|path| path.as_os_str().is_empty())
            {
                return Err(format!("{option}: the name is empty: give a file, or `-`"));
            }
        }
        if self.read.is_some() && self.duration.is_some() {
            return Err("--duration needs --interface: a file is read to its end".to_string());
        }
        let to_standard_output = self.write.as_deref().is_some_and(is_standard);
        if to_standard_output && io::stdout().is_terminal() {
            let text = "--write -: standard output is a terminal: redirect it to a file or a pipe";
            return Err(text.to_string());
        }
        Ok(())
    }

    fn document(&self, detailed: bool, output: &File) -> Document {
        let color = terminal::has_color(output);
        let style = Style {
            relative: self.relative,
            width: self.width.into(),
        };
        let (format, columns) = match self.format {
            Format::Text => (DocumentFormat::Text { color }, terminal::columns(output)),
            Format::Json => (DocumentFormat::Json, None),
            Format::Markdown => (DocumentFormat::Markdown, None),
        };
        let calendar = match self.utc {
            true => Calendar::utc(),
            false => Calendar::new(TimeZone::try_system().ok()),
        };
        Document::new(format, style, calendar)
            .detailed(detailed)
            .columns(columns)
    }

    fn stop(&self) -> Stop {
        Stop {
            packets: self.count,
            duration: self.duration,
            flows: self.flows,
        }
    }
}

pub(super) fn run(args: SniffArgs, detailed: bool) -> anyhow::Result<Outcome> {
    let keep = match &args.write {
        None => None,
        Some(path) if is_standard(path) => Some(PacketOutput::To(duplicate(io::stdout())?)),
        // Any other file is opened once the capture has begun, so that a capture that cannot begin
        // does not overwrite it. A FIFO has no content to lose.
        Some(path) if files::is_fifo(path) => {
            let file = files::create(path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            Some(PacketOutput::To(file))
        }
        Some(path) => Some(PacketOutput::At(path.clone())),
    };
    let (output, name) = match &args.write {
        Some(path) if is_standard(path) => (duplicate(io::stderr())?, "standard error"),
        _ => (duplicate(io::stdout())?, "standard output"),
    };
    let document = args.document(detailed, &output);
    let output = Named::new(output, name);
    let stop = args.stop();
    let analyzer = |port| Analyzer::new(document, args.brief, port, output).expecting(args.expect);
    let verdict = match (args.interface, args.read) {
        (Some(interface), _) => {
            let port = args.port.unwrap_or(PORT_DEFAULT);
            sniff::live(&interface, port, keep, stop, analyzer(Some(port)))
        }
        (None, path) => {
            let path = path.unwrap_or_default();
            let analyzer = analyzer(args.port);
            let stopped = stop_flag()?;
            let (input, name) = input(&path)?;
            if keep.as_ref().is_some_and(|keep| keep.is(input.file())) {
                bail!("--write: this file is the one being read: use another one");
            }
            sniff::read(input, &name, keep, (stop, &stopped), analyzer)
        }
    };
    Ok(match verdict? {
        verdict if verdict.is_wrong() => Outcome::Bad,
        verdict if verdict.is_good() || args.allow.is_some() => Outcome::Good,
        _ => Outcome::Inconclusive,
    })
}

/// Opens the file to read, or standard input. Returns its name as well.
fn input(path: &Path) -> anyhow::Result<(Input, String)> {
    let pipe = stop_pipe()?;
    if is_standard(path) {
        let input = Input::standard(pipe).context("cannot read standard input")?;
        return Ok((input, STANDARD_INPUT.to_string()));
    }
    let name = path.display().to_string();
    if path.is_dir() {
        bail!("cannot read {name}: it is a directory");
    }
    let input = Input::open(path, pipe);
    let input = input.with_context(|| format!("cannot read {name}"))?;
    Ok((input, name))
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

/// Returns another descriptor of a standard stream, without a buffer: the transcript has its own.
fn duplicate(stream: impl AsFd) -> anyhow::Result<File> {
    let descriptor = stream.as_fd().try_clone_to_owned();
    Ok(File::from(
        descriptor.context("cannot duplicate a standard stream")?,
    ))
}
