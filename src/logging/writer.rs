//! The thread that writes the log to one output, so that no other thread ever waits for that
//! output.
//!
//! A pipe whose reader has stalled, a stopped terminal or a hanging disk can block write(2)
//! indefinitely. Non-blocking mode does not help: it is a property of the open file description,
//! which other processes share, and has no effect on regular files. So each output has a thread
//! that may block:
//!
//! ```text
//!   any thread ── line ──► queue ── line ──► writer ── write(2) ──► standard error, or a file
//! ```
//!
//! The thread blocks all signals, and has its own table of descriptors (unshare(2), CLONE_FILES):
//! with a shared table, the kernel counts references in each system call of a reactor. In the
//! sandbox the thread may make only the system calls for writing, and for a log file those for
//! reopening it.
//!
//! On a terminal the thread also draws the lines below the log, see [`footer`](super::footer): what
//! one thread writes does not mix.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use log::Level;

use crate::logging::footer::{Footer, FooterLine, Size};
use crate::logging::line::{Style, message, styled};
use crate::logging::queue::{Order, Queue, Urgency};
use crate::logging::stamp::record;
use crate::sys::files::append;
use crate::sys::poll;
use crate::sys::terminal;
use crate::sys::thread::isolate;
use crate::units::{agreeing, counted};

/// Stack of a writer in bytes: it formats a line and makes system calls.
const STACK_BYTES: usize = 128 << 10;

/// A task of a writer other than writing.
pub enum Task {
    /// Reopen the file by its path.
    Reopen,
    /// Replace the footer by the newest one.
    Footer,
    /// Run this in the thread of the writer, with the folders in which it opens files.
    Run(Work),
    /// End: no more orders will follow.
    End,
}

/// A function that a writer runs with the folders of its file.
type Work = Box<dyn FnOnce(&[PathBuf]) + Send>;

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Task::Reopen => "Reopen",
            Task::Footer => "Footer",
            Task::Run(_) => "Run",
            Task::End => "End",
        })
    }
}

/// An output with its writer.
#[derive(Debug)]
pub struct Output {
    name: String,
    style: Style,
    queue: Arc<Queue<Task>>,
    footer: Arc<NewestFooter>,
}

/// The newest footer, until the writer takes it: an output that stalls costs memory for one only.
type NewestFooter = Mutex<Option<Vec<FooterLine>>>;

/// A function that shows a writer's message about its own output on the others.
pub type Notice = fn(&str, Level, &str);

impl Output {
    /// Returns standard error in this style.
    pub fn stderr(style: Style, notice: Notice) -> anyhow::Result<Output> {
        let open = || {
            // A separate descriptor, so that the lock of std's stderr is not held while a write
            // blocks.
            let stderr = io::stderr().as_fd().try_clone_to_owned()?;
            Ok((File::from(stderr), None))
        };
        Output::start("standard error".to_string(), style, notice, open)
    }

    /// Returns an output that appends lines to a file.
    pub fn file(path: &Path, notice: Notice) -> anyhow::Result<Output> {
        let name = format!("the log file {}", path.display());
        let path = path.to_path_buf();
        let open = move || Ok((append(&path)?, Some(path)));
        Output::start(name, Style::Plain, notice, open)
    }

    /// Starts the writer, which opens its output itself, so that only its own descriptor table has
    /// it.
    fn start(
        name: String,
        style: Style,
        notice: Notice,
        open: impl FnOnce() -> io::Result<(File, Option<PathBuf>)> + Send + 'static,
    ) -> anyhow::Result<Output> {
        let (queue, footer) = (Arc::new(Queue::new()), Arc::new(NewestFooter::default()));
        let (opened, is_open) = mpsc::channel();
        let (queue_of_writer, name_of_writer) = (Arc::clone(&queue), name.clone());
        let footer_of_writer = Arc::clone(&footer);
        let work = move || {
            isolate();
            match open() {
                Ok((file, path)) => {
                    let folders = path.as_deref().map(folders).unwrap_or_default();
                    let writer = Writer {
                        folders,
                        name: name_of_writer,
                        file,
                        path,
                        notice,
                        fault: None,
                        is_cut: false,
                        newest_footer: footer_of_writer,
                        footer: Footer::default(),
                    };
                    let _ = opened.send(Ok(()));
                    writer.run(&queue_of_writer);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        };
        thread::Builder::new()
            .name("log".to_string())
            .stack_size(STACK_BYTES)
            .spawn(work)
            .context("cannot start a thread for the log")?;
        is_open
            .recv()?
            .with_context(|| format!("cannot open {name}"))?;
        Ok(Output {
            name,
            style,
            queue,
            footer,
        })
    }

    /// Returns the name of the output in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Queues a plain line, in the style of the output.
    pub fn line(&self, plain: &str, urgency: Urgency) {
        self.queue.push(styled(self.style, plain), urgency);
    }

    /// Queues the last message of a failed command.
    pub fn message(&self, text: &str) {
        self.queue.push(message(self.style, text), Urgency::Urgent);
    }

    /// Replaces the lines that stay below the log. The output must be a terminal that can move its
    /// cursor.
    pub fn footer(&self, lines: Vec<FooterLine>) {
        let mut newest = self.footer.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.replace(lines).is_none() {
            self.queue.push_task(Task::Footer);
        }
    }

    /// Queues a request to reopen the file.
    pub fn reopen(&self) {
        self.queue.push_task(Task::Reopen);
    }

    /// Queues a function for the writer to run after everything that was queued before. The
    /// receiver gets its result, which is delayed if the output has stalled.
    pub fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&[PathBuf]) -> R + Send + 'static,
    ) -> Receiver<R> {
        let (sender, receiver) = mpsc::channel();
        self.queue.push_task(Task::Run(Box::new(move |folders| {
            let _ = sender.send(work(folders));
        })));
        receiver
    }

