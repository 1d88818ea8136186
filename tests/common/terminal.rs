//! A terminal as a process under test sees it: a pair of pseudo-terminals. Other child processes do
//! not inherit its descriptors: one with a descriptor would keep the terminal open when its last
//! user has ended.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::libc::O_NOCTTY;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The end of the user: keyboard and screen.
    pub master: OwnedFd,
    /// The end that a process gets as its standard input, output or error.
    pub slave: OwnedFd,
}

impl Terminal {
    pub fn new() -> Terminal {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let mut options = File::options();
        options.read(true).write(true).custom_flags(O_NOCTTY);
        let slave = options.open(ptsname_r(&master).unwrap()).unwrap();
        Terminal {
            master: master.into(),
            slave: slave.into(),
        }
    }

    /// Creates a terminal with 50 lines and this number of columns.
    pub fn with_columns(columns: u16) -> Terminal {
        let terminal = Terminal::new();
        let size = Winsize {
            ws_row: 50,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal.slave, size).unwrap();
        terminal
    }

    /// Returns a copy of the process's end, for one of its standard streams.
    pub fn slave(&self) -> OwnedFd {
        self.slave.try_clone().unwrap()
    }

    /// Returns everything that is written to the terminal until the last process that has it ends.
    pub fn shown(self) -> String {
        drop(self.slave);
        let mut shown = Vec::new();
        // Reading after the last user has closed the terminal fails, which is the end.
        let _ = File::from(self.master).read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    }
}

/// Returns the lines of a terminal to which this was written, those included that have left the
/// screen. A line that continues in the next row is one line.
pub fn screen(columns: u16, written: &str) -> Vec<String> {
    let mut terminal = avt::Vt::builder().size(columns.into(), 50).build();
    terminal.feed_str(written);
    let mut lines = terminal.text();
    let used = lines.iter().rposition(|line| !line.is_empty());
    lines.truncate(used.map_or(0, |last| last + 1));
    lines
}
