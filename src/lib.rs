//! upcase: a TCP echo pair for measuring and teaching TCP, in one binary for two machines. `serve`
//! returns every byte that it receives, ASCII letters in upper case; `load` drives thousands of
//! verified connections against it; `send` is the console client; `sniff` turns the packets of the
//! conversation into an annotated transcript and checks them.
//!
//! `examples/reactor.rs` shows the event loop in its smallest correct form: read it first.
//!
//! # Terms
//!
//! - *message*: bytes that a client sends and expects back in upper case.
//! - *connection*: one TCP connection and its state.
//! - *turn*: one iteration of the event loop.
//! - *token*: the value that epoll returns for a source; it holds a slab index and a generation.
//! - *pending*: bytes that were read and converted, and that the kernel has not accepted yet.
//! - *drain*: finish accepted work and accept no new work.
//! - *plan*: what a load run does. *schedule*: when each message is due.
//! - *profile*: the rates of a schedule that change during the run. *stage*: a part of a profile: a
//!   constant rate, a pause or a ramp; counted from 1 for a person.
//! - *line*: a slot of a run for a connection; when the connection fails or is replaced, another
//!   one takes its place.
//! - *response time*: from the instant at which a message was due to the last byte of its reply.
//!   *service time*: from its send to there. *lateness*: from the instant at which it was due to
//!   its send; it has two parts: *blocked* (no connection was free, or the socket was full) and
//!   *own* (the message could be sent, and was not sent yet).
//! - *outstanding*: due and not answered yet. *unanswered*: outstanding when the run ended.
//!   *censored*: known only to exceed a value.
//! - *absence*: a time in which a thread had work and did not run. *stall*: a time without a reply
//!   that is longer than the other replies' times let expect.
//! - *segment*: a TCP segment. *flow*: both directions of one connection. *transcript*: a flow in
//!   words. *shard*: one of several reactors that listen on the same port.
//!
//! # Folders
//!
//! | folder | what is inside |
//! |---|---|
//! | `reactor` | the event loop on mio: poll, timers, signals, the slab of connections |
//! | `sys` | what only Linux has: sockets with their options, timerfd, timestamps, BPF, sandbox |
//! | `server` | the echo server: engine, admission, deadlines, metrics |
//! | `load` | the load generator: plan, engine, latencies, results, judgement |
//! | `send` | the console client |
//! | `sniff` | captures: files, packets, flows, printed transcripts |
//! | `address` | addresses as typed, name resolution, connecting to the first that answers |
//! | `record` | load runs in directories: written while they go on, read, merged |
//! | `report` | the results of a load run as text, JSON, tables and pages |
//! | `compare` | two sets of recorded runs: ratios with their intervals |
//! | `search` | the search for the highest rate that holds an objective |
//! | `sweep` | runs at several rates, as a curve |
//! | `cli` | the command line, one file a command |
//! | `logging` | the log, which never blocks its callers |
//!
//! # Layers
//!
//! Imports point down only; `tests/tidy/` reads this picture and checks the code against it.
//! Files marked `*` are pure: they have no clock, no socket and no randomness of their own. Time is
//! an argument, and I/O goes through small traits such as [`stream::Stream`], so that the same code
//! runs on the kernel and on the simulated streams of the tests.
//!
//! ```text
//! 22 main
//! 21 cli/mod
//! 20 cli/args
//! 19 cli/compare  cli/duel
//! 18 cli/comparison  cli/load/mod  cli/load/search  cli/load/sweep  compare/json*
//! 18 compare/markdown*  compare/page*  compare/text*
//! 17 cli/load/command  cli/load/series  cli/report  compare/mod*  search/json*  search/text*
//! 17 sweep/page*  sweep/text*
//! 16 cli/load/many  cli/load/measure  compare/differences*  compare/duel*  report/page/tables*
//! 16 report/text*  search/report*  sweep/json*
//! 15 cli/load/args  compare/run*  report/ci*  report/json*  report/page/curve*  report/page/mod*
//! 15 report/page/verdict*  report/stages*  search/trial*  sweep/mod*
//! 14 load/judge/verdict*  report/progress/mod
//! 13 load/judge/pace*  load/judge/server*  record/interval_writer  record/merge*
//! 13 report/progress/view*
//! 12 cli/sniff  load/judge/client*  load/judge/connecting*  load/judge/network*  record/reader
//! 12 record/writer  report/progress/connecting
//! 11 load/judge/failures*  load/judge/thresholds*  load/mod  record/run_file  report/page/plan*
//! 11 report/page/timeline*  sniff/mod
//! 10 load/engine/connections*  load/engine/messages*  load/engine/paths*  load/engine/stages*
//! 10 load/results/summary*  record/course  record/observer  report/csv*  report/page/heatmap*
//! 10 report/page/join*  report/progress/plain*  sniff/analyzer*
//! 9  load/engine/mod*  record/interval*  record/series*  report/page/columns*
//! 9  report/progress/figures*  sniff/print/document*
//! 8  load/engine/profile_stages*  load/results/recorder*  sniff/flow/flows*  sniff/print/json*
//! 7  load/engine/presence*  load/judge/assertion*  load/results/stages*  load/results/targets*
//! 7  report/outcomes*  sniff/flow/judge*  sniff/flow/retired*  sniff/flow/reuse*
//! 7  sniff/print/results*  sniff/print/transcript*
//! 6  cli/serve  load/engine/kernel  load/own_server  load/results/mod*  sniff/flow/mod*
//! 5  load/engine/world*  load/probe/mod  server/engine/accepting*  server/engine/probing*
//! 5  server/engine/serving*  server/engine/timeouts*  server/mod  sniff/flow/close*
//! 5  sniff/flow/exchange*  sniff/flow/handshake*
//! 4  cli/send  load/results/evidence*  record/hlog*  search/strategy*  server/engine/mod*
//! 4  sniff/flow/sides*  sniff/live
//! 3  cli/given*  cli/options  cli/plan  load/engine/pacer*  load/latency/encoded*
//! 3  load/results/stalls*  report/hgrm*  report/page/words*  report/percentiles*
//! 3  search/database*  search/mod*  send/mod  server/deadlines/mod*  server/engine/kernel
//! 3  server/metrics/mod  sniff/file/mod  sniff/flow/observation*  sniff/flow/side*
//! 3  sniff/packet/mod*  sniff/packet/tunnels*
//! 2  address/happy_eyeballs  cli/plan_text*  cli/values  compare/condition*
//! 2  load/engine/connection*  load/engine/dialer*  load/latency/mod*  load/plan/mod*
//! 2  logging/mod  reactor/interrupt  reactor/mod  report/page/chart*  report/progress/layout*
//! 2  search/goal*  server/admission*  server/connection*  server/keepalive*
//! 2  server/metrics/page*  server/metrics/snapshots  sniff/file/pcap*  sniff/file/pcapng*
//! 2  sniff/flow/analysis*  sniff/packet/fragments*  sniff/packet/ip*  sniff/packet/links*
//! 2  sniff/print/calendar*
//! 1  address/resolve  cli/numbers*  compare/metric*  load/latency/blocks*  load/plan/payload*
//! 1  load/plan/schedule*  load/preflight  logging/writer  reactor/signals  record/description
//! 1  report/grid*  report/page/scale*  report/progress/sparkline*  send/editor
//! 1  server/deadlines/timer_wheel*  server/engine/world*  server/listener*  server/log_limit*
//! 1  server/metrics/http*  server/stats*  sniff/file/drops*  sniff/file/input
//! 1  sniff/file/record*  sniff/flow/finding*  sniff/flow/stream*  sniff/packet/layer*
//! 1  sniff/packet/segment*  sniff/print/text*  sys/cpu_sample  sys/packet_socket  sys/sandbox
//! 1  sys/socket
//! 0  address/mod*  causes*  cli/output  cli/usage  compare/ratio*  echo*
//! 0  load/engine/inline_queue*  load/judge/mod  load/latency/percentile*  load/latency/recent*
//! 0  load/latency/statistics*  load/plan/profile*  load/plan/random*  load/plan/sizes*
//! 0  load/probe/icmp*  load/results/pairs*  load/results/step*  logging/footer*  logging/line*
//! 0  logging/queue  logging/stamp  reactor/slots*  reactor/timers*  record/mod*  report/columns*
//! 0  report/mod*  report/page/escape*  send/lines  server/connection_limit*  server/limits*
//! 0  sniff/file/foreign*  sniff/file/linktype*  sniff/flow/account*  sniff/packet/bytes*
//! 0  sniff/packet/networks*  sniff/print/markdown*  sniff/print/mod  stream*  sys/bpf*
//! 0  sys/descriptor_limit  sys/errno*  sys/files  sys/interface  sys/machine  sys/mod
//! 0  sys/monotonic  sys/poll  sys/process_stats  sys/snmp  sys/sysctl  sys/systemd  sys/terminal
//! 0  sys/thread  sys/timerfd  sys/timestamps  sys/worker  units*
//! ```
//!
//! # Boundaries
//!
//! - **reactor | users**: the reactor returns events and its users pull them, without callbacks.
//!   Server and load generator run on the same reactor.
//! - **stream**: the rules of edge-triggered readiness, in one place for both ends.
//! - **connection | socket**: the state machine decides, a small trait makes the system calls.
//! - **sys**: each socket option is set in one place, under the name that setsockopt(2) knows.
//! - **limits, plan**: every number that bounds work or memory, with its unit and its reason.
//! - **connection | stats**: a connection ends with one reason; a fault of the peer is data.
//! - **listener, admission, deadlines**: the state of the accept queue, the limits on clients, and
//!   the timeouts.
//! - **logging | callers**: a line is queued and never waited for; each output has a thread that
//!   writes.
//! - **signals | reactors**: handlers are installed once, before the first thread; each reactor
//!   gets every signal.
//! - **sandbox | threads**: files and sockets are opened first; then each thread keeps the system
//!   calls that its role needs.
//! - **world | engine**: server and load engine get a clock, sockets and timers as an argument: the
//!   kernel's, or those of the simulations.
//! - **shard | connection_limit, snapshots**: shards share the limit on clients, and the place
//!   where they put snapshots; nothing else.
//! - **snapshots | metrics**: the metrics server has a thread of its own; a request costs a shard
//!   one snapshot.
//! - **schedule | pacer | connection | recorder**: when, on which connection, which bytes, with
//!   which outcome.
//! - **engine | probe**: TCP's round trips, and packets that the targets' kernels answer; the probe
//!   has a thread of its own and costs the engine nothing.
//! - **results | judge | report**: measuring does not judge, judging does not print.
//! - **run | comparison**: a run gives one value for each metric; samples of different runs are
//!   never put together.
//! - **segment | flow | transcript | document**: bytes, fields, meaning, words, pages.
//! - **send**: blocking sockets and no reading or writing code in common with the server: the
//!   independent witness.
//!
//! # The path of a byte through the server
//!
//! Readable: one `recv` into the reactor's scratch buffer, upper case in place, one `send` in the
//! same turn. Only what the kernel did not accept is copied into a pending buffer, which the
//! connection owns until it is flushed; meanwhile the connection is not read. So an idle connection
//! owns no buffer, and memory is bounded by design. A connection that spent its budget is queued
//! and continues in the next turn, because edge-triggered epoll does not report it again. The end
//! of the stream is read after everything before it was answered, and is answered by closing. A
//! message costs two system calls and its part of the poll that the whole batch shares.
//!
//! # The path of a message through the load generator
//!
//! Due by the schedule, which exists before the run; assigned to the connection of its target that
//! has been free longest, or late until one is free; its bytes computed from (seed, connection,
//! offset) into the send; its reply verified as it is read, nothing stored; then recorded: response
//! time = lateness + service time. Messages that are due are sent before replies are read, and each
//! send and each read has a clock reading of its own. A message without a reply is recorded at its
//! age and makes the percentiles above that lower bounds. At any time:
//! due = verified + mismatched + errored + timed out + unanswered + outstanding.

pub mod address;
pub mod causes;
pub mod cli;
pub mod compare;
pub mod echo;
pub mod load;
pub mod logging;
pub mod reactor;
pub mod record;
pub mod report;
pub mod search;
pub mod send;
pub mod server;
pub mod sniff;
pub mod stream;
pub mod sweep;
pub mod sys;
pub mod units;