    /// Returns the number of lines that were dropped, because they arrived too fast or could not be
    /// written.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped_in_all()
    }

    /// Waits until all orders have been carried out, for a bounded time. Returns whether they have.
    pub fn flush(&self) -> bool {
        self.queue.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.queue.push_task(Task::End);
    }
}

/// The state of the writer thread.
struct Writer {
    name: String,
    file: File,
    /// The path by which the file is reopened; `None` if the output is not a log file.
    path: Option<PathBuf>,
    /// The folders in which the file may be, determined at the start.
    folders: Vec<PathBuf>,
    notice: Notice,
    /// The current fault, while the output refuses lines.
    fault: Option<Fault>,
    /// Whether the last line was written only in part.
    is_cut: bool,
    newest_footer: Arc<NewestFooter>,
    footer: Footer,
}

struct Fault {
    error: io::Error,
    lines: u64,
}

impl Writer {
    fn run(mut self, queue: &Queue<Task>) {
        loop {
            match queue.next() {
                Order::Line(line) => self.write(queue, &line),
                Order::Dropped(count) => {
                    let text = format!(
                        "{} {} dropped here: {} did not accept {} in time",
                        counted(count, "log line"),
                        agreeing(count, "was", "were"),
                        self.name,
                        agreeing(count, "it", "them"),
                    );
                    self.write(queue, &record(Level::Warn, &text));
                }
                Order::Task(Task::End) => return,
                Order::Task(Task::Reopen) => self.reopen(queue),
                Order::Task(Task::Footer) => self.replace_footer(),
                Order::Task(Task::Run(work)) => work(&self.folders),
            }
        }
    }

    /// Writes a line, or counts it as dropped. The first line that is refused is reported on the
    /// other outputs. Before the first line that is accepted again, the number of dropped lines is
    /// written.
    fn write(&mut self, queue: &Queue<Task>, line: &str) {
        if let Some(Fault { error, lines }) = &self.fault {
            let (count, are) = (counted(*lines, "log line"), agreeing(*lines, "is", "are"));
            let text = format!("{count} {are} missing here, which could not be written: {error}");
            if self.write_line(&record(Level::Warn, &text)).is_ok() {
                self.fault = None;
            }
        }
        let Err(error) = self.write_line(line) else {
            return;
        };
        queue.count_dropped();
        match &mut self.fault {
            Some(fault) => fault.lines += 1,
            None => {
                let text = format!(
                    "cannot write to {}: {error}; its lines are dropped until writing works again",
                    self.name
                );
                (self.notice)(&self.name, Level::Error, &text);
                self.fault = Some(Fault { error, lines: 1 });
            }
        }
    }

    /// Writes a line, above the footer if there is one.
    fn write_line(&mut self, line: &str) -> io::Result<()> {
        if self.footer.is_empty() {
            return self.write_text(line);
        }
        let text = self.footer.with_log_line(line, self.size());
        self.write_text(&text)
    }

    /// Writes a text. If the previous one was written only in part, ends its line first.
    fn write_text(&mut self, text: &str) -> io::Result<()> {
        if self.is_cut {
            write_all(&mut self.file, b"\n").map_err(|(error, _)| error)?;
            self.is_cut = false;
        }
        write_all(&mut self.file, text.as_bytes()).map_err(|(error, written)| {
            self.is_cut = written > 0;
            self.footer.forget();
            error
        })
    }

    /// Writes the newest footer in place of the one before. One that cannot be written is not
    /// missed: the next one follows.
    fn replace_footer(&mut self) {
        let newest = &self.newest_footer;
        let newest = newest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lines) = newest {
            let text = self.footer.replaced(lines, self.size());
            let _ = self.write_text(&text);
        }
    }

    /// Returns the size of the output, if it is a terminal that reports it.
    fn size(&self) -> Option<Size> {
        let (columns, rows) = terminal::size(&self.file)?;
        Some(Size { columns, rows })
    }

    fn reopen(&mut self, queue: &Queue<Task>) {
        let Some(path) = &self.path else { return };
        match append(path) {
            Ok(file) => {
                self.file = file;
                self.is_cut = false;
                self.write(queue, &record(Level::Info, "the log file was reopened"));
            }
            Err(error) => {
                let text = format!(
                    "cannot reopen {}: {error}; the log continues in the old file",
                    self.name
                );
                (self.notice)(&self.name, Level::Error, &text);
            }
        }
    }
}

/// Returns the folder of a file, and of a symbolic link also the folder of its target.
fn folders(path: &Path) -> Vec<PathBuf> {
    let here = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let target = fs::canonicalize(path).ok();
    let there = target.as_deref().and_then(Path::parent);
    let there = there.map(Path::to_path_buf);
    [here].into_iter().chain(there).collect()
}

/// Writes all bytes. Waits until the file is writable where it is in non-blocking mode: a log file,
/// or an output that another process has put into that mode. An error has the number of bytes that
/// were written before it.
fn write_all(file: &mut File, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll::writable(&[file.as_fd()], None).map_err(|error| (error, written))?;
            }
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}
