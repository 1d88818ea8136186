//! upcase: a TCP echo pair for measuring and teaching TCP. One binary for two machines: `serve`
//! sends back every byte, ASCII letters in upper case; `load` drives thousands of verified
//! connections against it; `send` is for a person at a console; `sniff` tells what passes on the
//! wire between them, packet by packet, and judges it.
//!
//! # The words
//!
//! *message*: what a client sends and expects back in upper case. *connection*: one TCP connection
//! and its state. *turn*: one pass of the event loop. *token*: what the kernel hands back for a
//! connection; it carries a slab index and a generation. *pending*: bytes read and converted, not
//! yet accepted by the kernel. *drain*: finish what was promised, take nothing new. *plan*: what a
//! load run is to do. *schedule*: when each message is due. *line*: a place for a connection in a
//! run; when the connection breaks or is replaced, another takes its place. *response*: from the
//! instant at which a message was due to the last byte of its reply. *service*: from its send to
//! there. *lateness*: from when it was due to its send, in two parts: *blocked* (no free
//! connection, or the socket took nothing) and *own* (due and sendable, and not sent yet).
//! *outstanding*: due, and its fate is open. *unanswered*: outstanding when the run ended.
//! *censored*: known to have lasted at least so long. *absence*: a time in which a thread should
//! have worked and was not let run. *stall*: a time without a reply that the times of other replies
//! do not let expect.
//!
//! # The layers
//!
//! Imports point down only; `tests/tidy.rs` reads this picture and holds the code against it. What
//! is marked `*` is pure: no clock, no socket, no randomness of its own. Time comes in as an
//! argument and I/O through the small trait [`stream::Stream`], so that the same code runs on the
//! kernel and on the scripted streams of the tests.
//!
//! ```text
//! 18 main
//! 17 cli/mod
//! 16 cli/args
//! 15 cli/load   cli/send   cli/serve   cli/sniff
//! 14 cli/options   progress   report/text*   report/json*   report/mod*
//! 13 load/verdict/mod*
//! 12 load/verdict/server*   load/verdict/pace*
//! 11 load/verdict/client*   load/verdict/failures*   load/verdict/network*
//! 11 load/verdict/connecting*
//! 10 load/mod   load/verdict/thresholds*
//! 9  load/summary*   load/engine/messages*   load/engine/connections*   load/engine/ways*
//! 9  load/own
//! 8  cli/values   cli/output   load/engine/mod*   capture/mod
//! 7  load/books*   load/targets*   load/assertion*   load/presence*   capture/teller*
//! 6  load/kernel   load/results*   load/probe   server/mod   server/monitor
//! 6  server/engine/accepting*   server/engine/asking*   server/engine/serving*
//! 6  server/engine/waiting*   capture/document*   capture/flows*
//! 5  load/pacer*   load/gauge   load/world*   server/board   server/engine/mod*   capture/retired*
//! 5  capture/transcript*
//! 4  send   load/evidence*   server/patience*   server/kernel   capture/flow*   capture/live
//! 4  capture/dissect*
//! 3  race   load/plan*   load/connection*   load/preflight   load/stalls*   server/keepalive*
//! 3  capture/side*   capture/file   capture/tunnels*
//! 2  logging/mod   reactor/mod   socket   interrupt   load/latency*   load/dial*   load/payload*
//! 2  server/connection*   server/world*   server/watch*   server/http*   server/admission*
//! 2  server/metrics*   capture/other*   capture/analysis*   capture/ip*   capture/links*
//! 2  capture/fragments*   capture/pcap*   capture/pcapng*   capture/calendar*
//! 1  logging/writer   reactor/alarm   reactor/signals   reactor/slots*   reactor/timers*   stream*
//! 1  editor   resolve   load/blocks*   load/schedule*   server/stats*   server/seldom*
//! 1  server/sandbox   capture/segment*   capture/layer*   capture/record*   capture/finding*
//! 1  capture/text*   capture/drops*
//! 0  address*   cli/numbers*   cli/usage   lines
//! 0  server/limits*   server/listener*   load/random*
//! 0  load/sizes*   load/recent*   load/spread*   capture/stream*   units*   layout*   terminal
//! 0  load/row*   load/step*   load/echo*   process   logging/line*   logging/queue   logging/stamp
//! 0  timestamps   server/vitals   server/activation   server/places*
//! 0  causes*   capture/bytes*   capture/linktype*   capture/filter*   capture/input
//! 0  worker   files   capture/networks*   capture/account*   capture/markdown*
//! ```
//!
//! # The boundaries
//!
//! - **reactor | its users**: the reactor says what happened and its user pulls it: no callbacks.
//!   The server and the load generator run on the same one.
//! - **stream**: the rules of edge-triggered readiness, in one place for both ends.
//! - **connection | socket**: the machine decides, a small trait does the system calls.
//! - **socket**: every socket option is set in one file, named as its `setsockopt`.
//! - **limits, plan**: every number that bounds work or memory, with its unit and its reason.
//! - **connection | stats**: a connection ends with one reason; a peer's fault is data.
//! - **listener, admission, watch**: what is known of a queue, who may come in, who has until when.
//! - **logging | its users**: a line is handed over and never waited for; each output has
//!   a thread that writes.
//! - **signals | reactors**: taken once, before the first thread; each reactor gets every one.
//! - **sandbox | threads**: what is opened is opened before; then each thread keeps what its role
//!   needs.
//! - **world | engine**: server and load client need a clock, sockets and timers, and get them as
//!   an argument: the kernel's, or those of the simulations.
//! - **shard | places, board**: shards share the count of the places for clients, and where they
//!   say how they stand; nothing else.
//! - **board | monitor**: the metrics page has a thread apart, and costs a shard one look.
//! - **schedule | pacer | connection | books**: when, to whom, which bytes, what became of it.
//! - **engine | probe**: TCP's round trips and the packets that kernels answer; the probe has a
//!   thread apart, and costs the engine nothing.
//! - **summary | verdict | report**: measuring cannot judge, judging cannot print.
//! - **segment | flow | transcript | document**: bytes, fields, meaning, words, pages.
//! - **address | resolve | race**: what was typed, what this machine knows of it, who answers.
//! - **send**: plain blocking sockets, no I/O code shared with the server: the witness.
//!
//! # The way of a byte through the server
//!
//! Readable, one `recv` into the one scratch buffer, upper case in place, one `send` in the same
//! turn, done. Only what the kernel did not accept is copied, into a pending buffer that the
//! connection owns until it is flushed; meanwhile the connection is not read. So an idle connection
//! owns no buffer, and memory is bounded by design. A connection that spent its budget goes to a
//! queue and continues in the next turn, since an edge is not reported twice. The end of the stream
//! is read when all before it was answered, and closing answers it. Two system calls a message, and
//! one `epoll_wait` shared by the batch.
//!
//! # The way of a message through the load generator
//!
//! Due by the schedule, which exists before the run; given to the connection of its target that has
//! been free the longest, or late until one is free; its bytes made from (seed, connection, offset)
//! straight into the send; its reply checked as it is read, nothing stored; then booked: response =
//! lateness + service. Due sends go before reads, and every send and every read has a clock reading
//! of its own. A message that has no reply is booked as well, at its age, and makes the percentiles
//! above it lower bounds. So at any time: due = verified + mismatched + errored + timed out +
//! unanswered + outstanding.

pub mod address;
pub mod capture;
pub mod causes;
pub mod cli;
pub mod editor;
pub mod files;
pub mod interrupt;
pub mod layout;
pub mod lines;
pub mod load;
pub mod logging;
pub mod process;
pub mod progress;
pub mod race;
pub mod reactor;
pub mod report;
pub mod resolve;
pub mod send;
pub mod server;
pub mod socket;
pub mod stream;
pub mod terminal;
pub mod timestamps;
pub mod units;
pub mod worker;
